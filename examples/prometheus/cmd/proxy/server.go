package main

import (
	"errors"
	"fmt"
	"strings"

	prom "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/prometheus"
)

// server forwards the hosts of args, host=target each.
func server(addr, metrics string, args []string) (*hostproxy.Server, error) {
	if len(args) == 0 {
		return nil, errors.New("no routes: want one or more arguments such as app.localhost=localhost:4000")
	}
	r := new(hostproxy.Router)
	for _, arg := range args {
		host, target, ok := strings.Cut(arg, "=")
		u, err := hostproxy.NewUpstream(target)
		if !ok || err != nil {
			return nil, fmt.Errorf("argument %q: want host=target, such as app.localhost=localhost:4000 (%v)", arg, err)
		}
		if err := r.Set(host, u); err != nil {
			return nil, err
		}
	}
	m, err := prometheus.New(r, prometheus.Options{})
	if err != nil {
		return nil, err
	}
	r.Begin, r.Observe = m.Begin, m.Observe
	registry := prom.NewRegistry()
	registry.MustRegister(m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &hostproxy.Server{Router: r, Listeners: []hostproxy.Listener{
		{Addr: addr, Role: hostproxy.RolePlain},
		{Addr: metrics, Role: hostproxy.RoleInternal, Handler: promhttp.HandlerFor(registry, promhttp.HandlerOpts{})},
	}}, nil
}
