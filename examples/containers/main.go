// Command containers forwards to services in Docker or Podman containers.
//
// With the proxy on the host, publish each service on a loopback port (docker run -p 127.0.0.1:4006:8000 blog) and
// name that port:
//
//	go run ./examples/containers -route blog.localhost=localhost:4006
//
// With the proxy in a container too, "localhost" is the proxy's own container, where nobody listens: every request gets
// 502, and the record of the exchange holds an *Error with Op "dial" and "connection refused" as its cause, which this
// program turns into a hint. Name the service instead, on a network that both containers are on, or the gateway
// address for what runs on the host:
//
//	-route blog.example.com=blog:8000                       a service or container name
//	-route old.example.com=host.docker.internal:4006        the host, Docker Desktop, or --add-host=...:host-gateway
//	-route old.example.com=host.containers.internal:4006    the host, Podman
//	-route old.example.com=172.17.0.1:4006                  the host, Docker's default bridge on Linux
//
// A service on the host must then listen on the gateway's address, not only on 127.0.0.1. Names are looked up at each
// new connection, so a container that comes back with another address is found, and one that is down stops neither
// the start nor the other routes.
package main

import (
	"context"
	"flag"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/hostproxy/hostproxy"
)

func main() {
	addr := flag.String("addr", ":8080", "address to serve on, in plain HTTP")
	r := hostproxy.Router{Observe: observe(slog.Default(), inContainer())}
	flag.Func("route", "a `host=target`; may be given again", func(s string) error { return add(&r, s) })
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ln, err := listen(*addr)
	if err != nil {
		log.Fatal(err)
	}
	if err := (&hostproxy.Server{Router: &r}).Serve(ctx, nil, ln); err != nil {
		log.Fatal(err)
	}
}

func add(r *hostproxy.Router, s string) error {
	host, target, _ := strings.Cut(s, "=")
	u, err := hostproxy.NewUpstream(target)
	if err != nil {
		return err
	}
	return r.Set(host, u)
}
