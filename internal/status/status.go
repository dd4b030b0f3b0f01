// Package status shows what a proxy is doing: one page of HTML, and the same as
// JSON. It knows plain data only, and takes every string in it for hostile.
//
//   - status.go: the data
//   - handler.go: as a page, and as JSON
//   - view.go, chart.go: what of it the page shows, and how
//   - access.go: who may see it
//   - explanation.go, question.go: what a proxy would do with a request
//   - command.go: texts of one line
package status

import (
	"sync"
	"time"
)

// A Page is everything that is shown, at one time.
type Page struct {
	Time         time.Time     `json:"time"`
	Routes       []Route       `json:"routes"`
	Certificates []Certificate `json:"certificates"`
	Uncertified  []Uncertified `json:"uncertified,omitempty"`
	Servers      []Server      `json:"servers"`
	Failures     []Failure     `json:"failures"` // the latest first
}

// A Route is a pattern and who serves it.
type Route struct {
	Pattern  string `json:"pattern"`
	Handler  string `json:"handler"`  // what kind it is of
	InFlight int64  `json:"inFlight"` // exchanges at the targets
	Queued   int    `json:"queued"`
	Paused   bool   `json:"paused"`
	// asleep, waking or falling asleep; "" if the targets are awake
	Sleep   string   `json:"sleep,omitempty"`
	Targets []Target `json:"targets,omitempty"`
	Error   string   `json:"error,omitempty"`
	// other routes with the same upstream, whose figures these are too
	Sharing int `json:"sharing,omitempty"`
}

// A Target is one address that serves.
type Target struct {
	// the same for a target that several routes have; nil: no other has it
	Of any `json:"-"`

	Name     string    `json:"name"`
	State    string    `json:"state"` // up, down, open or half-open
	Reason   string    `json:"reason,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	InFlight int64     `json:"inFlight"`
	Streams  int64     `json:"streams"`
	Answers  uint64    `json:"answers"`
	Failures uint64    `json:"failures"`
	// milliseconds to the response's head, of the last minute or two
	P50     float64  `json:"p50"`
	P90     float64  `json:"p90"`
	P99     float64  `json:"p99"`
	Recent  Recent   `json:"recent"`
	Changes []Change `json:"changes,omitempty"` // of the state, the oldest first
}

// Recent is what came of the attempts at a target that ended in the last
// Seconds, which are 64 to 128, or fewer if the target is younger.
type Recent struct {
	Seconds  float64 `json:"seconds"`
	Attempts uint64  `json:"attempts"`
	// failures on the target's side, and answers of 500 and above
	Errors uint64 `json:"errors"`
	// answers by time to the head: those at i below 1.024 µs << i, and not
	// counted before
	Spread []uint64 `json:"spread,omitempty"`
}

// A Change is a change of a target's health.
type Change struct {
	Time   time.Time `json:"time"`
	State  string    `json:"state"`
	Reason string    `json:"reason,omitempty"`
}

// A Certificate is how a host's certificate is doing.
type Certificate struct {
	Host     string    `json:"host"`
	State    string    `json:"state"`
	Issuer   string    `json:"issuer,omitempty"`
	NotAfter time.Time `json:"notAfter,omitzero"`
	Renewal  time.Time `json:"renewal,omitzero"`
	Error    string    `json:"error,omitempty"` // a Sentence
	Why      string    `json:"why,omitempty"`   // there is none yet, without an Error
	Attempts int       `json:"attempts,omitempty"`
	NextTry  time.Time `json:"nextTry,omitzero"`
	Check    string    `json:"check,omitempty"`   // a shell command that shows what a CA finds
	Waiting  int       `json:"waiting,omitempty"` // handshakes that wait for it
	// handshakes refused of late, since too many waited
	Refused int `json:"refused,omitempty"`
}

// An Uncertified is the host of a route for which there is no Certificate, and
// why.
type Uncertified struct {
	Host string `json:"host"`
	Why  string `json:"why"`
}

// A Server shows the listeners of a server, and what it has refused since it
// started.
type Server struct {
	Started    time.Time   `json:"started"`
	Listeners  []Listener  `json:"listeners"`
	Companions []Companion `json:"companions,omitempty"`
	Refused    []Refusal   `json:"refused"` // those that there were
}

// A Companion is a server of the program's own beside the listeners.
type Companion struct {
	Name   string `json:"name"`
	AltSvc string `json:"altSvc,omitempty"` // what it announces
	Ended  bool   `json:"ended"`            // it serves no more
	Error  string `json:"error,omitempty"`  // why
}

// A Listener is where clients connect.
type Listener struct {
	Addr string `json:"addr"`
	Role string `json:"role,omitempty"` // what it serves
	TLS  bool   `json:"tls"`
	Open int64  `json:"open"` // connections
}

// A Refusal is how often something was refused for one reason.
type Refusal struct {
	What string `json:"what"` // connections, handshakes or requests
	// the setting whose limit was met, the status of the response, or a word
	Why    string    `json:"why"`
	Count  uint64    `json:"count"`
	Latest time.Time `json:"latest"`
}

// A Failure is an exchange that failed.
type Failure struct {
	Time   time.Time `json:"time"`
	Host   string    `json:"host"`
	Path   string    `json:"path"`
	Target string    `json:"target,omitempty"`
	Status int       `json:"status"`
	Op     string    `json:"op"`
	Side   string    `json:"side"`
	Cause  string    `json:"cause"`
}

// Bounds of what Failures keeps.
const (
	maxFailures = 100
	maxString   = 200 // bytes of each string
)

// Failures are the latest failures. The zero value is empty; its methods may be
// called concurrently.
type Failures struct {
	mu   sync.Mutex
	ring [maxFailures]Failure
	n    int // ever added
}

// Add keeps f in place of the oldest, and of its strings no more than a bound.
func (r *Failures) Add(f Failure) {
	for _, s := range []*string{&f.Host, &f.Path, &f.Target, &f.Op, &f.Side, &f.Cause} {
		*s = cut(*s)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ring[r.n%maxFailures] = f
	r.n++
}

// Latest returns the kept ones, the latest first.
func (r *Failures) Latest() []Failure {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Failure, 0, min(r.n, maxFailures))
	for i := r.n - 1; i >= max(0, r.n-maxFailures); i-- {
		all = append(all, r.ring[i%maxFailures])
	}
	return all
}

// cut bounds s, and copies it: it may be a part of something large.
func cut(s string) string {
	if len(s) > maxString {
		s = s[:maxString] + "…"
	}
	return string([]byte(s))
}
