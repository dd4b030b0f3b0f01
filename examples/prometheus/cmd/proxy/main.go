// Command proxy forwards hosts to targets, in plain HTTP, and serves metrics on
// another address:
//
//	go run -C examples/prometheus ./cmd/proxy app.localhost=localhost:4000 api.localhost=localhost:4001
//	curl http://localhost:9100/metrics
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	addr := flag.String("addr", ":8080", "address to serve on, in plain HTTP")
	metrics := flag.String("metrics", "localhost:9100", "address to serve metrics on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := server(*addr, *metrics, flag.Args())
	if err != nil {
		log.Fatal(err)
	}
	if err := s.Serve(ctx, nil, nil); err != nil {
		log.Fatal(err)
	}
}
