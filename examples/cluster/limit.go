package main

import (
	"context"
	"net/netip"
	"time"

	"github.com/go-redis/redis_rate/v10"

	"github.com/hostproxy/hostproxy"
)

// A limiter counts the requests of a client to all processes in one bucket, in Redis. It implements hostproxy.Limiter.
type limiter struct {
	buckets *redis_rate.Limiter
	limit   redis_rate.Limit
}

// limiter returns a limiter of so many requests per second and client.
func (s *storage) limiter(rate int) *limiter {
	return &limiter{redis_rate.NewLimiter(s.client), redis_rate.PerSecond(rate)}
}

// Allow takes a token of the client's. Its error lets the client through: a Redis that is away must not stop a service.
func (l *limiter) Allow(ctx context.Context, client netip.Addr) (hostproxy.Quota, error) {
	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond) // each request waits for it
	defer cancel()
	r, err := l.buckets.Allow(ctx, client.String(), l.limit)
	if err != nil {
		return hostproxy.Quota{}, err
	}
	return hostproxy.Quota{OK: r.Allowed > 0, Remaining: r.Remaining, Retry: r.RetryAfter, Reset: r.ResetAfter}, nil
}
