package limit

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// A Rule is a limit and who decides on it.
type Rule struct {
	Config
	allow func(client netip.Addr, now time.Time) Decision
	peek  func(client netip.Addr, now time.Time) Decision // nil if somebody else decides
}

// NewRule returns the rule of c with a Limiter of its own.
func NewRule(c Config) (*Rule, error) {
	l, err := New(c)
	if err != nil {
		return nil, err
	}
	return &Rule{c, l.Allow, l.Peek}, nil
}

// foreignPatience is how long a foreign limiter may think.
const foreignPatience = time.Second

// NewForeignRule returns the rule of c with ask to decide, which may be on
// another machine. It is asked about the address that stands for the client:
// an IPv4 address, or the first of an IPv6 address's /64. Its context is done
// after a second, and it is waited for. Whom it fails for is let through: failed
// is told why, at most once a second.
func NewForeignRule(c Config, ask func(context.Context, netip.Addr) (Decision, error), failed func(error)) (*Rule, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	once, err := New(Config{Rate: 1, Burst: 1})
	if err != nil {
		return nil, err
	}
	return &Rule{Config: c, allow: func(client netip.Addr, now time.Time) Decision {
		d, err := consult(ask, client)
		if err != nil {
			if once.Allow(netip.Addr{}, now).OK {
				failed(err)
			}
			return Decision{OK: true}
		}
		return d
	}}, nil
}

// consult asks a foreign limiter. A panic in it is an error.
func consult(ask func(context.Context, netip.Addr) (Decision, error), client netip.Addr) (d Decision, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), foreignPatience)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in the limiter: %v", p)
		}
	}()
	return ask(ctx, standIn(client))
}

// Allow is [Limiter.Allow], or asks who decides in its place.
func (r *Rule) Allow(client netip.Addr, now time.Time) Decision { return r.allow(client, now) }

// Peek is [Limiter.Peek]. False means that a foreign limiter decides, which is not asked.
func (r *Rule) Peek(client netip.Addr, now time.Time) (Decision, bool) {
	if r.peek == nil {
		return Decision{}, false
	}
	return r.peek(client, now), true
}

// AppendFields appends the header lines that tell a refused client of d, each
// with its CRLF.
func (r *Rule) AppendFields(b []byte, d Decision) []byte {
	b = append(d.AppendRetryAfter(append(b, "Retry-After: "...)), "\r\nRateLimit: "...)
	b = append(r.AppendRateLimit(b, d), "\r\nRateLimit-Policy: "...)
	return append(r.AppendPolicy(b), "\r\n"...)
}
