package http3_test

import (
	"context"
	"log"
	"os/signal"
	"syscall"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/http3"
)

func Example() {
	var r hostproxy.Router
	r.Handle("blog.example.com", hostproxy.To("localhost:4006"))
	s := &hostproxy.Server{Router: &r, Companions: []hostproxy.Companion{&http3.Server{MaxConnsPerClient: 20}}}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := s.ListenAndServe(ctx); err != nil {
		log.Fatal(err)
	}
}
