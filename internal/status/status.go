// Package status shows the state of a proxy on one HTML page, and as JSON. It
// only knows plain data, and treats every string in it as hostile.
//
//   - status.go: the data
//   - handler.go: the page, and the JSON
//   - view.go, chart.go: the parts of the data that the page shows, and how
//   - access.go: the requests that may see the page
//   - explanation.go, question.go: what the proxy would do with a request
//   - command.go: shell commands, and texts of one line
package status

import (
	"sync"
	"time"
)

// A Page has all data to show, at one time.
type Page struct {
	Time         time.Time     `json:"time"`
	Routes       []Route       `json:"routes"`
	Certificates []Certificate `json:"certificates"`
	Uncertified  []Uncertified `json:"uncertified,omitempty"`
	Servers      []Server      `json:"servers"`
	Failures     []Failure     `json:"failures"` // the latest first
}

// A Route is a pattern, with the state of its handler.
type Route struct {
	Pattern  string `json:"pattern"`
	Handler  string `json:"handler"`  // kind of handler
	InFlight int64  `json:"inFlight"` // exchanges in flight at the targets
	Queued   int    `json:"queued"`
	Paused   bool   `json:"paused"`
	// asleep, waking or falling asleep; "" if the targets are awake
	Sleep   string   `json:"sleep,omitempty"`
	Targets []Target `json:"targets,omitempty"`
	Error   string   `json:"error,omitempty"`
	// number of other routes with the same upstream, and so the same figures
	Sharing int `json:"sharing,omitempty"`
}

// A Target is one address of a route's upstream.
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
	// milliseconds until the response's head, over the last one or two minutes
	P50     float64  `json:"p50"`
	P90     float64  `json:"p90"`
	P99     float64  `json:"p99"`
	Recent  Recent   `json:"recent"`
	Changes []Change `json:"changes,omitempty"` // of State, the oldest first
}

// Recent has the outcomes of attempts at a target that ended in the last
// Seconds, which are 64 to 128, or fewer for a younger target.
type Recent struct {
	Seconds  float64 `json:"seconds"`
	Attempts uint64  `json:"attempts"`
	// failures on the target's side, and responses with status 500 and above
	Errors uint64 `json:"errors"`
	// responses by time until the head: position i counts those below 1.024 µs
	// << i that no earlier position counts
	Spread []uint64 `json:"spread,omitempty"`
}

// A Change is a change of a target's health.
type Change struct {
	Time   time.Time `json:"time"`
	State  string    `json:"state"`
	Reason string    `json:"reason,omitempty"`
}

// A Certificate is the state of a host's certificate.
type Certificate struct {
	Host     string    `json:"host"`
	State    string    `json:"state"`
	Issuer   string    `json:"issuer,omitempty"`
	NotAfter time.Time `json:"notAfter,omitzero"`
	Renewal  time.Time `json:"renewal,omitzero"`
	Error    string    `json:"error,omitempty"` // a Sentence
	Why      string    `json:"why,omitempty"`   // why there is none yet, without an Error
	Attempts int       `json:"attempts,omitempty"`
	NextTry  time.Time `json:"nextTry,omitzero"`
	Check    string    `json:"check,omitempty"`   // shell command that shows what a CA sees
	Waiting  int       `json:"waiting,omitempty"` // handshakes that wait for it
	// handshakes refused recently, since too many waited
	Refused int `json:"refused,omitempty"`
}

// An Uncertified is the host of a route without a Certificate, and the reason.
type Uncertified struct {
	Host string `json:"host"`
	Why  string `json:"why"`
}

// A Server has the listeners of a server, and what it has refused since it
// started.
type Server struct {
	Started    time.Time   `json:"started"`
	Listeners  []Listener  `json:"listeners"`
	Companions []Companion `json:"companions,omitempty"`
	Refused    []Refusal   `json:"refused"` // only reasons that occurred
}

// A Companion is a server of the program that runs beside the listeners.
type Companion struct {
	Name   string `json:"name"`
	AltSvc string `json:"altSvc,omitempty"` // value that it announces
	Ended  bool   `json:"ended"`            // it no longer serves
	Error  string `json:"error,omitempty"`  // why it ended
}

// A Listener is an address to which clients connect.
type Listener struct {
	Addr string `json:"addr"`
	Role string `json:"role,omitempty"` // purpose
	TLS  bool   `json:"tls"`
	Open int64  `json:"open"` // open connections
}

// A Refusal counts refusals for one reason.
type Refusal struct {
	What string `json:"what"` // connections, handshakes or requests
	// the setting whose limit was reached, the status of the response, or a
	// word
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

// Limits of Failures.
const (
	maxFailures = 100
	maxString   = 200 // bytes of each string
)

// Failures keeps the latest failures. The zero value is empty; its methods may
// be called concurrently.
type Failures struct {
	mu   sync.Mutex
	ring [maxFailures]Failure
	n    int // number of failures ever added
}

// Add keeps f instead of the oldest failure, with strings cut to maxString
// bytes.
func (r *Failures) Add(f Failure) {
	for _, s := range []*string{&f.Host, &f.Path, &f.Target, &f.Op, &f.Side, &f.Cause} {
		*s = cut(*s)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ring[r.n%maxFailures] = f
	r.n++
}

// Latest returns the kept failures, the latest first.
func (r *Failures) Latest() []Failure {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Failure, 0, min(r.n, maxFailures))
	for i := r.n - 1; i >= max(0, r.n-maxFailures); i-- {
		all = append(all, r.ring[i%maxFailures])
	}
	return all
}

// cut limits the length of s. It copies s, which may be a part of a large
// string.
func cut(s string) string {
	if len(s) > maxString {
		s = s[:maxString] + "…"
	}
	return string([]byte(s))
}
