package main

import (
	"context"
	"time"

	"github.com/hostproxy/hostproxy"
)

// hookFeatures returns the features that call funcs of the program.
func hookFeatures() []feature {
	return []feature{
		{"begin", "Begin, which sets a header", dearest, func(r *hostproxy.Router, _ *hostproxy.Upstream, _ string) error {
			r.Begin = setsIdentifier
			return nil
		}},
		{"begin-attempt", "BeginAttempt, which sets a header", dearest, func(r *hostproxy.Router, _ *hostproxy.Upstream, _ string) error {
			r.BeginAttempt = setsParent
			return nil
		}},
		{"hooks", "Begin, BeginAttempt and Observe", threeHooks, func(r *hostproxy.Router, _ *hostproxy.Upstream, _ string) error {
			r.Begin, r.BeginAttempt, r.Observe = setsIdentifier, setsParent, func(*hostproxy.Exchange) {}
			return nil
		}},
		{"wake", "targets that may sleep", dearest, func(_ *hostproxy.Router, u *hostproxy.Upstream, _ string) error {
			u.Wake = &hostproxy.Wake{Start: func(context.Context) error { return nil }, IdleAfter: time.Minute}
			return nil
		}},
	}
}

// threeHooks is the maximum cost of an exchange with all three hooks and two
// headers.
const threeHooks = 1.10

func setsIdentifier(b *hostproxy.Beginning) { b.SetHeader("X-Request-Id", "0123456789abcdef") }

func setsParent(b *hostproxy.Beginning) {
	b.SetHeader("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
}
