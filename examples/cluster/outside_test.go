package cluster_test

import (
	"testing"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// program is a program as a user would write it.
const program = `package main

import (
	"context"
	"log"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/cluster"
)

func main() {
	client, err := cluster.Connect("redis://localhost:6379")
	if err != nil {
		log.Fatal(err)
	}
	storage, err := cluster.NewStorage(client, cluster.StorageOptions{})
	if err != nil {
		log.Fatal(err)
	}
	limiter, err := cluster.NewLimiter(client, cluster.LimiterOptions{Rate: 50})
	if err != nil {
		log.Fatal(err)
	}
	r := hostproxy.Router{RateLimit: limiter.RateLimit()}
	r.TLS.Storage, r.TLS.ShareTickets = storage, true
	r.Handle("blog.example.com", hostproxy.To("localhost:4006"))
	gate := new(cluster.Gate)
	s := hostproxy.Server{Router: &r, Listeners: []hostproxy.Listener{
		{Addr: ":443"}, {Addr: ":9000", Role: hostproxy.RoleInternal, Handler: gate},
	}}
	log.Fatal(s.Serve(gate.Context(context.Background()), nil, nil))
}
`

func TestTheModuleIsCompleteOutsideTheTree(t *testing.T) {
	t.Parallel()
	proxytest.BuildOutside(t, program)
}
