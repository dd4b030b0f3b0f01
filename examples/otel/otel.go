// Package otel makes OpenTelemetry spans of the exchanges of a
// hostproxy.Router: a server span for each exchange, and a client span for each
// attempt at a target, with the attributes of the semantic conventions for
// HTTP. Each target gets the context of its own attempt in exactly one
// traceparent header (W3C Trace Context), regardless of what the client has
// sent.
//
//   - otel.go: New, and the hooks of the Router
//   - attributes.go: the attributes of exchanges and attempts
package otel

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	api "go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostproxy/hostproxy"
)

// Options are the settings of New. The zero value is ready to use.
type Options struct {
	// Provider makes the spans. Nil means otel.GetTracerProvider. If it makes
	// no spans, targets get the context of a trusted peer, and otherwise no
	// traceparent.
	Provider trace.TracerProvider

	// Trusted are the peers whose traces are continued: the exchange joins the
	// trace in its traceparent and tracestate, the sampler sees the sampling
	// decision of that trace, and the target gets the baggage of the peer. It
	// is often the same as Router.TrustedProxies. Peers on a unix socket are
	// trusted if 127.0.0.1 or ::1 is. An exchange of any other peer begins a
	// new trace with a link to the context that the client sent, and its
	// baggage is removed. Nil trusts no peer.
	Trusted []netip.Prefix

	// Path returns the path that a target gets, below the path of its own URL.
	// It is used for url.full of attempts. Set it if an Upstream has
	// StripPrefix, AddPrefix or a Rewrite of the path: spans are made before
	// these are applied. It is called for each recorded attempt, may be called
	// concurrently, and must not change the Exchange. Nil means Exchange.Path.
	Path func(*hostproxy.Exchange) string

	// Query returns the part of a query that spans show, without its secrets.
	// It is called for each non-empty query, and may be called concurrently.
	// The result "" shows nothing. Nil shows no query.
	Query func(raw string) string
}

// A Tracer makes the spans of a Router. Its methods may be called concurrently.
type Tracer struct {
	tracer  trace.Tracer
	trusted []netip.Prefix
	local   bool // whether peers without an address are trusted
	path    func(*hostproxy.Exchange) string
	shown   func(query string) string

	server, client trace.SpanStartOption // span kinds
}

// The headers that carry contexts.
const (
	traceparent = "Traceparent"
	tracestate  = "Tracestate"
	baggage     = "Baggage"
)

// New returns a Tracer. Before the Router is used, set its hooks to the
// Tracer's methods, or call them from your own hooks. New returns an error for
// an invalid prefix.
func New(o Options) (*Tracer, error) {
	for i, p := range o.Trusted {
		if !p.IsValid() {
			return nil, fmt.Errorf("hostproxy: otel: prefix %d in Trusted is invalid: want one such as 10.0.0.0/8", i)
		}
	}
	if o.Provider == nil {
		o.Provider = api.GetTracerProvider()
	}
	t := &Tracer{path: o.Path, shown: o.Query,
		tracer: o.Provider.Tracer("github.com/hostproxy/hostproxy/examples/otel", trace.WithSchemaURL(semconv.SchemaURL)),
		server: trace.WithSpanKind(trace.SpanKindServer), client: trace.WithSpanKind(trace.SpanKindClient)}
	for _, p := range o.Trusted {
		t.trusted = append(t.trusted, p.Masked())
	}
	t.local = t.contains(netip.AddrFrom4([4]byte{127, 0, 0, 1})) || t.contains(netip.IPv6Loopback())
	return t, nil
}

// Begin is for Router.Begin. It starts the span of the exchange, and stores it
// in Exchange.Value as a trace.Span. It sets the context's headers for
// handlers, mirrored copies and the request of a ForwardAuth.
func (t *Tracer) Begin(b *hostproxy.Beginning) {
	ctx := context.Background()
	if b.Header(traceparent) != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, carrier{b})
	}
	options := append(make([]trace.SpanStartOption, 0, 5), t.server, trace.WithTimestamp(b.Exchange.Start),
		trace.WithAttributes(t.atStart(b.Exchange)...))
	if !t.trusts(b.Exchange.Peer) {
		if client := trace.SpanContextFromContext(ctx); client.IsValid() {
			options = append(options, trace.WithLinks(trace.Link{SpanContext: client}))
		}
		ctx = context.Background()
		b.RemoveHeader(baggage)
	}
	ctx, span := t.tracer.Start(ctx, name(b.Exchange.Method, ""), options...)
	b.Exchange.Value = span
	b.RemoveHeader(traceparent)
	b.RemoveHeader(tracestate)
	propagation.TraceContext{}.Inject(ctx, carrier{b})
}

// BeginAttempt is for Router.BeginAttempt. It starts the span of the attempt,
// and stores it in Attempt.Value as a trace.Span. It sets the context's headers
// for the target. If the exchange is neither sampled nor recorded, its attempts
// have no spans, and targets get the context of the exchange.
func (t *Tracer) BeginAttempt(b *hostproxy.Beginning) {
	parent, ok := b.Exchange.Value.(trace.Span)
	if !ok || !parent.IsRecording() && !parent.SpanContext().IsSampled() {
		return // the target gets the headers that Begin has set
	}
	ctx := trace.ContextWithSpan(context.Background(), parent)
	ctx, span := t.tracer.Start(ctx, name(b.Exchange.Method, ""), t.client,
		trace.WithTimestamp(b.Attempt.Start), trace.WithAttributes(t.ofAttempt(b)...))
	b.Attempt.Value = span
	if span.SpanContext().TraceState().Len() == 0 {
		b.RemoveHeader(tracestate)
	}
	propagation.TraceContext{}.Inject(ctx, carrier{b})
}

// Observe is for Router.Observe. It ends the spans of the exchange and of its
// attempts.
func (t *Tracer) Observe(x *hostproxy.Exchange) {
	for i := range x.Timeline {
		a := &x.Timeline[i]
		span, ok := a.Value.(trace.Span)
		if !ok {
			continue
		}
		if span.IsRecording() {
			span.SetAttributes(afterAttempt(a)...)
			failed(span, a.Err, a.Status, 400)
		}
		span.End(trace.WithTimestamp(a.Start.Add(a.Duration)))
	}
	span, ok := x.Value.(trace.Span)
	if !ok {
		return
	}
	if span.IsRecording() {
		span.SetName(name(x.Method, x.Pattern))
		span.SetAttributes(atEnd(x)...)
		failed(span, x.Err, x.Status, 500)
	}
	span.End(trace.WithTimestamp(x.Start.Add(x.Duration)))
}

// failed sets the status and the error attributes of a span. Responses from
// status least up are errors. A client disconnect is not.
func failed(span trace.Span, err error, status, least int) {
	said, byClient := ofError(err, status >= least, status)
	span.SetAttributes(said...)
	switch {
	case err != nil && !byClient:
		why, _, _ := strings.Cut(err.Error(), "\n") // a stack may follow
		span.SetStatus(codes.Error, safe(why))
	case status >= least && !byClient:
		span.SetStatus(codes.Error, "")
	}
}

func (t *Tracer) trusts(peer netip.Addr) bool {
	if !peer.IsValid() {
		return t.local
	}
	return t.contains(peer.Unmap().WithZone(""))
}

func (t *Tracer) contains(a netip.Addr) bool {
	return slices.ContainsFunc(t.trusted, func(p netip.Prefix) bool { return p.Contains(a) })
}

// A carrier gives propagators the header of a request that begins.
type carrier struct{ b *hostproxy.Beginning }

// Get implements propagation.TextMapCarrier.
func (c carrier) Get(key string) string { return c.b.Header(key) }

// Set implements propagation.TextMapCarrier.
func (c carrier) Set(key, value string) {
	if key == "traceparent" {
		key = traceparent // already canonical: saves the conversion
	}
	c.b.SetHeader(key, value)
}

// Keys implements propagation.TextMapCarrier. The propagators used here ask for
// known keys only.
func (c carrier) Keys() []string { return nil }
