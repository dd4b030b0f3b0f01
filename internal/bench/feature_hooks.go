package main

import (
	"context"
	"time"

	"github.com/hostproxy/hostproxy"
)

// hookFeatures are features that call funcs of the program's.
func hookFeatures() []feature {
	return []feature{
		{"begin", "hooks at the start, a header each", dearest, func(r *hostproxy.Router, _ *hostproxy.Upstream, _ string) error {
			r.Begin = func(b *hostproxy.Beginning) { b.SetHeader("X-Request-Id", "0123456789abcdef") }
			r.BeginAttempt = func(b *hostproxy.Beginning) {
				b.SetHeader("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
			}
			r.Observe = func(*hostproxy.Exchange) {}
			return nil
		}},
		{"wake", "targets that may sleep", dearest, func(_ *hostproxy.Router, u *hostproxy.Upstream, _ string) error {
			u.Wake = &hostproxy.Wake{Start: func(context.Context) error { return nil }, IdleAfter: time.Minute}
			return nil
		}},
	}
}
