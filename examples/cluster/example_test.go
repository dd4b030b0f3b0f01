package cluster_test

import (
	"context"
	"errors"
	"log"
	"os/signal"
	"syscall"
	"time"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/cluster"
)

func Example() {
	client, err := cluster.Connect("rediss://user:password@redis.internal:6379")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	storage, err := cluster.NewStorage(client, cluster.StorageOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer storage.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if _, err := storage.Check(ctx); err != nil && !errors.Is(err, cluster.ErrUnreachable) {
		log.Fatal(err)
	}

	var r hostproxy.Router
	r.TLS.Storage, r.TLS.ShareTickets = storage, true
	r.Handle("blog.example.com", hostproxy.To("localhost:4006"))
	gate := &cluster.Gate{Delay: 5 * time.Second}
	s := hostproxy.Server{Router: &r, Listeners: []hostproxy.Listener{
		{Addr: ":443"},
		{Addr: ":80", Role: hostproxy.RoleRedirects},
		{Addr: "localhost:9000", Role: hostproxy.RoleInternal, Handler: gate},
	}}
	if err := s.Serve(gate.Context(ctx), nil, nil); err != nil {
		log.Print(err)
	}
}
