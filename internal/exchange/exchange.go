// Package exchange is one request and its response, as all of the proxy knows
// it:
//
//   - exchange.go: what is known of the request beyond the http.Request
//   - record.go, failure.go: what became of it, and whose fault a failure is
//   - accesslog.go: the record as a line of a log
//   - passed.go: what let it through to a handler of the program
//   - begin.go, writer.go: its beginning and its end at an http.Handler
//   - check.go, loop.go: what is refused before anything else
//   - reason.go, reply.go, page.go, ownpage.go, grpc.go: what the proxy answers
//     by itself
//   - requestid.go, withhold.go, wirepath.go: what the next one is told of the
//     request
//   - order.go: in which order and spelling fields are written
//   - handover.go: what one lane tells the other that carries it on
//   - body.go, bodybuffer.go, pace.go: the body on its way to targets, and its
//     rules
//   - interim.go, methods.go, sweep.go, buffers.go: the limits and the memory
//     that both lanes share
//   - contain.go: panics of the program's hooks
//   - headedit.go: what a Router changes in the heads of responses
//   - hooks.go: its hooks at the beginning of exchanges and attempts
//
// It knows no target and no connection.
package exchange

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/limit"
	"github.com/hostproxy/hostproxy/internal/peek"
	"github.com/hostproxy/hostproxy/internal/proxyproto"
)

// An Exchange is what the handler lane knows of a request beyond the
// http.Request: who sent it, its record, and what its streams are bound to.
type Exchange struct {
	Record
	Via      header.Peer // who sits at the other end of the connection
	Name     string      // what Via calls the Router; "" stands for the upstream's own name
	Trusted  bool        // the peer's forwarding fields count
	Returned bool        // the handler did not panic
	Shared   bool        // something may hold the exchange behind its end; see Release

	Numbering Numbering // by which RequestID is sent

	Hooks     *Hooks               // the Router's; nil has none
	Set       []header.Replacement // by Begin; Numbered sends them
	begun     bool                 // Begin has been called, in another lane
	beginning *Beginning           // nil before it is needed

	Head   HeadEdit               // the Router's; nil has none
	edited atomic.Pointer[Spared] // see Edited

	Passes Pass // what let it through to the route's handler
	Owner  any  // what the Router knows the route's handler by, if that is not an Upstream

	// ClientScheme and ClientHost are what the client itself used, as far as a
	// trusted peer says it; else they are Scheme and Host.
	ClientScheme, ClientHost string

	Mirrored bool          // is a mirror's, and is not copied again
	Asker    *http.Request // of a question: the client's request; else nil
	Watched  bool          // somebody counts what the client gets
	Refused  bool          // no target has answered: the proxy does, or its ErrorHandler
	Charged  []*limit.Rule // of an exchange that was handed over, as what follows
	Tried    []string      // keys of targets
	Answer   *Answer       // that is left to write; nil if there is none
	Paged    bool          // a page of the program's answers: it gets no page of its own

	// Origin is what the PROXY protocol says of the client's connection. It is
	// set only if it is needed: nil otherwise.
	Origin *proxyproto.Header

	// Lives end the exchange's streams politely when done: the server's,
	// the route's. Nil entries are ignored.
	Lives [2]context.Context

	client Client          // nil behind a server that is not ours
	cut    context.Context // of WithCut; likewise nil before one that is
}

// OriginOf returns the Origin of x, which is that of q unless it is set.
func (x *Exchange) OriginOf(q *http.Request) *proxyproto.Header {
	if x.Origin == nil {
		remote, _ := netip.ParseAddrPort(q.RemoteAddr)
		here, _ := q.Context().Value(http.LocalAddrContextKey).(net.Addr)
		h := proxyproto.On(x.Client, remote, proxyproto.AddrPort(here))
		x.Origin = &h
	}
	return x.Origin
}

// RouteLife is the place of the route's in Lives.
const RouteLife = 1

type exchangeKey struct{}

// NewContext returns ctx carrying x.
func NewContext(ctx context.Context, x *Exchange) context.Context {
	x.Shared = true
	return context.WithValue(ctx, exchangeKey{}, x)
}

// FromContext returns the exchange that ctx carries, or nil.
func FromContext(ctx context.Context) *Exchange {
	x, _ := ctx.Value(exchangeKey{}).(*Exchange)
	return x
}

type drainKey struct{}

// WithDrain returns ctx carrying a context that is done when the server
// behind ctx begins to drain.
func WithDrain(ctx, drain context.Context) context.Context {
	return context.WithValue(ctx, drainKey{}, drain)
}

// DrainFrom returns the context that WithDrain stored in ctx, or nil.
func DrainFrom(ctx context.Context) context.Context {
	d, _ := ctx.Value(drainKey{}).(context.Context)
	return d
}

type cutKey struct{}

// WithCut returns ctx carrying a context that is done when the drain of the
// server behind ctx, which has no front of ours, is out of time.
func WithCut(ctx, cut context.Context) context.Context {
	return context.WithValue(ctx, cutKey{}, cut)
}

// why is why the client's connection was closed; nil if that is not known.
func (x *Exchange) why() error {
	switch {
	case x.client != nil:
		return x.client.Why()
	case x.cut != nil && x.cut.Err() != nil:
		return ErrCut
	}
	return nil
}

// A Client is what a front of ours knows of the client of a request. Its
// methods may be called concurrently, and also when the request has been
// served.
type Client interface {
	Left() bool   // while a handler served the request
	HungUp() bool // even if some of what it sent has not been read

	// Mark is how far the client has come in taking the response.
	Mark() peek.Mark

	// Excused is how long, in all, the client was not free to send the body of
	// the request: other bodies had used up its connection's flow-control
	// window.
	Excused() time.Duration

	// Why is the client's fault for which its connection was closed, or ErrCut;
	// nil without one.
	Why() error
}

type clientKey struct{}

func clientOf(ctx context.Context) Client {
	c, _ := ctx.Value(clientKey{}).(Client)
	return c
}

// HasFront reports whether ctx has the client of a Slot: it is one whose
// connection this proxy reads itself, up to the end of each request's body.
func HasFront(ctx context.Context) bool { return clientOf(ctx) != nil }

// MarkFrom returns the mark of the client of ctx's Slot.
func MarkFrom(ctx context.Context) (m peek.Mark, ok bool) {
	if c := clientOf(ctx); c != nil {
		return c.Mark(), true
	}
	return m, false
}

// Name is what the proxy calls itself in Proxy-Status, and how its names in Via
// begin.
const Name = "hostproxy"

// HungUp reports whether the client of ctx's Slot has left, even if some of
// what it sent has not been read.
func HungUp(ctx context.Context) bool {
	c := clientOf(ctx)
	return c != nil && c.HungUp()
}

// Excused returns the Excused of the client of ctx's Slot.
func Excused(ctx context.Context) time.Duration {
	if c := clientOf(ctx); c != nil {
		return c.Excused()
	}
	return 0
}

// ClientLeft reports whether the client of the request with that context has
// left. A front of ours knows that; behind another server it is what has ended
// the context, unless that was a deadline.
func ClientLeft(ctx context.Context) bool {
	if c := clientOf(ctx); c != nil {
		return c.Left()
	}
	return Ended(ctx) == ErrClientGone
}
