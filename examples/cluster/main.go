// Command cluster runs one of several proxies that share their certificates through Redis: whichever comes first
// obtains a certificate, the others wait for it and take it from there, and each answers the ACME challenges of all.
// With -rate they share the requests that they allow each client too.
//
//	redis-server --bind 127.0.0.1 &
//	go run -C examples/cluster . -addr :8443 -http :8080 -upstream app.localhost=localhost:4000 &
//	go run -C examples/cluster . -addr :9443 -http :9080 -upstream app.localhost=localhost:4000 &
//
// Both serve the same certificate. A process that is killed while it obtains one holds its lock for ten seconds more;
// then another goes on. While Redis is away, certificates that are in memory are served, and nothing is obtained.
//
// Redis holds private keys, and losing it means to obtain everything anew. Let it persist (appendonly yes) and not evict
// (maxmemory-policy noeviction), and reach it through TLS: REDIS_URL=rediss://user:password@host:6379/0 keeps the
// password out of the process list. Redis 6.2 or later, or Valkey. Another database number is another cluster.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/hostproxy/hostproxy"
)

func main() {
	var r hostproxy.Router
	s := hostproxy.Server{Router: &r}
	redis := flag.String("redis", "", "`URL` of the Redis server (default $REDIS_URL, or redis://localhost:6379/0)")
	flag.StringVar(&s.Addr, "addr", ":443", "address for HTTPS")
	flag.StringVar(&s.HTTPAddr, "http", ":80", "address for redirects and ACME challenges")
	rate := flag.Int("rate", 0, "requests per second that a client may make to all of them together; 0 means no limit")
	flag.StringVar(&r.TLS.Email, "email", "", "contact of the ACME account")
	flag.Func("upstream", "`host=target`, once for each host", func(route string) error {
		host, target, _ := strings.Cut(route, "=")
		u, err := hostproxy.NewUpstream(target)
		if err != nil {
			return fmt.Errorf("want host=target: %w", err)
		}
		return r.Set(host, u)
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	store, err := openStorage(cmp.Or(*redis, os.Getenv("REDIS_URL"), "redis://localhost:6379/0"))
	if err != nil {
		log.Fatal(err)
	}
	r.TLS.Storage = store
	if *rate > 0 {
		r.RateLimit = &hostproxy.RateLimit{Rate: float64(*rate), Limiter: store.limiter(*rate)}
	}
	if err := errors.Join(s.ListenAndServe(ctx), store.Close()); err != nil {
		log.Fatal(err)
	}
}
