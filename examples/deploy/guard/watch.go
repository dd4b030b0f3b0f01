package guard

import (
	"context"
	"net/netip"
	"time"
)

// A Watch counts the requests at new targets until it can tell whether they are
// worse. Only one Watch per route can be in progress: a new one ends the old
// one.
type Watch struct {
	meter   *Meter
	pattern string
	limits  Limits
	hang    time.Duration
	space   time.Duration // least time between the starts of timed requests
	targets map[string]bool
	decided chan struct{}

	judge    *Judge // guarded by meter.mu, like the fields below
	inFlight map[*begun]bool
	answered map[string]time.Time // start of the latest request that each target has answered
	blames   map[netip.Addr]int   // counted failed or slow requests of each client
	timed    time.Time            // start of the latest timed request
	onWorse  func()               // nil does nothing
}

// How often requests in flight are checked, and after which time a stream
// without a failure counts as started.
const (
	lookInterval = 100 * time.Millisecond
	streamBegins = time.Second
)

// Limits of Watch.space. The first one keeps a standstill of half a second from
// looking like a slow target. The second one lets fifty requests be timed
// within a minute.
const (
	leastSpace = 250 * time.Millisecond
	mostSpace  = time.Second
)

// Watch starts to count the attempts at these new targets of a route. They are
// written as in Exchange.Target. Call it before the new targets get requests,
// and call Stop in the end. Requests at other targets do not count. It returns
// an error if a limit is invalid.
func (m *Meter) Watch(pattern string, l Limits, b Baseline, targets ...string) (*Watch, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	slow, _ := b.slowAfter(l)
	w := &Watch{meter: m, pattern: pattern, limits: l, hang: b.hangsAfter(l), space: min(max(slow, leastSpace), mostSpace), targets: map[string]bool{},
		decided: make(chan struct{}), judge: NewJudge(l, b), inFlight: map[*begun]bool{}, answered: map[string]time.Time{}, blames: map[netip.Addr]int{}}
	for _, t := range targets {
		w.targets[t] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.history(pattern).watch = w
	return w, nil
}

// Stop ends the Watch.
func (w *Watch) Stop() {
	w.meter.mu.Lock()
	defer w.meter.mu.Unlock()
	if h := w.meter.routes[w.pattern]; h != nil && h.watch == w {
		h.watch = nil
	}
}

// OnWorse sets a func that is called as soon as the new targets are found to be
// worse, before Wait returns. Use it to keep further requests away from them. f
// runs in the goroutine of a request: it must not block, and must not call the
// Meter or the Watch. Call OnWorse before the new targets get requests.
func (w *Watch) OnWorse(f func()) {
	w.meter.mu.Lock()
	defer w.meter.mu.Unlock()
	w.onWorse = f
}

// Requests returns how many requests were counted.
func (w *Watch) Requests() int {
	w.meter.mu.Lock()
	defer w.meter.mu.Unlock()
	return w.judge.Requests()
}

// Wait waits for the verdict. It returns a *WorseError if the new targets are
// worse. It returns nil if they are not, or after Limits.For. If ctx is done
// first, it returns the cause. Requests that hang are noticed only during Wait.
func (w *Watch) Wait(ctx context.Context) error {
	end := time.NewTimer(w.limits.length())
	defer end.Stop()
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		select {
		case <-w.decided:
			return w.judge.Err() // the verdict is final
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-end.C:
			return nil
		case now := <-tick.C:
			w.look(now)
		}
	}
}

// times reports whether a request that starts at begin is timed. meter.mu is
// held.
func (w *Watch) times(begin time.Time) bool {
	if begin.Sub(w.timed) < w.space {
		return false
	}
	w.timed = begin
	return true
}

// look counts requests in flight: those that have had no response for too long,
// and streams that have started. meter.mu is not held.
func (w *Watch) look(now time.Time) {
	w.meter.mu.Lock()
	defer w.meter.mu.Unlock()
	for b := range w.inFlight {
		age := now.Sub(b.start)
		switch {
		case b.counted:
		case b.streams && age > streamBegins:
			b.counted = true
			w.add(Outcome{Untimed: true})
		case age > w.hang && w.hangs(b):
			b.counted = true
			w.bad(b, Outcome{Wait: age, Untimed: b.untimed})
		}
	}
}

// hangs reports whether a long request in flight may prove that the target
// hangs. The response may have begun, and the client may read it slowly. So it
// proves nothing if the target has answered a request that started later.
func (w *Watch) hangs(b *begun) bool {
	return !b.untimed && !w.answered[b.target].After(b.start)
}

// end counts an attempt that has ended, unless look has counted it. Not every
// end is the target's responsibility. But if a client gave up waiting for a
// slow response, the response was slow all the same. meter.mu is held.
func (w *Watch) end(b *begun, s sample, answered, counts bool) {
	delete(w.inFlight, b)
	if answered && b.start.After(w.answered[b.target]) {
		w.answered[b.target] = b.start
	}
	slow, _ := w.judge.base.slowAfter(w.limits)
	if b.counted || !counts && (b.streams || !b.whole || s.wait <= slow) {
		return
	}
	if !counts {
		s.failed = false
	}
	o := Outcome{Failed: s.failed, Wait: s.wait, Untimed: b.untimed}
	if s.failed || s.wait > slow && !b.untimed {
		w.bad(b, o)
		return
	}
	w.add(o)
}

// bad counts a failed or slow request, unless it proves nothing. meter.mu is
// held.
func (w *Watch) bad(b *begun, o Outcome) {
	if w.proves(b) {
		w.add(o)
	} else if !o.Failed { // a slow response is still a response
		w.add(Outcome{Untimed: true})
	}
}

const (
	// counted failed or slow requests per client: too few to go back
	mostBlames = 2
	// with fewer clients, each one may be a load balancer
	fewClients = 3
)

// proves reports whether a failed or slow request says something about the new
// targets. meter.mu is held.
func (w *Watch) proves(b *begun) bool {
	base := &w.judge.base
	switch {
	case has(base.Bad, b.request):
		return false
	case base.Requests < enough, base.Clients < fewClients && has(base.Good, b.request):
		return true
	case w.blames[b.client] == mostBlames:
		return false
	}
	w.blames[b.client]++
	return true
}

// add passes an outcome to the Judge. meter.mu is held.
func (w *Watch) add(o Outcome) {
	if w.judge.verdict != Undecided || w.judge.Add(o) == Undecided {
		return
	}
	if w.judge.verdict == GoBack && w.onWorse != nil {
		w.onWorse()
	}
	close(w.decided)
}
