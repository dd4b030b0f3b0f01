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

// batch is how many entries a stripe keeps before it counts them.
const batch = 64

// stripes keep the exchanges that have ended until they are counted: when a
// stripe is full, and at each scrape. Counting them one by one costs more when
// several processors write to the same series. Each processor mostly uses a
// stripe of its own.
type stripes struct {
	all  []stripe
	next atomic.Uint32
	near sync.Pool // of *stripe; mostly yields the one that this processor used last
}

// A stripe has a part of the exchanges.
type stripe struct {
	begun atomic.Uint64

	mu     sync.Mutex // guards the fields below
	ended  uint64
	recent recent
	n      int
	kept   [batch]entry

	_ [64]byte // puts the next stripe into another cache line
}

// An entry is an exchange with its first attempt, or a further attempt.
type entry struct {
	series
	duration, firstByte time.Duration
	received, sent      int64
}

// A series is what entries must have in common to be counted together.
type series struct {
	pair     *pair // pair of the exchange; nil for a further attempt
	at       *pair // pair of the attempt; nil if there is none
	code     uint8
	protocol uint8
	atCode   uint8
}

func (s *stripes) init() {
	s.all = make([]stripe, min(runtime.GOMAXPROCS(0), 64))
	s.near.New = func() any { return &s.all[int(s.next.Add(1))%len(s.all)] }
}

// begin counts the begin of an exchange.
func (s *stripes) begin() {
	x := s.near.Get().(*stripe)
	x.begun.Add(1)
	s.near.Put(x)
}

// keep keeps an exchange that has ended. Hot path: no allocation, and a lock
// that is rarely contended.
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
	if e.pair != nil { // an exchange without attempts
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

// count counts the kept entries. x.mu is held.
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

// count counts the entries of all stripes. It returns how many exchanges are in
// flight.
func (s *stripes) count(e *exchanges) (inFlight uint64) {
	var ended, begun uint64
	for i := range s.all {
		x := &s.all[i]
		x.mu.Lock()
		x.count(e)
		ended += x.ended
		x.mu.Unlock()
	}
	for i := range s.all { // read last, so that begun includes every exchange in ended
		begun += s.all[i].begun.Load()
	}
	return begun - min(begun, ended)
}

// countExchanges counts the exchanges of one series.
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

// countAttempts counts the attempts of one series.
func (e *exchanges) countAttempts(all []entry) {
	p, code := all[0].at, all[0].atCode
	if p == nil {
		return
	}
	p.attempts[code].get(func() prom.Counter {
		return e.attempts.WithLabelValues(p.pattern, p.target, codeLabels[code])
	}).Add(float64(len(all)))
	if !slices.ContainsFunc(all, func(one entry) bool { return one.firstByte > 0 }) {
		return // no response, so no series
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
