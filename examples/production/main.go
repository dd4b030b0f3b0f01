// Command production is the front of a company's sites in one program: an app
// on two targets, an API with streams and WebSockets, an area behind passwords,
// and static files. It has an access log that logrotate may rotate, metrics and
// a status page for this machine, and takes over from itself at SIGHUP: with a
// new binary, other flags of the unit or another state of the maintenance file,
// and without a failed request.
//
//	go run . -domain example.localhost -https :8443 -http :8080 -log access.log
//
// site.go has the routes. ../service has the units for systemd.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/prometheus"
)

func main() {
	httpsAddr, httpAddr := flag.String("https", ":443", "`address` for HTTPS"), flag.String("http", ":80", "`address` for redirects")
	internal := flag.String("internal", "localhost:9109", "`address` of /metrics and /status")
	logFile := flag.String("log", "/var/log/site/access.log", "`file` of the access log")
	flag.Parse()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	var r hostproxy.Router
	m, err1 := prometheus.New(&r, prometheus.Options{})
	// logrotate renames the file, then reloads the service
	file, err2 := os.OpenFile(*logFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	sockets, err3 := hostproxy.Inherited()
	if err := errors.Join(err1, err2, err3, routes(&r)); err != nil {
		log.Fatal(err)
	}
	access := hostproxy.AccessLog(slog.New(slog.NewJSONHandler(file, nil)))
	r.Begin, r.Observe = m.Begin, func(x *hostproxy.Exchange) { m.Observe(x); access(x) }
	registry, mux := prom.NewRegistry(), http.NewServeMux()
	registry.MustRegister(m)
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.Handle("/status", hostproxy.StatusHandler(&r))

	s := &hostproxy.Server{Router: &r, Sockets: sockets, Addr: *httpsAddr, HTTPAddr: *httpAddr, HandOverTimeout: time.Hour,
		Listeners: []hostproxy.Listener{{Addr: *internal, Role: hostproxy.RoleInternal, Handler: mux}}}
	go func() {
		for range hup {
			if err := s.HandOver(ctx, nil); err != nil {
				log.Print(err)
			}
		}
	}()
	if err := s.ListenAndServe(ctx); err != nil {
		log.Fatal(err)
	}
}
