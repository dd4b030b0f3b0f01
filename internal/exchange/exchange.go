// Package exchange holds the facts about one request and its response, for all
// parts of the proxy:
//
//   - exchange.go: facts about a request beyond the http.Request
//   - record.go, failure.go: its outcome, and the side that caused a failure
//   - accesslog.go: the record as a line of a log
//   - passed.go: the checks it passed on the way to a handler of the program
//   - begin.go, writer.go: its beginning and its end at an http.Handler
//   - loan.go: how handlers on other goroutines share an exchange
//   - check.go, loop.go: requests that are refused before anything else
//   - reason.go, reply.go, page.go, ownpage.go, grpc.go: the proxy's own
//     responses
//   - requestid.go, withhold.go, wirepath.go: the request as targets and
//     handlers see it
//   - order.go: order and spelling of fields
//   - handover.go: an exchange that one lane passes to the other
//   - body.go, bodybuffer.go, pace.go: the body on its way to targets, and its
//     rules
//   - interim.go, methods.go, sweep.go, buffers.go: limits and memory that both
//     lanes share
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

// An Exchange holds what the handler lane knows of a request beyond the
// http.Request: its client, its record, and the lifetimes that its streams
// depend on.
type Exchange struct {
	Record
	Via      header.Peer // remote end of the connection
	Name     string      // the Router's name in Via; "" means the upstream's own name
	Trusted  bool        // the peer's forwarding fields are believed
	Returned bool        // the handler did not panic
	Shared   bool        // something may hold the exchange after its end; see Release

	Numbering Numbering // how RequestID is sent

	Hooks     *Hooks               // the Router's; may be nil
	Set       []header.Replacement // set by the Begin hook; Numbered sends them
	begun     bool                 // the other lane has called Begin
	beginning *Beginning           // nil until needed

	Head   HeadEdit               // the Router's; nil has none
	edited atomic.Pointer[Spared] // see Edited

	Owner any // the Router's key for the route's handler, if that is not an Upstream

	// ClientScheme and ClientHost are what the client itself used, as reported
	// by a trusted peer; else they are Scheme and Host.
	ClientScheme, ClientHost string

	Mirrored bool          // it is a mirrored copy, and is not copied again
	Asker    *http.Request // the client's request, if this exchange asks an auth server; else nil
	About    *Exchange     // the exchange of Asker
	Watched  bool          // a Watcher counts the response
	Refused  bool          // no target has responded: the proxy or its ErrorHandler does
	Charged  []*limit.Rule // rules that have already taken a token, before a hand-over
	Tried    []string      // keys of targets that have failed before the hand-over
	Answer   *Answer       // a response that only has to be written; nil if there is none
	Paged    bool          // a page of the program responds: no other page may replace it

	// Origin is what the PROXY protocol says about the client's connection. It
	// is nil until it is needed.
	Origin *proxyproto.Header

	// Lives end the exchange's streams politely when done: the server's life
	// and the route's. Nil entries are ignored.
	Lives [2]context.Context

	Mapped bool      // Status is the meaning of a response of gRPC, whose own status is 200
	Coded  bool      // a Watcher has seen a head with a grpc-status
	loan   *Loan     // that a copy was borrowed from; else nil
	Waits  time.Time // since when it waits, for Tell; zero means it does not
	told   *progress // what the loan knows of a copy; guarded by the loan's mu, like back
	back   bool      // the copy was returned
	lent   tally     // of the copy when it was borrowed

	Earlier int // attempts that other Upstreams have begun, before the copy was borrowed

	client Client          // nil behind a foreign server
	cut    context.Context // set by WithCut; nil behind a server of ours
}

// OriginOf returns the Origin of x. If that is nil, it first sets it from q.
func (x *Exchange) OriginOf(q *http.Request) *proxyproto.Header {
	if x.Origin == nil {
		remote, _ := netip.ParseAddrPort(q.RemoteAddr)
		here, _ := q.Context().Value(http.LocalAddrContextKey).(net.Addr)
		h := proxyproto.On(x.Client, remote, proxyproto.AddrPort(here))
		x.Origin = &h
	}
	return x.Origin
}

// RouteLife is the index of the route's life in Lives.
const RouteLife = 1

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

// WithCut returns ctx carrying a context that is done when the drain of a
// foreign server is out of time.
func WithCut(ctx, cut context.Context) context.Context {
	return context.WithValue(ctx, cutKey{}, cut)
}

// why returns why the client's connection was closed, or nil if that is not
// known.
func (x *Exchange) why() error {
	switch {
	case x.client != nil:
		return x.client.Why()
	case x.cut != nil && x.cut.Err() != nil:
		return ErrCut
	}
	return nil
}

// A Client is what our front knows of the client of a request. Its methods may
// be called concurrently, and after the request has been served.
type Client interface {
	Left() bool   // the client left while a handler served the request
	HungUp() bool // the same, even if bytes that it sent are unread

	// Mark returns how much of the response the client has read.
	Mark() peek.Mark

	// Excused returns the total time in which the client was not free to send
	// the body: other bodies had used up its connection's flow-control window.
	Excused() time.Duration

	// Why returns the client's fault that closed its connection, ErrCut, or
	// nil.
	Why() error
}

type clientKey struct{}

func clientOf(ctx context.Context) Client {
	c, _ := ctx.Value(clientKey{}).(Client)
	return c
}

// HasFront reports whether ctx has the client of a Slot. This proxy then reads
// the client's connection itself, up to the end of each request's body.
func HasFront(ctx context.Context) bool { return clientOf(ctx) != nil }

// MarkFrom returns the mark of the client of ctx's Slot.
func MarkFrom(ctx context.Context) (m peek.Mark, ok bool) {
	if c := clientOf(ctx); c != nil {
		return c.Mark(), true
	}
	return m, false
}

// Name is the proxy's name in Proxy-Status, and the beginning of its names in
// Via.
const Name = "hostproxy"

// HungUp reports whether the client of ctx's Slot has left, even if bytes that
// it sent are unread.
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
// left. Our front knows that. Behind a foreign server a context that ended
// counts, unless a deadline ended it.
func ClientLeft(ctx context.Context) bool {
	if c := clientOf(ctx); c != nil {
		return c.Left()
	}
	return Ended(ctx) == ErrClientGone
}
