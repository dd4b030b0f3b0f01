package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/otel"
)

// run forwards the hosts of args, each host=target, until ctx is done. Then it
// exports the remaining spans.
func run(ctx context.Context, addr, trusted string, args []string, exporter trace.SpanExporter) error {
	if len(args) == 0 {
		return errors.New("no routes: want one or more arguments such as app.localhost=localhost:4000")
	}
	peers, err := netip.ParsePrefix(trusted)
	if err != nil {
		return fmt.Errorf("-trusted: %w: want a network, such as 10.0.0.0/8", err)
	}
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter))
	t, err := otel.New(otel.Options{Provider: provider, Trusted: []netip.Prefix{peers}})
	if err == nil {
		r := &hostproxy.Router{Begin: t.Begin, BeginAttempt: t.BeginAttempt, Observe: t.Observe}
		err = serve(ctx, addr, r, args)
	}
	return errors.Join(err, shutDown(ctx, provider))
}

// shutDown exports the remaining spans. It takes at most ten seconds, since a
// collector may hang.
func shutDown(ctx context.Context, p *trace.TracerProvider) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return p.Shutdown(ctx)
}

func serve(ctx context.Context, addr string, r *hostproxy.Router, args []string) error {
	for _, arg := range args {
		host, target, ok := strings.Cut(arg, "=")
		u, err := hostproxy.NewUpstream(target)
		if !ok || err != nil {
			return fmt.Errorf("argument %q: want host=target, such as app.localhost=localhost:4000 (%v)", arg, err)
		}
		if err := r.Set(host, u); err != nil {
			return err
		}
	}
	s := hostproxy.Server{Router: r, Listeners: []hostproxy.Listener{{Addr: addr, Role: hostproxy.RolePlain}}}
	return s.Serve(ctx, nil, nil)
}
