package exchange

import (
	"crypto/tls"
	"net/netip"
	"time"

	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/status"
)

// A Record describes the outcome of one exchange. The exchange's own goroutine
// writes it; others may read it after the end. The hostproxy package converts
// it to its public Exchange, which has the same fields.
type Record struct {
	Start time.Time

	Client netip.Addr
	Peer   netip.Addr

	Proto   string
	Scheme  string
	Method  string
	Host    string
	Path    string
	Query   string
	Pattern string

	UserAgent  string
	Referer    string
	User       string
	RequestID  string
	TLSVersion uint16
	ServerName string

	Status        int
	RequestBytes  int64
	ResponseBytes int64

	Target    string
	Attempts  int
	Queue     time.Duration
	Dial      time.Duration
	FirstByte time.Duration
	Duration  time.Duration

	Err     error
	Retried []error // *Failure

	Timeline []Attempt
	Value    any
}

// An Attempt describes one attempt. Its type has no name of its own, so that
// the hostproxy package can show it without a conversion.
type Attempt = struct {
	Target string
	Retry  bool
	Hedge  bool
	Whole  bool

	Start     time.Time
	Dial      time.Duration
	FirstByte time.Duration
	Duration  time.Duration

	Status int
	Err    error // *Failure
	Value  any
}

// Latest returns the attempt that began last; nil if there is none.
func (r *Record) Latest() *Attempt {
	if len(r.Timeline) == 0 {
		return nil
	}
	return &r.Timeline[len(r.Timeline)-1]
}

// Conclude notes that the exchange ends now.
func (r *Record) Conclude(now time.Time) {
	r.Duration = now.Sub(r.Start)
	r.EndAttempts(now)
}

// EndAttempts ends all attempts that still run, with the outcome that the
// exchange has so far.
func (r *Record) EndAttempts(now time.Time) {
	for i := range r.Timeline {
		if a := &r.Timeline[i]; a.Err == nil && a.Duration == 0 {
			a.Duration, a.Err = now.Sub(a.Start), failureAt(a.Target, r.Err)
		}
	}
}

// failureAt returns err as the failure of an attempt at target. Two attempts at
// once end by the same one.
func failureAt(target string, err error) error {
	if f, ok := err.(*Failure); ok && f.Target != "" && f.Target != target {
		own := *f
		own.Target = target
		return &own
	}
	return err
}

// Fail notes the first failure of the exchange. Later ones follow from it.
func (r *Record) Fail(f *Failure) {
	if r.Err == nil {
		r.Err = f
	}
}

// maxText limits the texts about the client that come from the client.
const maxText = 1 << 10

// Bounded returns the beginning of a text that a client chose.
func Bounded[T header.Text](text T) T { return text[:min(len(text), maxText)] }

// Secured notes the TLS of the client's connection; nil means none.
func (r *Record) Secured(state *tls.ConnectionState) {
	if state != nil {
		r.TLSVersion, r.ServerName = state.Version, Bounded(state.ServerName)
	}
}

// Failed describes the failed exchange for the status page.
func (r *Record) Failed() status.Failure {
	s := status.Failure{Time: r.Start, Host: r.Host, Path: r.Path, Target: r.Target, Status: r.Status, Cause: r.Err.Error()}
	if f, ok := r.Err.(*Failure); ok {
		s.Op, s.Side, s.Cause = f.Op, string(f.Side), f.Err.Error()
	}
	return s
}
