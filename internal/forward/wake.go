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

// A Wake starts sleeping targets when an exchange needs them, and stops them
// after a while without exchanges.
type Wake struct {
	Start     func(context.Context) error
	Stop      func(context.Context) error // nil if targets fall asleep by themselves
	Timeout   time.Duration               // limit of each call of Start and Stop
	IdleAfter time.Duration               // time without an exchange until Stop; 0 means never
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

// A waker starts and stops the targets of a Forwarder, and knows whether they
// sleep.
//
// Hot path: while they are awake, an exchange costs two counters.
type waker struct {
	*Wake
	f *Forwarder

	users atomic.Int64 // exchanges at the targets; asleep is added while they sleep
	last  atomic.Int64 // when the last exchange left, in Unix nanoseconds

	mu     sync.Mutex    // guards what follows
	now    *phase        // the running Start or Stop; nil if none runs
	failed error         // error of the last Start
	again  time.Time     // Start is not called before this time
	poked  chan struct{} // closed when waiting exchanges have to check again
	idle   *time.Timer
	passed bool // another process uses the targets
}

// asleep is added to users while the targets sleep.
const asleep = -1 << 40

// A phase is one call of Start or Stop. It ends before the next one begins.
type phase struct {
	stops bool
	over  chan struct{} // closed at the end, or when the time is up
	late  bool          // the time is up, but the call still runs
	err   error         // why waiting exchanges fail; read it once over is closed
	waits int64         // exchanges that wait for the end
	woke  bool          // it has waked the targets, and users includes waits
}

// Sleep states, as the status page shows them.
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

// leave counts an exchange out.
func (w *waker) leave() {
	if w.users.Add(-1) == 0 {
		w.last.Store(time.Now().UnixNano())
	}
}

// awake reports whether the targets are awake. With a nil waker they always
// are.
func (w *waker) awake() bool { return w == nil || w.users.Load() >= 0 }

// busy keeps targets that are awake from falling asleep until the returned
// function is called.
func (w *waker) busy() (done func()) {
	if w == nil || !w.enter() {
		return func() {}
	}
	return w.leave
}

// poke makes waiting exchanges check again whether they have to wait.
func (w *waker) poke() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.poked)
	w.poked = make(chan struct{})
}

// state returns the sleep state of the targets, or "" if they are awake.
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

// Why exchanges did not reach sleeping targets.
var (
	errAsleep   = errors.New("asleep")
	errExited   = errors.New("the hook has ended its goroutine: want it to return")
	errWakeLate = errors.New("waking the targets has taken longer than Wake.Timeout")
	errStopLate = errors.New("the targets are falling asleep, and Wake.Stop has taken longer than Wake.Timeout")
)

// A wakeError says why Start failed.
type wakeError struct{ err error }

// Error implements error.
func (e *wakeError) Error() string { return "waking the targets failed: " + e.err.Error() }

// Unwrap returns the cause.
func (e *wakeError) Unwrap() error { return e.err }

// wakePause is the time after a failed Start until the next call.
const wakePause = time.Second

// next returns the phase for which an exchange has to wait, and begins one if
// none runs. It returns no phase if the targets are awake, or with an error.
// After a phase, settle must follow.
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

// settle ends the wait of an exchange for p. It reports whether p has waked the
// targets: then the exchange is counted in already, so that they cannot fall
// asleep before it reaches them.
func (w *waker) settle(p *phase) (in bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !p.woke {
		p.waits--
	}
	return p.woke
}

// refusal returns why an exchange may not wait for sleeping targets, or nil if
// it may. w.mu is held.
func (w *waker) refusal(now time.Time) error {
	switch {
	case w.now != nil && w.now.late:
		return w.now.err
	case w.now == nil && w.failed != nil && now.Before(w.again):
		return w.failed
	}
	return nil
}

// foresee returns the state of the targets, and why an exchange could not wait
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

// begin begins a phase, on its own goroutine. w.mu is held.
func (w *waker) begin(stops bool) {
	w.now = &phase{stops: stops, over: make(chan struct{})}
	go w.run(w.now)
}

// run runs a phase to its end.
func (w *waker) run(p *phase) {
	life, what, call := w.f.kill, "Wake.Start", w.start
	if p.stops { // running targets have to be stopped even after the Forwarder's end
		life, what, call = context.Background(), "Wake.Stop", w.stop
	}
	ctx, cancel := context.WithTimeout(life, w.Timeout)
	defer cancel()
	onTime := context.AfterFunc(ctx, func() { w.expire(p) })
	err := errExited // until call returns
	defer func() {
		onTime()
		if err != nil && w.Failed != nil {
			w.Failed(what, err)
		}
		w.end(p, err)
	}()
	err = call(ctx)
}

// start wakes the targets, and returns when one of them is ready.
func (w *waker) start(ctx context.Context) (err error) {
	if err := contained(ctx, "Wake.Start", w.Start); err != nil {
		return err
	}
	for _, t := range w.f.Targets() {
		t.monitor.Restarted(time.Now()) // health checks may begin only after it is ready
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

// stop puts the targets to sleep.
func (w *waker) stop(ctx context.Context) error {
	w.f.background.stop() // checks would find sleeping targets down
	for _, t := range w.f.Targets() {
		t.close()
	}
	if w.Stop == nil {
		return nil
	}
	return contained(ctx, "Wake.Stop", w.Stop)
}

// contained calls a hook, and turns a panic into an error.
func contained(ctx context.Context, name string, hook func(context.Context) error) (err error) {
	defer exchange.Contain(name, &err)
	return hook(ctx)
}

// expire ends the waits for p, whose time is up.
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

// end notes that p has ended with err. A Start that succeeds late has waked the
// targets too.
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

// look puts the targets to sleep if no exchange has needed them for IdleAfter;
// otherwise it looks again later.
func (w *waker) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := w.IdleAfter
	if !w.awake() || w.passed { // meanwhile
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

// PassOn ends the calls of Stop by this process, since another process has
// taken over: its exchanges may need the targets.
func (f *Forwarder) PassOn() {
	if f.waker == nil {
		return
	}
	f.waker.mu.Lock()
	defer f.waker.mu.Unlock()
	f.waker.passed = true
}

// Asleep notes that the targets have stopped by themselves: the next exchange
// wakes them. Exchanges in flight go on.
func (f *Forwarder) Asleep() error {
	if f.waker == nil {
		return errors.New("Upstream.Asleep requires Upstream.Wake: set it")
	}
	if f.waker.fallAsleep() {
		f.background.cancel() // without a wait: the caller may be a hook that a health check called
	}
	return nil
}

// fallAsleep notes that the targets sleep, and reports whether they were awake.
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

// anyServes reports whether one of the targets is ready: it answers the health
// check, or accepts a connection, and is not down.
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

// probePatience limits one probe of a target that was waked, before the next
// one.
const probePatience = 2 * time.Second

// mayStart begins the background work. While the targets sleep it does so only
// if no target could be found, or be up, without that work.
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

// heldUp waits for the end of p, unless too many exchanges wait already.
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

// maxAsleep returns how many exchanges may wait for sleeping targets.
func (f *Forwarder) maxAsleep() int64 { return int64(cmp.Or(f.MaxQueue, maxHeld)) }

// unawake returns the failure of an exchange whose targets cannot be waked,
// because of err.
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
