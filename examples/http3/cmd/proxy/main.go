// Command proxy runs a proxy for one target, over HTTP/1.1, HTTP/2 and HTTP/3.
package main

import (
	"context"
	"flag"
	"log"
	"os/signal"
	"syscall"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/http3"
)

func main() {
	host := flag.String("host", "app.localhost", "host of the route")
	to := flag.String("to", "localhost:4006", "its target")
	addr := flag.String("addr", ":8443", "address for HTTPS, over TCP and UDP")
	plain := flag.String("http", ":8080", "address for redirects")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("%q: want flags only", flag.Args())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	s, err := server(*host, *to, *addr, *plain)
	if err != nil {
		log.Fatal(err)
	}
	if err := s.ListenAndServe(ctx); err != nil {
		log.Fatal(err)
	}
}

// server returns the proxy's server.
func server(host, to, addr, plain string) (*hostproxy.Server, error) {
	u, err := hostproxy.NewUpstream(to)
	if err != nil {
		return nil, err
	}
	r := new(hostproxy.Router)
	if err := r.Set(host, u); err != nil {
		return nil, err
	}
	return &hostproxy.Server{
		Router: r, Addr: addr, HTTPAddr: plain,
		Companions: []hostproxy.Companion{&http3.Server{Addr: addr}},
	}, nil
}
