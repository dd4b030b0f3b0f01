package guard

import (
	"errors"
	"net/http"
	"net/netip"
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

// remembered is how many attempts a Meter remembers per route.
const remembered = 512

// A history is what a Meter knows about a route.
type history struct {
	samples []sample // ring buffer of up to remembered samples
	next    int      // index of the next sample
	watch   *Watch   // nil if no Watch is in progress
}

// A sample is an ended attempt.
type sample struct {
	target      string
	client      netip.Addr // see network
	request     uint64     // see hash
	failed      bool
	timed       bool          // wait depends on the target alone
	streams     bool          // whole may be hours
	wait, whole time.Duration // until the response began, and until it ended
}

// streaming is the Attempt.Value of a streaming attempt that is not watched.
type streaming struct{}

// A begun is an attempt in flight at a watched target.
type begun struct {
	watch   *Watch
	start   time.Time
	target  string
	request uint64     // see hash
	client  netip.Addr // see network
	whole   bool       // as Attempt.Whole
	streams bool       // the request may last for hours
	untimed bool       // see Outcome
	counted bool       // the Judge has its outcome
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

// Forget forgets a route that was removed.
func (m *Meter) Forget(pattern string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.routes, pattern)
}

// BeginAttempt is for Router.BeginAttempt, or to be called by your own hook. It
// uses Attempt.Value.
func (m *Meter) BeginAttempt(b *hostproxy.Beginning) {
	streams := streams(b)
	if streams {
		b.Attempt.Value = streaming{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.routes[b.Exchange.Pattern]
	if h == nil || h.watch == nil || !h.watch.targets[b.Attempt.Target] {
		return
	}
	x := &begun{watch: h.watch, start: b.Attempt.Start, target: b.Attempt.Target, request: hash(b.Exchange), client: network(b.Exchange.Client),
		whole: b.Attempt.Whole, streams: streams}
	x.untimed = streams || !x.whole || !h.watch.times(x.start)
	b.Attempt.Value = x
	h.watch.inFlight[x] = true
}

// network returns a client's address, or its network for IPv6: a client has all
// addresses of its network.
func network(client netip.Addr) netip.Addr {
	client = client.Unmap().WithZone("")
	if client.Is6() {
		p, _ := client.Prefix(64)
		return p.Addr()
	}
	return client
}

// streams reports whether the request asks for a WebSocket or an event stream.
// Hooks see a response only when it has ended.
func streams(b *hostproxy.Beginning) bool {
	return b.Exchange.Method == http.MethodConnect || b.Header("Upgrade") != "" || strings.Contains(b.Header("Accept"), "text/event-stream")
}

// Observe is for Router.Observe, or to be called by your own hook.
func (m *Meter) Observe(x *hostproxy.Exchange) {
	if x.Pattern == "" || len(x.Timeline) == 0 {
		return
	}
	request, client := hash(x), network(x.Client)
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.history(x.Pattern)
	for i := range x.Timeline {
		a := &x.Timeline[i]
		s, counts := judged(a)
		s.request, s.client = request, client
		switch v := a.Value.(type) {
		case streaming:
			s.streams = true
		case *begun:
			s.streams = v.streams
			v.watch.end(v, s, a.FirstByte > 0, counts)
		}
		if counts {
			h.add(s)
		}
	}
}

// judged turns an attempt into a sample. It reports whether the target is
// responsible for the result. It is not if the client disconnected, or if this
// proxy ended the attempt.
func judged(a *hostproxy.Attempt) (s sample, counts bool) {
	s = sample{target: a.Target, failed: a.Status >= 500, timed: a.Whole, wait: a.FirstByte, whole: a.Duration}
	if a.FirstByte == 0 {
		s.wait = a.Duration // no response came in this time
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
