package forward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/limit"
)

// A Wake starts targets that sleep when an exchange needs them, and stops them
// when none has needed them for a while.
type Wake struct {
	Start     func(context.Context) error
	Stop      func(context.Context) error // nil if they fall asleep by themselves
	Timeout   time.Duration               // of each of the two
	IdleAfter time.Duration               // without an exchange, until Stop; 0 means never
	Failed    func(what string, err error)
}

func (w *Wake) check() error {
	switch {
	case w == nil:
		return nil
	case w.Start == nil:
		return errors.New("Wake.Start is nil: set it to a func that starts the targets")
	case w.Timeout <= 0:
		return fmt.Errorf("Wake.Timeout is %v: want 0 (30 s) or more", w.Timeout)
	case w.IdleAfter < 0:
		return fmt.Errorf("Wake.IdleAfter is %v: want 0 or more", w.IdleAfter)
	case w.Stop != nil && w.IdleAfter == 0:
		return errors.New("Wake.Stop requires Wake.IdleAfter: set it above 0")
	}
	return nil
}

// A waker knows whether the targets of a Forwarder sleep.
//
// Hot path: while they are awake, an exchange costs two counters.
type waker struct {
	*Wake
	f *Forwarder

	users atomic.Int64 // exchanges at the targets, plus asleep while they sleep
	last  atomic.Int64 // when there was none left, in Unix nanoseconds

	mu     sync.Mutex    // guards what follows
	now    *phase        // nil if neither Start nor Stop runs
	failed error         // of the last Start
	again  time.Time     // Start is not called before
	poked  chan struct{} // closed when those that wait have to look again
	idle   *time.Timer
	passed bool // another process uses the targets
}

// asleep is what users has more while the targets sleep.
const asleep = -1 << 40

// A phase is one call of Start or Stop. Both end before the next one begins.
type phase struct {
	stops bool
	over  chan struct{} // closed at the end, or when the time is up
	late  bool          // the time is up, and the call still runs
	err   error         // why those that wait go without; to be read once over is closed
	waits int64         // exchanges that wait for its end
	woke  bool          // it has waked the targets, which count those as users
}

// Sleep states, as they are shown.
const (
	stateAsleep   = "asleep"
	stateWaking   = "waking"
	stateStopping = "falling asleep"
)

func newWaker(f *Forwarder) *waker {
	if f.Config.Wake == nil {
		return nil
	}
	w := &waker{Wake: f.Config.Wake, f: f, poked: make(chan struct{})}
	w.users.Store(asleep)
	return w
}

// enter counts an exchange in, or reports that the targets sleep.
func (w *waker) enter() bool {
	if w.users.Add(1) > 0 {
		return true
	}
	w.users.Add(-1)
	return false
}

// leave undoes enter.
func (w *waker) leave() {
	if w.users.Add(-1) == 0 {
		w.last.Store(time.Now().UnixNano())
	}
}

// awake reports whether the targets are awake. A nil waker's always are.
func (w *waker) awake() bool { return w == nil || w.users.Load() >= 0 }

// busy keeps the targets from falling asleep until the returned function is
// called.
func (w *waker) busy() (done func()) {
	if w == nil || !w.enter() {
		return func() {}
	}
	return w.leave
}

// poke lets those that wait look again whether they have to.
func (w *waker) poke() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.poked)
	w.poked = make(chan struct{})
}

// state is what to show of the targets; "" if they are awake.
func (w *waker) state() string {
	if w.awake() {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.now == nil:
		return stateAsleep
	case w.now.stops:
		return stateStopping
	}
	return stateWaking
}

// Why exchanges that needed sleeping targets did not reach them.
var (
	errAsleep   = errors.New("asleep")
	errExited   = errors.New("the hook has ended its goroutine: want it to return")
	errWakeLate = errors.New("waking the targets has taken longer than Wake.Timeout")
	errStopLate = errors.New("the targets are falling asleep, and Wake.Stop has taken longer than Wake.Timeout")
)

// A wakeError is why Start has failed.
type wakeError struct{ err error }

// Error implements error.
func (e *wakeError) Error() string { return "waking the targets failed: " + e.err.Error() }

// Unwrap returns the cause.
func (e *wakeError) Unwrap() error { return e.err }

// wakePause is how long Start is not called again after it has failed.
const wakePause = time.Second

// next returns what an exchange that needs the targets has to wait for, and
// begins it if need be. It returns no phase if they are awake; settle must
// follow if there is one.
func (w *waker) next() (p *phase, poked <-chan struct{}, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.awake() {
		return nil, nil, nil
	}
	if err := w.refusal(time.Now()); err != nil {
		return nil, nil, err
	}
	if w.now == nil {
		w.begin(false)
	}
	w.now.waits++
	return w.now, w.poked, nil
}

// settle ends the wait of an exchange for p, and reports whether it is counted
// in since p has waked the targets: they cannot fall asleep again before it
// comes to them.
func (w *waker) settle(p *phase) (in bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !p.woke {
		p.waits--
	}
	return p.woke
}

// refusal is why an exchange does not wait for targets that sleep, nil if it
// does. w.mu is held.
func (w *waker) refusal(now time.Time) error {
	switch {
	case w.now != nil && w.now.late:
		return w.now.err
	case w.now == nil && w.failed != nil && now.Before(w.again):
		return w.failed
	}
	return nil
}

// foresee returns the state of the targets, and why an exchange would not wait
// for them now.
func (w *waker) foresee(now time.Time) (state string, err error) {
	if state = w.state(); state == "" {
		return "", nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return state, w.refusal(now)
}

// wake waits until the targets are awake.
func (w *waker) wake(ctx context.Context) error {
	for w != nil {
		p, _, err := w.next()
		if p == nil {
			return err
		}
		select {
		case <-p.over:
			err = p.err
		case <-ctx.Done():
			err = fmt.Errorf("the targets are %s: %w", w.state(), context.Cause(ctx))
		}
		if w.settle(p) {
			w.leave()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// begin begins a phase, on a goroutine that ends with it. w.mu is held.
func (w *waker) begin(stops bool) {
	w.now = &phase{stops: stops, over: make(chan struct{})}
	go w.run(w.now)
}

// run carries out a phase.
func (w *waker) run(p *phase) {
	life, what, call := w.f.kill, "Wake.Start", w.start
	if p.stops { // and whatever runs has to be stopped, behind the Forwarder's end too
		life, what, call = context.Background(), "Wake.Stop", w.stop
	}
	ctx, cancel := context.WithTimeout(life, w.Timeout)
	defer cancel()
	onTime := context.AfterFunc(ctx, func() { w.expire(p) })
	err := errExited // until it returns
	defer func() {
		onTime()
		if err != nil && w.Failed != nil {
			w.Failed(what, err)
		}
		w.end(p, err)
	}()
	err = call(ctx)
}

// start wakes the targets, and returns when one of them serves.
func (w *waker) start(ctx context.Context) (err error) {
	if err := contained(ctx, "Wake.Start", w.Start); err != nil {
		return err
	}
	for _, t := range w.f.Targets() {
		t.monitor.Restarted(time.Now()) // nobody checks it before it serves
	}
	for {
		ts := w.f.Targets()
		if len(ts) == 0 || w.f.anyServes(ctx, ts) {
			return nil
		}
		if !sleep(ctx, readyInterval) {
			return fmt.Errorf("Wake.Start has returned, but no target serves: %w", ctx.Err())
		}
	}
}

// stop lets the targets sleep.
func (w *waker) stop(ctx context.Context) error {
	w.f.background.stop() // what sleeps is not down
	for _, t := range w.f.Targets() {
		t.close()
	}
	if w.Stop == nil {
		return nil
	}
	return contained(ctx, "Wake.Stop", w.Stop)
}

// contained calls a hook.
func contained(ctx context.Context, name string, hook func(context.Context) error) (err error) {
	defer exchange.Contain(name, &err)
	return hook(ctx)
}

// expire lets those go that wait for p, whose time is up.
func (w *waker) expire(p *phase) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.now != p || p.late {
		return
	}
	if p.late, p.err = true, errWakeLate; p.stops {
		p.err = errStopLate
	}
	close(p.over)
}

// end notes that p has ended with err. A Start that was late has waked the
// targets all the same.
func (w *waker) end(p *phase, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now, w.failed = nil, nil
	switch {
	case p.stops:
	case err != nil:
		w.again, w.failed = time.Now().Add(wakePause), &wakeError{err}
		if p.late || errors.Is(err, context.DeadlineExceeded) {
			w.failed = fmt.Errorf("%w: %w", errWakeLate, err)
		}
	default:
		w.last.Store(time.Now().UnixNano())
		p.woke = true
		w.users.Add(p.waits - asleep)
		if w.IdleAfter > 0 && !w.passed {
			w.idle = time.AfterFunc(w.IdleAfter, w.look)
		}
	}
	if !p.late {
		p.err = w.failed
		close(p.over)
	}
}

// look lets the targets sleep if no exchange has needed them for IdleAfter, and
// looks again later otherwise.
func (w *waker) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := w.IdleAfter
	if !w.awake() || w.passed { // of late
		return
	}
	if w.users.Load() == 0 {
		left = time.Until(time.Unix(0, w.last.Load()).Add(w.IdleAfter))
	}
	if left > 0 || !w.users.CompareAndSwap(0, asleep) {
		w.idle.Reset(max(left, time.Millisecond))
		return
	}
	w.begin(true)
}

// PassOn leaves it to another process, which has taken over, to let the targets
// sleep: that this one does not need them says nothing any more.
func (f *Forwarder) PassOn() {
	if f.waker == nil {
		return
	}
	f.waker.mu.Lock()
	defer f.waker.mu.Unlock()
	f.waker.passed = true
}

// Asleep notes that the targets have stopped by themselves: the next exchange
// wakes them. What is in flight goes on.
func (f *Forwarder) Asleep() error {
	if f.waker == nil {
		return errors.New("Upstream.Asleep requires Upstream.Wake: set it")
	}
	if f.waker.fallAsleep() {
		f.background.cancel() // the caller may be a hook that a check has called
	}
	return nil
}

// fallAsleep reports whether the targets were awake.
func (w *waker) fallAsleep() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.awake() {
		return false
	}
	w.users.Add(asleep)
	if w.idle != nil {
		w.idle.Stop()
	}
	return true
}

// anyServes reports whether one of the targets serves: it answers the health
// check, or takes a connection, and is not down.
func (f *Forwarder) anyServes(ctx context.Context, ts []*Target) bool {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	serves := make(chan bool, len(ts))
	for _, t := range ts {
		go func() {
			err := errNoTarget
			defer func() { serves <- err == nil && !t.node.Suspended(time.Now()) }()
			defer exchange.Contain("Transport", &err)
			err = t.probe(ctx)
		}()
	}
	for range ts {
		if <-serves {
			return true
		}
	}
	return false
}

// probePatience is how long a target that was waked may take to show that it
// serves, before it is asked again.
const probePatience = 2 * time.Second

// mayStart begins the work in the background, unless it has to wait for targets
// that sleep: without it no target would be found, or be up.
func (f *Forwarder) mayStart() {
	if f.waker.awake() || f.Discover != nil || f.Health != nil && f.Health.Check.StartDown {
		f.background.start()
	}
}

// rouse waits until the targets are awake.
func (a *Attempts) rouse() *exchange.Failure {
	f := a.f
	f.mayStart()
	for f.held.Load() == nil {
		p, poked, err := f.waker.next()
		switch {
		case err != nil:
			return a.unawake(err)
		case p == nil:
			f.background.start()
			return nil
		}
		err = a.heldUp(p, poked)
		if f.waker.settle(p) {
			a.visits[a.stops-1].awake = true // until End
			if err == nil {
				f.background.start()
				return nil
			}
		}
		if err != nil {
			return a.unserved(err)
		}
		select {
		case <-p.over:
			if p.err != nil {
				return a.unawake(p.err)
			}
		default: // poked
		}
	}
	return nil
}

// heldUp waits for the end of p, if not too many wait already.
func (a *Attempts) heldUp(p *phase, poked <-chan struct{}) error {
	defer a.f.waiting.Add(-1)
	if a.f.waiting.Add(1) > a.f.maxAsleep() {
		return limit.ErrQueueFull
	}
	return a.await(func(gone <-chan struct{}) error {
		var late <-chan time.Time
		if d := a.f.QueueWait; d > 0 {
			t := time.NewTimer(d)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-p.over:
		case <-poked:
		case <-late:
			return limit.ErrQueueTimeout
		case <-gone:
			return errGone
		}
		return nil
	})
}

// maxAsleep is how many exchanges wait for targets that sleep.
func (f *Forwarder) maxAsleep() int64 { return int64(cmp.Or(f.MaxQueue, maxHeld)) }

// unawake is the failure of an exchange whose targets cannot be waked, because
// of err.
func (a *Attempts) unawake(err error) *exchange.Failure {
	fail := &exchange.Failure{Op: "pick", Side: exchange.SideProxy, Status: http.StatusServiceUnavailable, Reason: "destination_unavailable",
		RetryAfter: wakePause, Err: err}
	switch {
	case a.killed():
		fail.Side, fail.Err = exchange.SideDrain, exchange.ErrCut
	case errors.Is(err, errWakeLate), errors.Is(err, errStopLate):
		fail.Status, fail.Reason = http.StatusGatewayTimeout, "connection_timeout"
	}
	return fail
}
