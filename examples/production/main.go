// Command production is the front of a company's sites in one program: an app
// on two targets, an API with streams and WebSockets, an area behind passwords,
// and static files. It has an access log that logrotate may rotate, metrics and
// a status page for this machine, and takes over from itself at SIGHUP: with a
// new binary, other flags of the unit or another state of the maintenance file,
// and without a failed request.
//
//	go run . -domain example.localhost -https :8443 -http :8080 -log access.log \
//		-password "$(htpasswd -nbB ops secret | cut -d: -f2)"
//
// main.go and site.go are at most 90 lines without comments. site.go has the
// routes. ../service has the units for systemd: with Server.Run, a program
// takes the sockets of a socket unit, and "systemctl reload" sends SIGHUP.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/prometheus"
)

func main() {
	httpsAddr := flag.String("https", ":443", "`address` for HTTPS")
	httpAddr := flag.String("http", ":80", "`address` for redirects")
	internal := flag.String("internal", "localhost:9109", "`address` of /metrics and /status")
	logFile := flag.String("log", "/var/log/site/access.log", "`file` of the access log")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("%q: want flags only", flag.Args())
	}

	var r hostproxy.Router
	// logrotate renames the file, then reloads the service
	file, err1 := os.OpenFile(*logFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	m, err2 := prometheus.New(&r, prometheus.Options{Observe: hostproxy.AccessLog(slog.New(slog.NewJSONHandler(file, nil)))})
	if err := errors.Join(err1, err2, routes(&r)); err != nil {
		log.Fatal(err)
	}
	r.Begin, r.Observe = m.Begin, m.Observe

	mux := http.NewServeMux()
	mux.Handle("/metrics", m.Handler())
	mux.Handle("/status", hostproxy.StatusHandler(&r))

	s := &hostproxy.Server{
		Router: &r, Addr: *httpsAddr, HTTPAddr: *httpAddr, HandOverTimeout: time.Hour,
		Listeners: []hostproxy.Listener{{Addr: *internal, Role: hostproxy.RoleInternal, Handler: mux}},
	}
	if err := s.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
