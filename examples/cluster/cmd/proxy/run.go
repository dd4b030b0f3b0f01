package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/caddyserver/certmagic"
	"github.com/redis/go-redis/v9"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/cluster"
)

// run serves until Gate.Delay after ctx is done.
func (s *settings) run(ctx context.Context) error {
	gate := &cluster.Gate{Delay: s.delay}
	if s.delay == 0 {
		gate.Delay = -1 // no delay: zero would mean 10 s
	}
	r, err := s.router()
	if err != nil {
		return err
	}
	end := func() error { return nil }
	if s.dir != "" {
		r.TLS.Storage = &certmagic.FileStorage{Path: s.dir}
	} else if end, err = s.connect(ctx, r, gate); err != nil {
		return err
	}
	server := &hostproxy.Server{
		Router: r, Addr: s.addr, HTTPAddr: s.http, DrainTimeout: s.drain,
		Listeners: []hostproxy.Listener{{Addr: s.ready, Role: hostproxy.RoleInternal, Handler: gate}},
	}
	if len(s.proxyProtocol) > 0 {
		server.ProxyProtocol = &hostproxy.ProxyProtocol{From: s.proxyProtocol}
	}
	return errors.Join(server.ListenAndServe(gate.Context(ctx)), end())
}

// router returns a Router with the routes and the certificates' issuer.
func (s *settings) router() (*hostproxy.Router, error) {
	r := &hostproxy.Router{TrustedProxies: s.trusted}
	r.TLS.Email, r.TLS.CA, r.TLS.ShareTickets = s.email, s.ca, s.tickets
	if s.roots != nil {
		r.TLS.Email, r.TLS.CA = "", "" // they are set in the issuer
		r.TLS.Issuer = &certmagic.ACMEIssuer{CA: s.ca, Email: s.email, TrustedRoots: s.roots}
	}
	var errs []error
	for host, u := range s.routes {
		errs = append(errs, r.Set(host, u))
	}
	return r, errors.Join(errs...)
}

// connect makes the router share its state through Redis. It refuses an
// unsuitable Redis. If Redis is away, the proxy is not ready until it answers.
// end frees locks and closes connections.
func (s *settings) connect(ctx context.Context, r *hostproxy.Router, gate *cluster.Gate) (end func() error, err error) {
	client, err := cluster.Connect(s.redis)
	if err != nil {
		return nil, err
	}
	storage, err := cluster.NewStorage(client, cluster.StorageOptions{})
	if err != nil {
		return nil, err
	}
	if s.rate != 0 {
		limiter, err := cluster.NewLimiter(client, cluster.LimiterOptions{Rate: s.rate, Burst: s.burst})
		if err != nil {
			return nil, errors.Join(err, client.Close())
		}
		r.RateLimit = limiter.RateLimit()
	}
	if err := check(ctx, storage); errors.Is(err, cluster.ErrUnreachable) {
		slog.Warn("starting without Redis", "err", err)
		gate.Start = func(ctx context.Context) error { return check(ctx, storage) }
	} else if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	r.TLS.Storage = storage
	return func() error { return leave(storage, client) }, nil
}

// check tests Redis, and logs its warnings.
func check(ctx context.Context, storage *cluster.Storage) error {
	warnings, err := storage.Check(ctx)
	for _, w := range warnings {
		slog.Warn(w)
	}
	return err
}

// leave frees the locks and closes the connections. A failure to free locks is
// only logged, since they expire by themselves.
func leave(storage *cluster.Storage, client redis.UniversalClient) error {
	if err := storage.Close(); err != nil {
		slog.Info("locks are left to end by themselves", "err", err)
	}
	return client.Close()
}
