package guard

import (
	"errors"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hostproxy/hostproxy"
)

// A Meter remembers the latest attempts of each route. The zero value is ready
// to use; it must not be copied. Its methods may be called concurrently.
type Meter struct {
	mu     sync.Mutex
	routes map[string]*history // by pattern
}

// remembered is how many attempts of a route a Meter remembers.
const remembered = 512

// A history is what a Meter knows about a route.
type history struct {
	samples []sample // a ring of up to remembered ones
	next    int      // where the next sample goes
	watch   *Watch   // nil if there is none
}

// A sample is one attempt that has ended.
type sample struct {
	target      string
	failed      bool
	wait, whole time.Duration // until the response began, and until it ended
}

// A begun is an attempt in flight at a watched target.
type begun struct {
	watch   *Watch
	start   time.Time
	streams bool // it may go on for hours
	untimed bool // see Outcome
	counted bool // the Judge has it
}

func (m *Meter) history(pattern string) *history {
	h := m.routes[pattern]
	if h == nil {
		if m.routes == nil {
			m.routes = map[string]*history{}
		}
		h = new(history)
		m.routes[pattern] = h
	}
	return h
}

// Forget forgets what is known about the route of pattern, which was removed.
func (m *Meter) Forget(pattern string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.routes, pattern)
}

// BeginAttempt is for Router.BeginAttempt, or to be called by the program's own
// one. It uses Attempt.Value while a Watch is in progress.
func (m *Meter) BeginAttempt(b *hostproxy.Beginning) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.routes[b.Exchange.Pattern]
	if h == nil || h.watch == nil || !h.watch.targets[b.Attempt.Target] {
		return
	}
	x := &begun{watch: h.watch, start: b.Attempt.Start, streams: streams(b)}
	x.untimed = x.streams || !h.watch.times(x.start)
	b.Attempt.Value = x
	h.watch.inFlight[x] = true
}

// streams reports whether the request asks for a WebSocket or an event stream.
// A hook sees no response before its end.
func streams(b *hostproxy.Beginning) bool {
	return b.Exchange.Method == http.MethodConnect || b.Header("Upgrade") != "" || strings.Contains(b.Header("Accept"), "text/event-stream")
}

// Observe is for Router.Observe, or to be called by the program's own one.
func (m *Meter) Observe(x *hostproxy.Exchange) {
	if x.Pattern == "" || len(x.Timeline) == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.history(x.Pattern)
	for i := range x.Timeline {
		a := &x.Timeline[i]
		s, counts := judged(a)
		if b, ok := a.Value.(*begun); ok {
			b.watch.end(b, s, counts)
		}
		if counts {
			h.add(s)
		}
	}
}

// judged makes a sample of an attempt, and reports whether the target is
// responsible for it. It is not if the client disconnected, or if this proxy
// ended the attempt.
func judged(a *hostproxy.Attempt) (s sample, counts bool) {
	s = sample{target: a.Target, failed: a.Status >= 500, wait: a.FirstByte, whole: a.Duration}
	if a.FirstByte == 0 {
		s.wait = a.Duration // so long there was no response
	}
	var failure *hostproxy.Error
	if errors.As(a.Err, &failure) {
		s.failed = s.failed || failure.Side == hostproxy.SideUpstream
		return s, s.failed || a.Status > 0
	}
	return s, true
}

func (h *history) add(s sample) {
	if len(h.samples) < remembered {
		h.samples = append(h.samples, s)
		return
	}
	h.samples[h.next] = s
	h.next = (h.next + 1) % remembered
}

// Baseline returns what the given targets of a route were like in the latest
// 512 attempts of that route. Targets are written as in Exchange.Target.
func (m *Meter) Baseline(pattern string, targets ...string) Baseline {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b Baseline
	var waits, wholes []time.Duration
	for _, s := range m.history(pattern).samples {
		if !slices.Contains(targets, s.target) {
			continue
		}
		b.Requests++
		if s.failed {
			b.Failures++
			continue
		}
		waits, wholes = append(waits, s.wait), append(wholes, s.whole)
	}
	b.Tail, b.Beyond = tail(waits)
	b.Whole, _ = tail(wholes)
	return b
}

// tail returns the p99 of ds, or their maximum if they are fewer than a
// hundred. A further value exceeds the k-th largest of n values with
// probability k/(n+1), whatever their distribution is.
func tail(ds []time.Duration) (time.Duration, float64) {
	if len(ds) == 0 {
		return 0, 1
	}
	slices.Sort(ds)
	k := int(math.Ceil(float64(len(ds)) / 100))
	return ds[len(ds)-k], float64(k) / float64(len(ds)+1)
}
