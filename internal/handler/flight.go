package handler

import (
	"context"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/peek"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// A flight is an exchange of the handler lane as the sweeper sees it. It is
// also the context of its attempts: the client's, with Bind for their upstream
// connections. It is cheaper to check all flights regularly than to notify each
// one of everything that could end it.
type flight struct {
	context.Context // the client's
	*methods        // methods of its roundTrip

	f     *forward.Forwarder // the Forwarder whose Sweeper has the flight
	rc    http.ResponseController
	x     *exchange.Exchange
	last  atomic.Int64 // when a byte last moved, unix nanoseconds; 0 means no timeout runs
	begun atomic.Bool  // the response has begun
	open  atomic.Bool  // the response has no known end
	owes  atomic.Bool  // a read from the client is in progress, which must not be slow until begun
	// a write to the client is in progress; a stall is the client's fault
	slow  atomic.Bool
	reads atomic.Bool // the body is being read without an attempt
	// the exchange waits for its turn, and its body is not read; net/http then
	// does not notice that the client leaves
	waits atomic.Bool

	order exchange.Order // field order of the attempt's request
	// a hook or a goroutine may hold a context that leads here; used only by
	// the exchange's own goroutine
	lent bool

	mu     sync.Mutex         // guards the fields below
	span   *forward.Span      // life of the current attempt's target
	around *forward.Forwarder // the Forwarder that has diverted the exchange; nil if none has
	idle   time.Duration      // idle timeout; 0 means no limit
	lease  pool.Lease         // connection of the current attempt
	cancel context.CancelFunc
	mark   peek.Mark     // progress of the client's connection at the last check
	excuse time.Duration // the client's Excused at the last check
	cut    error         // why the flight was cut off
	doomed time.Time     // when a life was first seen to have ended
	stay   *forward.Stay // for a stream that outlives its route and its target; else nil
	until  time.Time     // end of an upgraded connection's time; zero means none
	polite func()        // ends an upgraded connection politely; nil for others

	// the body that a foreign client sends, until it has the response; else nil
	upload  *foreignBody
	turn    turn // what upload waits for
	starved bool // the attempt was ended: its target took nothing for too long

	swept exchange.Swept // entry in the Forwarder's Sweeper
}

// Inspect cuts off fl if it has become pointless.
func (fl *flight) Inspect(now time.Time) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	defer fl.contain()
	last := fl.last.Load()
	switch {
	case fl.cut != nil:
	case fl.Err() != nil:
		fl.abort(exchange.Ended(fl.Context))
	case fl.waits.Load() && exchange.HungUp(fl.Context):
		fl.abort(exchange.ErrClientGone)
	case fl.span.Killed() || fl.around != nil && fl.around.Killed() || fl.expired(now):
		fl.abort(exchange.ErrCut)
	case fl.polite != nil && fl.outlived(now):
		fl.polite()
	case last == 0:
	case fl.moved(now.Sub(time.Unix(0, last))), fl.excused():
		fl.touch()
	case !fl.overdue(now.Sub(time.Unix(0, last))):
	case fl.turn == targetsTurn:
		fl.starve()
	default:
		if fl.slow.Load() {
			fl.abort(exchange.ErrStalled)
		} else {
			fl.abort(exchange.ErrIdle)
		}
		_ = fl.rc.SetReadDeadline(now)
		if fl.begun.Load() { // otherwise there is still a response to write
			_ = fl.rc.SetWriteDeadline(now)
		}
	}
}

// contain turns a panic into the end of the flight. Context and writer may
// belong to middleware; on the sweeper's goroutine its panic would end the
// program. fl.mu is held.
func (fl *flight) contain() {
	if p := recover(); p != nil && fl.cut == nil {
		fl.abort(&exchange.PanicError{Hook: "middleware", Value: p, Stack: debug.Stack()})
	}
}

// moved reports whether a client has read something meanwhile. quiet is how
// long it has been written to. fl.mu is held.
func (fl *flight) moved(quiet time.Duration) bool {
	if !fl.slow.Load() || fl.idle <= 0 || quiet < fl.idle/4 {
		return false
	}
	mark, ok := exchange.MarkFrom(fl.Context)
	before := fl.mark
	fl.mark = mark
	return ok && mark != before
}

// excused reports whether the client, which should send its body, was not free
// to do so since the last call. fl.mu is held.
func (fl *flight) excused() bool {
	if !fl.owes.Load() {
		return false
	}
	before := fl.excuse
	fl.excuse = exchange.Excused(fl.Context)
	return fl.excuse != before
}

// overdue reports whether a pause of that length is too long. fl.mu is held.
func (fl *flight) overdue(quiet time.Duration) bool {
	limit := fl.idle
	if fl.owes.Load() && !fl.begun.Load() && (limit <= 0 || limit > exchange.BodyStall) {
		limit = exchange.BodyStall
	}
	return limit > 0 && quiet > limit
}

// expired reports whether a stream has outlived its grace. fl.mu is held.
func (fl *flight) expired(now time.Time) bool {
	if !fl.open.Load() {
		return false
	}
	if fl.stay.Over(now) {
		return true
	}
	if !fl.ending() {
		return false
	}
	if fl.doomed.IsZero() {
		fl.doomed = now
	}
	return now.Sub(fl.doomed) >= exchange.StreamGrace
}

// ending reports whether one of the flight's lives has ended.
func (fl *flight) ending() bool {
	for i, life := range fl.x.Lives {
		if life != nil && life.Err() != nil && (fl.stay == nil || i != exchange.RouteLife) {
			return true
		}
	}
	return fl.span.Ending() || fl.around != nil && fl.around.Ending()
}

// outlived reports whether the time of an upgraded connection is over. fl.mu is
// held.
func (fl *flight) outlived(now time.Time) bool {
	return fl.stay.Over(now) || !fl.until.IsZero() && !now.Before(fl.until)
}

// remain gives a streaming exchange the grace of s; nil gives it none.
func (fl *flight) remain(s *forward.Stay) {
	if s == nil {
		return
	}
	fl.mu.Lock()
	fl.stay, fl.span = s, s.Span()
	fl.mu.Unlock()
	s.Count()
}

// upgraded stores how to end an upgraded connection politely, and after what
// time; 0 means no limit.
func (fl *flight) upgraded(polite func(), after time.Duration) {
	fl.last.Store(0) // the tunnel has an idle limit of its own
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.polite = polite
	if after > 0 {
		fl.until = time.Now().Add(after)
	}
}

// abort ends whatever the flight waits for. fl.mu is held.
func (fl *flight) abort(cause error) {
	fl.cut = cause
	fl.lease.Abort()
	if fl.cancel != nil {
		fl.cancel()
	}
	if fl.reads.Load() {
		_ = fl.rc.SetReadDeadline(time.Unix(1, 0))
	}
}

// starve ends an attempt whose target does not take the request's body. fl.mu
// is held.
func (fl *flight) starve() {
	fl.last.Store(0)
	fl.turn = noTurn
	if fl.starved = fl.cancel != nil; fl.starved {
		fl.cancel()
	}
}

// giveUp ends the attempt, but not the exchange.
func (fl *flight) giveUp() {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.lease.Abort()
	if fl.cancel != nil {
		fl.cancel()
	}
}

// why returns why the flight was cut off, or nil.
func (fl *flight) why() error {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	return fl.cut
}

// aim sets the target of the next attempt or wait, and the Forwarder that has
// diverted it there.
func (fl *flight) aim(at *forward.Span, around *forward.Forwarder) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.span, fl.around = at, around
}

// serve sets the Forwarder that serves the exchange.
func (fl *flight) serve(f *forward.Forwarder) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.idle = f.IdleTimeout
}

// Bind makes an abort of the flight abort the lease. The returned function
// undoes that, and reports whether the flight was still going on.
func (fl *flight) Bind(l pool.Lease) (unbind func() bool) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.lease = l
	if fl.cut != nil {
		l.Abort()
	}
	return fl.unbind
}

// Dialed adds the time for opening a connection. A dial may keep the context
// that it was given.
func (fl *flight) Dialed(d time.Duration) { fl.x.Dial, fl.lent = fl.x.Dial+d, true }

// release ends Bind.
func (fl *flight) release() bool {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.lease = pool.Lease{}
	return fl.cut == nil
}

// cancelable returns a context for clients that do not know leases.
func (fl *flight) cancelable() (context.Context, context.CancelFunc) {
	fl.lent = true
	ctx, cancel := context.WithCancel(fl.Context)
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.cancel, fl.starved = cancel, false
	if fl.cut != nil {
		cancel()
	}
	return ctx, cancel
}

// Value implements context.Context.
func (fl *flight) Value(key any) any {
	if v, ok := fl.order.Value(key); ok {
		return v
	}
	return fl.Context.Value(key)
}

// touch notes that a byte moved.
func (fl *flight) touch() { fl.last.Store(time.Now().UnixNano()) }

// A turn is what a request's body that a foreign client sends waits for.
type turn int

const (
	noTurn      turn = iota // nothing that the idle timeout limits
	clientsTurn             // the client must send more
	targetsTurn             // the target must take what was read: a stall is its fault
)

// uploads makes r the body that a foreign client sends from now on.
func (fl *flight) uploads(r *foreignBody) {
	fl.mu.Lock()
	fl.upload = r
	fl.mu.Unlock()
	fl.pass(r, targetsTurn)
}

// pass notes what r waits for. It does nothing if r is nil, or once the foreign
// client has returned: it may read on during the response, and even during the
// next attempt.
func (fl *flight) pass(r *foreignBody, to turn) {
	if r == nil {
		return
	}
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.upload != r {
		return
	}
	switch fl.turn = to; to {
	case noTurn:
		fl.last.Store(0)
	case targetsTurn:
		fl.touch()
	}
}

// uploaded ends uploads, and reports whether the attempt was ended since its
// target took nothing for too long.
func (fl *flight) uploaded() (starved bool) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.upload, fl.turn = nil, noTurn
	fl.last.Store(0)
	return fl.starved
}
