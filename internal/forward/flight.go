package forward

import (
	"context"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/peek"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// A flight is an exchange of the full lane as the sweeper sees it, and the
// context of its attempts: the client's, plus what an upstream connection is
// bound to. Looking at all flights now and then is cheaper than telling each
// of everything that could end it.
type flight struct {
	context.Context // the client's

	f     *Forwarder // whose flight it is
	rc    *http.ResponseController
	x     *Exchange
	last  atomic.Int64 // when a byte moved, unix nanoseconds; 0 means that nothing is timed
	begun atomic.Bool  // the response has begun
	open  atomic.Bool  // it has no known end
	owes  atomic.Bool  // the client is being read from, and owes haste until begun
	slow  atomic.Bool  // the client is being written to: if no byte moves now, it is the one that waits
	waits atomic.Bool  // for its turn, with a body that nobody reads: net/http does not see the client leave then

	mu     sync.Mutex    // guards what follows
	span   *span         // of the current attempt's target
	around *Forwarder    // that has diverted the exchange; nil if none has
	idle   time.Duration // how long no byte may move; 0 means no bound
	lease  pool.Lease    // the connection of the current attempt
	cancel context.CancelFunc
	mark   peek.Mark // of the client's connection, when it was last looked at
	cut    error     // why the flight was cut off
	doomed time.Time // when a life was first seen to have ended
	stay   *Stay     // of a stream that outlives its route and its target; nil if it does not
	until  time.Time // when an upgraded connection has lived long enough; zero means never
	polite func()    // ends an upgraded connection politely; nil if it is none

	next, prev *flight // in the Forwarder's list; guarded by its mu
}

// sweepInterval is how often flights are looked at, streamGrace how long a
// response without a known end may go on after its server, route or upstream
// began to go.
const (
	sweepInterval = 50 * time.Millisecond
	streamGrace   = 10 * time.Second
)

// takeOff adds fl to the flights, and starts the sweeper if it rests.
func (f *Forwarder) takeOff(fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.next = f.flights; fl.next != nil {
		fl.next.prev = fl
	}
	f.flights = fl
	if f.sweeping {
		return
	}
	f.sweeping = true
	if f.sweeper == nil {
		f.sweeper = time.AfterFunc(sweepInterval, f.sweep)
	} else {
		f.sweeper.Reset(sweepInterval)
	}
}

// land removes fl.
func (f *Forwarder) land(fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.prev != nil {
		fl.prev.next = fl.next
	} else {
		f.flights = fl.next
	}
	if fl.next != nil {
		fl.next.prev = fl.prev
	}
}

// sweep looks at every flight, and runs again while there is one.
func (f *Forwarder) sweep() {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for fl := f.flights; fl != nil; fl = fl.next {
		fl.inspect(now)
	}
	if f.sweeping = f.flights != nil; f.sweeping {
		f.sweeper.Reset(max(sweepInterval, 100*time.Since(now)))
	}
}

// inspect cuts fl off if it has become pointless.
func (fl *flight) inspect(now time.Time) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	defer fl.contain()
	last := fl.last.Load()
	switch {
	case fl.cut != nil:
	case fl.Err() != nil, fl.waits.Load() && hungUp(fl.Context):
		fl.abort(errClientGone)
	case fl.span.Killed() || fl.around != nil && fl.around.Killed() || fl.expired(now):
		fl.abort(errCut)
	case fl.polite != nil && fl.outlived(now):
		fl.polite()
	case last == 0:
	case fl.moved(now.Sub(time.Unix(0, last))):
		fl.touch()
	case fl.overdue(now.Sub(time.Unix(0, last))):
		if fl.slow.Load() {
			fl.abort(errStalled)
		} else {
			fl.abort(errIdle)
		}
		_ = fl.rc.SetReadDeadline(now)
		if fl.begun.Load() { // else there is an answer to write
			_ = fl.rc.SetWriteDeadline(now)
		}
	}
}

// contain makes a panic the end of the flight: its context and its writer may be
// somebody's middleware, and on the sweeper's goroutine it would be the program's.
// fl.mu is held.
func (fl *flight) contain() {
	if p := recover(); p != nil && fl.cut == nil {
		fl.abort(&PanicError{"middleware", p, debug.Stack()})
	}
}

// moved reports whether a client that is being written to, and has been for so
// long, has taken something meanwhile. fl.mu is held.
func (fl *flight) moved(quiet time.Duration) bool {
	if !fl.slow.Load() || fl.idle <= 0 || quiet < fl.idle/4 {
		return false
	}
	mark, ok := markFrom(fl.Context)
	before := fl.mark
	fl.mark = mark
	return ok && mark != before
}

// overdue reports whether no byte may fail to move for that long. fl.mu is held.
func (fl *flight) overdue(quiet time.Duration) bool {
	limit := fl.idle
	if fl.owes.Load() && !fl.begun.Load() && (limit <= 0 || limit > BodyStall) {
		limit = BodyStall
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
	return now.Sub(fl.doomed) >= streamGrace
}

// ending reports whether one of the flight's lives has ended.
func (fl *flight) ending() bool {
	for i, life := range fl.x.Lives {
		if life != nil && life.Err() != nil && (fl.stay == nil || i != routeLife) {
			return true
		}
	}
	return fl.span.Ending() || fl.around != nil && fl.around.Ending()
}

// outlived reports whether an upgraded connection has had its time. fl.mu is held.
func (fl *flight) outlived(now time.Time) bool {
	return fl.stay.Over(now) || !fl.until.IsZero() && !now.Before(fl.until)
}

// remain lets the stream that the exchange has become have the grace of s. Nil
// gives it none.
func (fl *flight) remain(s *Stay) {
	if s == nil {
		return
	}
	fl.mu.Lock()
	fl.stay, fl.span = s, s.target.within
	fl.mu.Unlock()
	s.Count()
}

// upgraded notes how to end an upgraded connection politely, and when it has to
// end; 0 means never.
func (fl *flight) upgraded(polite func(), after time.Duration) {
	fl.last.Store(0) // the tunnel has an idle limit of its own
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.polite = polite
	if after > 0 {
		fl.until = time.Now().Add(after)
	}
}

// abort ends what the flight waits for. fl.mu is held.
func (fl *flight) abort(cause error) {
	fl.cut = cause
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

// aim notes what the next attempt or wait is at, and who has diverted it there.
func (fl *flight) aim(at *span, around *Forwarder) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.span, fl.around = at, around
}

// serve notes who serves the exchange.
func (fl *flight) serve(f *Forwarder) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.idle = f.IdleTimeout
}

// bind makes an abort of the flight one of the lease. The returned function
// undoes it and reports whether it came in time.
func (fl *flight) bind(l pool.Lease) (unbind func() bool) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.lease = l
	if fl.cut != nil {
		l.Abort()
	}
	return fl.unbind
}

// dialed notes how long the exchange has waited for a connection to be opened.
func (fl *flight) dialed(d time.Duration) { fl.x.Dial += d }

func (fl *flight) unbind() bool {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.lease = pool.Lease{}
	return fl.cut == nil
}

// cancelable returns a context for clients that know nothing of leases.
func (fl *flight) cancelable() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(fl.Context)
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.cancel = cancel
	if fl.cut != nil {
		cancel()
	}
	return ctx, cancel
}

// touch notes that a byte moved.
func (fl *flight) touch() { fl.last.Store(time.Now().UnixNano()) }
