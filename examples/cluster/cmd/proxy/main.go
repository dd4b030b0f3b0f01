// Command proxy runs one of several proxies that share certificates, locks and
// ACME challenges and, if asked to, session tickets and rate limits. They share
// them through Redis or through a directory:
//
//	redis-server --bind 127.0.0.1 --appendonly yes &
//	go run -C examples/cluster ./cmd/proxy -addr :8443 -http :8080 -ready localhost:9001 app.localhost=localhost:4000 &
//	go run -C examples/cluster ./cmd/proxy -addr :8444 -http :8081 -ready localhost:9002 app.localhost=localhost:4000 &
//	curl http://localhost:9001/
//
// Both serve the same certificate. Put Redis's password into the environment,
// REDIS_URL=rediss://user:password@host:6379, where other users of the machine
// cannot see it. The module's README says what is shared, and how to put a load
// balancer in front.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	s, err := parse(os.Args[1:], os.Getenv("REDIS_URL"))
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process immediately
	if err := s.run(ctx); err != nil {
		log.Fatal(err)
	}
}
