// Command proxy forwards hosts to targets, over plain HTTP, and writes spans to
// standard output:
//
//	go run -C examples/otel ./cmd/proxy app.localhost=localhost:4000
//
// To send them to a collector, use otlptracehttp.New instead of
// stdouttrace.New.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"

	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
)

func main() {
	addr := flag.String("addr", ":8080", "address to serve on, in plain HTTP")
	trusted := flag.String("trusted", "127.0.0.0/8", "peers whose traces are continued")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exporter, err := stdouttrace.New()
	if err != nil {
		log.Fatal(err)
	}
	if err := run(ctx, *addr, *trusted, flag.Args(), exporter); err != nil {
		log.Fatal(err)
	}
}
