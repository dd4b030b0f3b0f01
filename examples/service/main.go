// Command service runs a proxy as a systemd service. It takes its sockets from
// hostproxy-https.socket and hostproxy-http.socket, or opens its own. It
// tells systemd when it is ready, and keeps the watchdog content. On
// SIGHUP it hands over to a new process, which runs the program that is
// installed at that time. No connection is lost.
//
//	go build -o /usr/local/bin/hostproxy ./examples/service
//	cp examples/service/*.service examples/service/*.socket /etc/systemd/system/
//	systemctl enable --now hostproxy-https.socket hostproxy-http.socket hostproxy.service
//
//	go build -o hostproxy.new ./examples/service && mv hostproxy.new /usr/local/bin/hostproxy
//	systemctl reload hostproxy
//
// The routes are arguments in hostproxy.service. A changed route counts only
// after a restart of the service.
package main

import (
	"context"
	"flag"
	"log"
	"time"

	"github.com/hostproxy/hostproxy"
)

func main() {
	httpsAddr := flag.String("https", ":443", "`address` for HTTPS, if no socket called https is inherited")
	httpAddr := flag.String("http", ":80", "`address` for redirects to HTTPS, if no socket called http is inherited")
	stay := flag.Duration("stay", time.Hour, "how long WebSockets go on in a process that has handed over; negative means without limit")
	flag.Parse()

	var r hostproxy.Router
	if err := route(&r, flag.Args()); err != nil {
		log.Fatal(err)
	}
	s := &hostproxy.Server{Router: &r, Addr: *httpsAddr, HTTPAddr: *httpAddr, HandOverTimeout: *stay}
	if err := s.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
