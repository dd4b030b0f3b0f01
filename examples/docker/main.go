// Command docker makes routes from the labels of containers. It uses the API of
// Docker or Podman.
//
//	docker run -d -l hostproxy.host=blog.localhost -p 127.0.0.1::8000 blog
//	go run ./examples/docker -https "" -http :8080
//	curl http://blog.localhost:8080/
//
// README.md documents the labels, has a compose file, and says what to know
// about the socket. The files: engine.go talks to the daemon, labels.go reads
// the labels of a container, address.go finds how to reach it, claims.go
// decides which container gets which host, routes.go changes the Router,
// watch.go follows the events, and hint.go explains failed connections in the
// log.
package main

import (
	"context"
	"flag"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	https := flag.String("https", ":443", "address for HTTPS; empty serves the routes in plain HTTP on -http")
	http := flag.String("http", ":80", "address for redirects and ACME challenges, or for the routes without -https")
	host := flag.String("docker", os.Getenv("DOCKER_HOST"), "the daemon: unix:///path or tcp://host:port; empty looks for a socket")
	p := newProxy(slog.Default(), inContainer())
	flag.StringVar(&p.self, "self", "", "name or ID of the proxy's own container, or host if it runs where the daemon runs; empty finds out")
	flag.StringVar(&p.router.TLS.Email, "email", "", "contact for the certificate authority")
	flag.StringVar(&p.network, "network", "", "network to reach containers on, where they have no label hostproxy.network")
	flag.Func("only", "`hosts` that labels may claim, such as example.com,*.example.com; a wildcard allows itself and each host that it matches", p.allow)
	flag.Func("route", "a `host=target` that is no container; may be given again", p.add)
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("argument %q is not a flag: routes are written -route host=target", flag.Arg(0))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := p.serve(ctx, *host, *https, *http); err != nil {
		log.Fatal(err)
	}
}
