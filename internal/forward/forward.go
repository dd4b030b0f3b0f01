// Package forward is the engine of both lanes: it decides which target gets an
// exchange and whether there is room for it. It moves no byte of a body.
//
//   - forward.go: Forwarder, a compiled Config
//   - admission.go, access.go, pause.go, wake.go, canary.go: what comes between
//     the route and the first attempt
//   - attempts.go, hedge.go, timeline.go: attempts at targets until one answers
//   - target.go, targets.go, address.go: a target, the current set of them, and
//     how their addresses are written
//   - hashkey.go, sticky.go: the hash key and the cookie by which a target is
//     chosen
//   - prefix.go, translate.go: how paths differ between clients and targets
//   - outeredit.go: the Router's changes to the heads of responses
//   - headeredit.go, trailer.go, encode.go, response.go, order.go: the fields
//     that cross the proxy, and how the fast lane writes requests
//   - dial.go, containedconn.go, transport.go, apart.go, timekeeper.go,
//     protocol.go: how a target is reached
//   - silence_linux.go, silence_other.go: detection of dead HTTP/2 peers
//   - healthcheck.go, background.go, deploy.go: health checks, and changes of
//     targets
//   - stay.go: streams whose route or target was removed
//   - mirror.go: copies of requests to another Forwarder
//   - limitkey.go: the key by which a limit counts a request
//   - guard.go: lists and limits in front of any handler
//   - pages.go: the program's pages for error statuses
//   - memory.go: the memory limit of body buffers
//   - describe.go, explain.go: the status page, and explanations of requests
package forward

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/balance"
	"github.com/hostproxy/hostproxy/internal/discover"
	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/health"
	"github.com/hostproxy/hostproxy/internal/limit"
)

// A Config says what a Forwarder forwards to, and how. A duration of zero means
// no limit, unless noted.
type Config struct {
	Targets []Endpoint
	Policy  balance.Policy
	HashBy  HashKey
	Retry   Retry
	// time without a response until a GET or HEAD also goes to another target;
	// 0 means never
	Hedge          time.Duration
	Transport      http.RoundTripper // replaces the built-in clients
	Dial           DialFunc          // connects to targets; nil means net.Dialer
	TLS            *tls.Config
	Show           func(*Target) any // called once to make a target's Face
	Late           func() []string   // names the settings that have changed since
	Pick           func(q *http.Request, left []*Target) *Target
	Rewrite        func(*httputil.ProxyRequest)
	ModifyResponse func(*http.Response) error
	Pages          map[int]http.Handler // by status, for responses of targets and of the proxy
	ErrorHandler   func(http.ResponseWriter, *http.Request, *exchange.Failure)

	RequestHeader, ResponseHeader Edit

	// bytes of a request's body to read before a target is chosen; 0 means none
	BufferRequests int64
	// bytes of a response's body to read ahead of a slow client; 0 means none
	BufferResponses int64

	// value of Strict-Transport-Security over TLS; replaces the target's. ""
	// keeps the target's.
	HSTS   string
	Sticky *Sticky // nil means no sticky sessions

	MaxInFlight       int           // exchanges in flight; 0 means no limit
	MaxTargetInFlight int           // attempts in flight at each target; 0 means no limit
	MaxQueue          int           // exchanges that wait for room
	QueueWait         time.Duration // 0 means 10 s
	Wake              *Wake         // nil means that the targets never sleep

	Guard    Guard
	Health   *health.Config // nil means that targets are always up
	Probe    Probe
	Failures []int // statuses of responses that count as failures for Health

	// Discover finds the endpoints, in place of Targets. Nil means that Targets
	// are the only ones.
	Discover discover.Source
	NotFound func(error) // called with the reason when Discover finds nothing; may be nil
	// Unflushed is called once, with the pattern of the route, if the
	// ResponseWriter for a stream cannot flush; may be nil.
	Unflushed func(pattern string)

	// FailClosed answers with 503 when no target is up. If false, targets are
	// then tried as if all were up.
	FailClosed bool

	ProxyProtocol int // version of the PROXY header on connections to targets; 0 means none

	Prefix     Prefix
	TargetHost bool
	Forwarded  bool
	Upgrades   []string

	// wait of Replace for new targets
	ReadyTimeout          time.Duration
	DrainTimeout          time.Duration // wait of Replace for exchanges at old ones
	DialTimeout           time.Duration
	ResponseHeaderTimeout time.Duration
	IdleTimeout           time.Duration
	// time for streams whose route or target was removed; 0 means none,
	// negative means no limit
	StreamGrace   time.Duration
	StreamTimeout time.Duration // of an upgraded connection
}

// A Forwarder is a compiled, valid Config. Its methods may be called
// concurrently.
type Forwarder struct {
	Config
	Encoder
	Span
	set      atomic.Pointer[set]
	edits    atomic.Pointer[[]withinEdit]
	changing chan struct{} // holds a token while set is being changed
	held     atomic.Pointer[hold]
	waiting  atomic.Int64 // exchanges that wait for the end of a hold, or for first targets
	diverted atomic.Pointer[diversion]
	mirrored atomic.Pointer[mirror]
	name     exchange.Pseudonym // in Via, where there is no Router
	guarded  bool
	limited  bool // there may be no room for an exchange
	busy     atomic.Int64
	queue    limit.Queue
	refused  atomic.Bool // a target has refused HTTP/1.1
	deaf     atomic.Bool // Unflushed was called
	plain    bool        // no hook needs an http.Request or an http.Response

	inFlight atomic.Int64  // exchanges, plus draining once Drain was called
	streams  atomic.Int64  // upgraded connections, also at the canary's targets
	repeats  atomic.Int64  // exchanges in flight that were sent more than once
	idle     chan struct{} // closed when draining and nothing is in flight
	emptied  sync.Once     // closes idle

	background background
	waker      *waker // nil means that the targets never sleep

	Memory  Memory           // of buffers
	Sweeper exchange.Sweeper // of exchanges of the handler lane
}

// New checks c, all faults at once, and compiles it.
func New(c Config) (*Forwarder, error) {
	errs := []error{c.RequestHeader.check("RequestHeader"), c.ResponseHeader.check("ResponseHeader"), c.Retry.check(), c.HashBy.check(), c.Guard.check(""), c.Probe.check(), c.Sticky.check(), c.Wake.check(), c.checkBounds(), c.checkPrefix(), c.checkPages(), c.checkBuffers()}
	if c.Health != nil {
		errs = append(errs, c.Health.Validate())
	}
	if c.Policy > balance.Hash {
		errs = append(errs, fmt.Errorf("field Policy is %d: want one of the constants, LessBusy to ConsistentHash", c.Policy))
	}
	f := &Forwarder{Config: c, Span: newSpan(nil), idle: make(chan struct{}), changing: make(chan struct{}, 1), background: background{found: make(chan struct{})}}
	f.Encoder, f.background.f = Encoder{&f.Config}, f
	f.Memory.most = max(bufferMemory, c.BufferRequests, c.BufferResponses)
	f.Sticky.compile()
	s, err := f.newSet(c.Targets, nil)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	f.set.Store(s)
	if c.HSTS != "" {
		f.ResponseHeader.yield(hsts)
	}
	f.RequestHeader.compile()
	f.ResponseHeader.compile()
	f.RequestHeader.last, f.ResponseHeader.last = f.lastOf(""), f.ResponseHeader.lastOwnOf("")
	f.limited, f.queue.Max, f.queue.Wait = c.MaxInFlight > 0 || c.MaxTargetInFlight > 0, c.MaxQueue, cmp.Or(c.QueueWait, 10*time.Second)
	f.plain, f.guarded = f.isPlain(), f.Guard.guarded()
	f.waker = newWaker(f)
	return f, nil
}

// checkBounds checks the numbers of c that no other type checks.
func (c *Config) checkBounds() error {
	var errs []error
	for name, n := range map[string]int64{"MaxRequestBody": c.Guard.MaxBody, "MaxInFlight": int64(c.MaxInFlight),
		"MaxTargetInFlight": int64(c.MaxTargetInFlight), "Queue.Max": int64(c.MaxQueue), "Queue.Wait": int64(c.QueueWait), "field Hedge": int64(c.Hedge)} {
		if n < 0 {
			errs = append(errs, fmt.Errorf("%s is negative: want 0 or more", name))
		}
	}
	if (c.MaxQueue != 0 || c.QueueWait != 0) && c.MaxInFlight == 0 && c.MaxTargetInFlight == 0 && c.Wake == nil {
		errs = append(errs, errors.New("field Queue requires MaxInFlight, MaxTargetInFlight or Wake: requests wait only above a limit, or for targets that sleep"))
	}
	if c.Hedge > 0 && c.Retry.Attempts == 1 {
		errs = append(errs, errors.New("field Hedge requires Retry.Attempts of at least 2, or 0 for the default: it is 1"))
	}
	if c.Hedge > 0 && c.Sticky != nil {
		errs = append(errs, errors.New("field Hedge cannot be combined with Sticky, which keeps a client at one target: set only one of them"))
	}
	if c.HashBy != (HashKey{}) && c.Policy != balance.Hash {
		errs = append(errs, errors.New("HashBy requires Policy ConsistentHash: set both, or leave HashBy empty"))
	}
	if c.ProxyProtocol < 0 || c.ProxyProtocol > 2 {
		errs = append(errs, fmt.Errorf("field ProxyProtocol is %d: want 1 or 2, the version of the protocol, or 0 for none", c.ProxyProtocol))
	}
	for _, s := range c.Failures {
		if s < 200 || s > 599 {
			errs = append(errs, fmt.Errorf("Breaker.Statuses has %d: want 200 to 599", s))
		}
	}
	return errors.Join(errs...)
}

// Drain refuses new exchanges, ends streams politely, and waits for exchanges
// in flight. If ctx is done first it cancels the rest, and the error says how
// many there were. At the end it closes idle upstream connections.
func (f *Forwarder) Drain(ctx context.Context) error {
	if f.life.Err() == nil && f.inFlight.Or(draining) == 0 {
		f.empty()
	}
	f.drain()

	var err error
	select {
	case <-f.idle:
	case <-ctx.Done():
		if left := f.inFlight.Load() & (draining - 1); left > 0 { // otherwise both cases are ready
			err = cutOff(left, f.streams.Load(), ctx.Err())
		}
	}
	f.die()
	f.CloseIdle()
	return err
}

// CloseIdle closes idle connections to targets, and ends background work until
// the next exchange. It does the same for the Forwarders that f diverts or
// mirrors to, and cuts off copies in flight.
func (f *Forwarder) CloseIdle() {
	for all, i := []*Forwarder{f}, 0; i < len(all); i++ {
		for _, other := range all[i].closeIdle() {
			if !slices.Contains(all, other) { // two Forwarders may mirror each other
				all = append(all, other)
			}
		}
	}
}

// Beside returns the Forwarders that f diverts and mirrors requests to; each
// may be nil.
func (f *Forwarder) Beside() (canary, mirror *Forwarder) {
	if d := f.diverted.Load(); d != nil {
		canary = d.to
	}
	if m := f.mirrored.Load(); m != nil {
		mirror = m.to
	}
	return canary, mirror
}

// closeIdle is CloseIdle for f alone. It returns the Forwarders that f diverts
// or mirrors to.
func (f *Forwarder) closeIdle() (others []*Forwarder) {
	if d := f.diverted.Load(); d != nil {
		others = append(others, d.to)
	}
	if m := f.mirrored.Load(); m != nil {
		m.end()
		others = append(others, m.to)
	}
	f.background.stop()
	for _, t := range f.Targets() {
		t.close()
	}
	return others
}

// Name returns the name of f in Via where there is no Router.
func (f *Forwarder) Name() string { return f.name.Text() }

// Waiting returns how many exchanges wait before they reach a target, and
// whether Pause or Answer holds all exchanges.
func (f *Forwarder) Waiting() (n int, held bool) {
	return f.queue.Len() + int(f.waiting.Load()), f.held.Load() != nil
}

// draining is the bit of inFlight that refuses new exchanges.
const draining = 1 << 62

// Enter counts an exchange in, or reports that the Forwarder is draining.
func (f *Forwarder) Enter() bool {
	if f.inFlight.Add(1) < draining {
		return true
	}
	f.Leave()
	return false
}

// Leave counts an exchange out.
func (f *Forwarder) Leave() {
	if f.inFlight.Add(-1) == draining {
		f.empty()
	}
}

func (f *Forwarder) empty() { f.emptied.Do(func() { close(f.idle) }) }

// ErrDraining is the cause of failures of exchanges that begin after Drain.
var ErrDraining = errors.New("upstream is draining")

// Shows reports whether a hook of f gets the client's request, or one that is
// made from it.
func (f *Forwarder) Shows() bool {
	return f.Transport != nil || f.Pick != nil || f.Rewrite != nil || f.ModifyResponse != nil || f.ErrorHandler != nil ||
		f.Guard.Limit.NeedsRequest()
}

// Introduces reports whether f, or the canary that f diverts to, sends PROXY
// headers to its targets.
func (f *Forwarder) Introduces() bool {
	d := f.diverted.Load()
	return f.ProxyProtocol != 0 || d != nil && d.to.ProxyProtocol != 0
}

// UpgradeProtocol returns the protocol that q asks for, if f allows it, or "".
// HTTP/1.0 cannot ask for one (RFC 9110, 7.8).
func (f *Forwarder) UpgradeProtocol(q *http.Request) string {
	if exchange.IsHTTP10(q) {
		return ""
	}
	asked := header.UpgradeProtocol(q.Header)
	if p := exchange.Protocol(q); p != "" {
		asked = p
	}
	for _, p := range f.Upgrades {
		if asked == p {
			return p
		}
	}
	return ""
}

// isPlain reports whether exchanges need no http.Request and http.Response: no
// hook gets one, and no edit touches a field that the proxy itself writes.
func (f *Forwarder) isPlain() bool {
	c := &f.Config
	return c.BufferResponses == 0 && c.Transport == nil && c.Pick == nil && c.Rewrite == nil && c.ModifyResponse == nil && c.ErrorHandler == nil &&
		!c.Guard.Limit.NeedsRequest() && c.RequestHeader.plain() && c.ResponseHeader.plain()
}
