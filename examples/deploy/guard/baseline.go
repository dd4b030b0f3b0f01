package guard

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy"
)

// A Baseline describes how the old targets performed. The zero value means that
// nothing is known about them.
type Baseline struct {
	Requests int `json:"requests"` // attempts that count
	Failures int `json:"failures"` // failed ones among these
	// time to the response that only the share Beyond exceeds
	Tail   time.Duration `json:"tail"`
	Beyond float64       `json:"beyond"` // about 0.01
	Whole  time.Duration `json:"whole"`  // like Tail, but to the end of the response

	Clients int `json:"clients,omitempty"` // an IPv6 network counts as one client

	// hashes of the requests with a good response within Tail, and of those
	// without a good response; sorted
	Good []uint64 `json:"good,omitempty"`
	Bad  []uint64 `json:"bad,omitempty"`
}

// enough is how many requests a Baseline needs to define what is slow.
const enough = 20

// served returns how many requests had a good response.
func (b Baseline) served() int { return b.Requests - b.Failures }

// timed reports whether times can be compared.
func (b Baseline) timed() bool { return b.served() >= enough && b.Tail > 0 }

// slowAfter returns the time after which a response is slow, and the share of
// the old targets' responses that may exceed it.
func (b Baseline) slowAfter(l Limits) (time.Duration, float64) {
	if !b.timed() {
		return l.slow(), 0.05
	}
	return max(time.Duration(float64(b.Tail)*l.slower()), b.Tail+l.grace()), max(b.Beyond, leastShare)
}

// hangsAfter returns the time after which a request that has not ended is slow.
func (b Baseline) hangsAfter(l Limits) time.Duration {
	slow, _ := b.slowAfter(l)
	if !b.timed() {
		return slow
	}
	return max(slow, time.Duration(float64(b.Whole)*l.slower()))
}

// failing returns the expected share of failures. It adds 20 requests with one
// failure to those counted, since few requests without a failure prove little.
func (b Baseline) failing() float64 {
	return max(float64(b.Failures+1)/float64(b.Requests+20), leastShare)
}

// leastShare is the smallest share of failures that counts as usual. Without
// it, one failure of a target whose predecessor never failed would prove too
// much.
const leastShare = 0.01

// Baseline returns how these targets of a route performed in the route's latest
// 512 attempts. Targets are written as in Exchange.Target. Requests that never
// had a good response do not count.
func (m *Meter) Baseline(pattern string, targets ...string) Baseline {
	m.mu.Lock()
	defer m.mu.Unlock()
	var own []sample
	for _, s := range m.history(pattern).samples {
		if slices.Contains(targets, s.target) {
			own = append(own, s)
		}
	}
	var b Baseline
	b.times(own)
	b.count(own)
	return b
}

// times sets the times of b.
func (b *Baseline) times(own []sample) {
	var waits, wholes []time.Duration
	for _, s := range own {
		if s.failed {
			continue
		}
		if s.timed {
			waits = append(waits, s.wait)
		}
		if !s.streams {
			wholes = append(wholes, s.whole)
		}
	}
	if len(waits) >= enough {
		b.Tail, b.Beyond = tail(waits)
	}
	b.Whole, _ = tail(wholes)
}

// count sets the clients, requests and failures of b. Call it after times.
func (b *Baseline) count(own []sample) {
	good, fast, clients := map[uint64]bool{}, map[uint64]bool{}, map[netip.Addr]bool{}
	for _, s := range own {
		clients[s.client] = true
		good[s.request] = good[s.request] || !s.failed
		fast[s.request] = fast[s.request] || !s.failed && (!s.timed || b.Tail == 0 || s.wait <= b.Tail)
	}
	for _, s := range own {
		switch {
		case !good[s.request]:
		case s.failed:
			b.Failures++
			fallthrough
		default:
			b.Requests++
		}
	}
	for request, fast := range fast {
		if fast {
			b.Good = append(b.Good, request)
		} else {
			b.Bad = append(b.Bad, request)
		}
	}
	b.Clients = len(clients)
	slices.Sort(b.Good)
	slices.Sort(b.Bad)
}

// has reports whether the sorted requests contain request.
func has(requests []uint64, request uint64) bool {
	_, ok := slices.BinarySearch(requests, request)
	return ok
}

// hash returns the hash of a request's method and URL. Clients choose these, so
// the hash must not let them find collisions.
func hash(x *hostproxy.Exchange) uint64 {
	text := strings.Join([]string{x.Method, strings.ToLower(x.Host), x.Path, x.Query}, "\x00")
	sum := sha256.Sum256([]byte(text))
	return binary.BigEndian.Uint64(sum[:])
}

// tail returns the p99 of ds, or their maximum if they are fewer than a
// hundred. It also returns the share that exceeds this: a further value exceeds
// the k-th largest of n values with probability k/(n+1), whatever their
// distribution is.
func tail(ds []time.Duration) (time.Duration, float64) {
	if len(ds) == 0 {
		return 0, 1
	}
	slices.Sort(ds)
	k := int(math.Ceil(float64(len(ds)) / 100))
	return ds[len(ds)-k], float64(k) / float64(len(ds)+1)
}
