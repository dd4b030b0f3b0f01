// Command proxy forwards hosts to targets, over plain HTTP, and serves metrics
// on another address:
//
//	go run -C examples/prometheus ./cmd/proxy app.localhost=localhost:4000 api.localhost=localhost:4001
//	curl http://localhost:9100/metrics
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"

	prom "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/prometheus"
)

func main() {
	addr, metrics := flag.String("addr", ":8080", "address to serve on, in plain HTTP"), flag.String("metrics", "localhost:9100", "address to serve metrics on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := server(*addr, *metrics, flag.Args())
	if err == nil {
		err = s.Serve(ctx, nil, nil)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// server returns a server that forwards the hosts of args, each host=target.
func server(addr, metrics string, args []string) (*hostproxy.Server, error) {
	if len(args) == 0 {
		return nil, fmt.Errorf("no routes: want one or more arguments such as app.localhost=localhost:4000")
	}
	r, registry := new(hostproxy.Router), prom.NewRegistry()
	for _, arg := range args {
		host, target, ok := strings.Cut(arg, "=")
		u, err := hostproxy.NewUpstream(target)
		if err == nil {
			err = r.Set(host, u)
		}
		if !ok || err != nil {
			return nil, fmt.Errorf("argument %q: want host=target, such as app.localhost=localhost:4000 (%v)", arg, err)
		}
	}
	m, err := prometheus.New(r, prometheus.Options{})
	if err != nil {
		return nil, err
	}
	r.Begin, r.Observe = m.Begin, m.Observe
	registry.MustRegister(m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &hostproxy.Server{Router: r, Listeners: []hostproxy.Listener{
		{Addr: addr, Role: hostproxy.RolePlain},
		{Addr: metrics, Role: hostproxy.RoleInternal, Handler: promhttp.HandlerFor(registry, promhttp.HandlerOpts{})},
	}}, nil
}
