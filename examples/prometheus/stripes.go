package prometheus

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"

	"github.com/hostproxy/hostproxy"
)

// batch is how many exchanges a stripe keeps before it counts them.
const batch = 64

// stripes keep what has ended until it is counted: when a stripe is full, and
// at each scrape. Counting one by one costs more where several processors write
// to the same series. Each processor mostly has a stripe of its own.
type stripes struct {
	all  []stripe
	next atomic.Uint32
	near sync.Pool // of *stripe; near the processor that used it last
}

// A stripe is a part of what has begun and ended.
type stripe struct {
	begun atomic.Uint64

	mu     sync.Mutex // guards what follows
	ended  uint64
	recent recent
	n      int
	kept   [batch]entry

	_ [64]byte // the next stripe is in another cache line
}

// An entry is an exchange and its first attempt, or a further attempt.
type entry struct {
	series
	duration, firstByte time.Duration
	received, sent      int64
}

// A series is what entries that are counted together have in common.
type series struct {
	pair     *pair // of the exchange; nil for a further attempt
	at       *pair // of the attempt; nil if there is none
	code     uint8
	protocol uint8
	atCode   uint8
}

func (s *stripes) init() {
	s.all = make([]stripe, min(runtime.GOMAXPROCS(0), 64))
	s.near.New = func() any { return &s.all[int(s.next.Add(1))%len(s.all)] }
}

// begin counts an exchange that begins.
func (s *stripes) begin() {
	x := s.near.Get().(*stripe)
	x.begun.Add(1)
	s.near.Put(x)
}

// keep keeps an exchange that has ended. Hot path: no allocation, and a lock
// that others rarely hold.
func (s *stripes) keep(m *Metrics, x *hostproxy.Exchange) {
	e := entry{duration: x.Duration, received: x.RequestBytes, sent: x.ResponseBytes}
	near := s.near.Get().(*stripe)
	near.mu.Lock()
	near.ended++
	p := m.pairs.find(&near.recent, pairKey{x.Pattern, x.Target})
	m.exchanges.observe(p, x)
	e.series = series{pair: p, code: codeOf(x.Status), protocol: protocolOf(x.Proto)}
	for i := range x.Timeline {
		a := &x.Timeline[i]
		if e.at = p; a.Target != x.Target {
			e.at = m.pairs.of(pairKey{x.Pattern, a.Target})
		}
		m.exchanges.observeAttempt(e.at, a)
		e.atCode, e.firstByte = codeOf(a.Status), a.FirstByte
		near.add(&m.exchanges, &e)
		e = entry{}
	}
	if e.pair != nil { // without an attempt
		near.add(&m.exchanges, &e)
	}
	near.mu.Unlock()
	s.near.Put(near)
}

// add keeps an entry. x.mu is held.
func (x *stripe) add(e *exchanges, one *entry) {
	x.kept[x.n] = *one
	if x.n++; x.n == batch {
		x.count(e)
	}
}

// count counts what is kept. x.mu is held.
func (x *stripe) count(e *exchanges) {
	for all := x.kept[:x.n]; len(all) > 0; {
		n := 1
		for n < len(all) && all[n].series == all[0].series {
			n++
		}
		e.countExchanges(all[:n])
		e.countAttempts(all[:n])
		all = all[n:]
	}
	x.n = 0
}

// count counts what all stripes keep, and returns how many exchanges have begun
// and not ended.
func (s *stripes) count(e *exchanges) (inFlight uint64) {
	var ended, begun uint64
	for i := range s.all {
		x := &s.all[i]
		x.mu.Lock()
		x.count(e)
		ended += x.ended
		x.mu.Unlock()
	}
	for i := range s.all { // last: what has ended has begun
		begun += s.all[i].begun.Load()
	}
	return begun - min(begun, ended)
}

// countExchanges counts exchanges of one series.
func (e *exchanges) countExchanges(all []entry) {
	p, code, protocol := all[0].pair, all[0].code, all[0].protocol
	if p == nil {
		return
	}
	p.requests[code][protocol].get(func() prom.Counter {
		return e.requests.WithLabelValues(p.pattern, p.target, codeLabels[code], protocolLabels[protocol])
	}).Add(float64(len(all)))
	durations := p.durations[code].get(func() *histogram { return e.durations.with(p.pattern, codeLabels[code]) })
	var received, sent int64
	durations.mu.Lock()
	for i := range all {
		durations.add(all[i].duration)
		received, sent = received+all[i].received, sent+all[i].sent
	}
	durations.mu.Unlock()
	if received > 0 {
		p.received.get(func() prom.Counter { return e.received.WithLabelValues(p.pattern) }).Add(float64(received))
	}
	if sent > 0 {
		p.sent.get(func() prom.Counter { return e.sent.WithLabelValues(p.pattern) }).Add(float64(sent))
	}
}

// countAttempts counts attempts of one series.
func (e *exchanges) countAttempts(all []entry) {
	p, code := all[0].at, all[0].atCode
	if p == nil {
		return
	}
	p.attempts[code].get(func() prom.Counter {
		return e.attempts.WithLabelValues(p.pattern, p.target, codeLabels[code])
	}).Add(float64(len(all)))
	if !slices.ContainsFunc(all, func(one entry) bool { return one.firstByte > 0 }) {
		return // without a response, and so without a series
	}
	firstBytes := p.firstBytes.get(func() *histogram { return e.firstBytes.with(p.pattern, p.target) })
	firstBytes.mu.Lock()
	defer firstBytes.mu.Unlock()
	for i := range all {
		if all[i].firstByte > 0 {
			firstBytes.add(all[i].firstByte)
		}
	}
}
