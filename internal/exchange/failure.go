package exchange

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// A Side is who made an exchange fail.
type Side string

// The sides of an exchange.
const (
	SideClient   Side = "client"
	SideUpstream Side = "upstream"
	SideProxy    Side = "proxy"
	SideDrain    Side = "drain"
)

// A Failure is why forwarding failed, with the status that the client gets
// if its response has not begun.
type Failure struct {
	Op     string // "pick", "dial", "handshake", "write", "read", "copy" or "upgrade"
	Target string // "" when none was picked
	Side   Side
	Status int
	Reason string // the class shown to the client: never internals
	Err    error  // nil when nothing has failed: a refusal by the rules

	RetryAfter time.Duration // told to the client; 0 means nothing is
	Fields     []byte        // header lines told to the client, each with its CRLF
	Page       *Page         // the answer, instead of a line with the reason
}

// Error returns the operation, the target and the cause.
func (f *Failure) Error() string {
	if f.Target == "" {
		return f.Op + ": " + f.Err.Error()
	}
	return f.Op + " " + f.Target + ": " + f.Err.Error()
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// An AttemptError says how far an attempt came before it failed.
type AttemptError struct {
	Op    string // "dial", "handshake", "write" or "read"
	Wrote bool   // something of the request may have reached the target
	Err   error
}

// Error returns the operation and the cause.
func (e *AttemptError) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *AttemptError) Unwrap() error { return e.Err }

// Because makes why, if it is not nil, the cause of a failure f on the client's
// side: the client's connection was closed because of it. [ErrCut] is the cause
// of a drain that was out of time, which is not the client's fault: r then has
// the status that was sent.
func (r *Record) Because(f *Failure, why error) {
	if why == nil || f.Side != SideClient {
		return
	}
	f.Err = why
	if why != ErrCut {
		return
	}
	f.Side = SideDrain
	if r.Status == StatusClientClosed {
		r.Status = f.Status
	}
	if r.Status == StatusClientClosed { // none was sent
		r.Status = http.StatusServiceUnavailable
	}
}

// AddFields tells the client what the failure has to say in h.
func (f *Failure) AddFields(h http.Header) {
	if f.RetryAfter > 0 {
		h.Set("Retry-After", string(f.AppendRetryAfter(nil)))
	}
	for line := range strings.Lines(string(f.Fields)) {
		name, value, _ := strings.Cut(line, ":")
		h.Set(name, strings.TrimSpace(value))
	}
}

// Tell tells the client so by w, in the fast lane's order and spelling.
func (f *Failure) Tell(w http.ResponseWriter) {
	f.AddFields(w.Header())
	names := replyNames
	for line := range strings.Lines(string(f.Fields)) {
		name, _, _ := strings.Cut(line, ":")
		names.Spelled = append(names.Spelled, name)
		names.Keys = append(names.Keys, http.CanonicalHeaderKey(name))
	}
	Arrange(w, Order{Names: names})
}

// replyNames are those of the fields that Reply and Tell write. Read-only:
// their capacity is their length.
var replyNames = func() Names {
	names := []string{"Cache-Control", "Content-Type", "Proxy-Status", "Retry-After"}
	return Names{Spelled: names, Keys: names}
}()

// Header is what a page that answers for the failure begins with.
func (f *Failure) Header() http.Header {
	h := http.Header{"Cache-Control": {"no-store"}, "Proxy-Status": {ProxyStatus(f.Reason)}}
	f.AddFields(h)
	return h
}

// AppendRetryAfter appends how many seconds the client is to wait.
func (f *Failure) AppendRetryAfter(dst []byte) []byte {
	return strconv.AppendInt(dst, int64((f.RetryAfter+time.Second-1)/time.Second), 10)
}

// Why flights are cut off.
var (
	ErrClientGone = errors.New("client disconnected")
	ErrCut        = errors.New("ended by a drain")
	ErrIdle       = errors.New("idle for too long: no bytes were transferred")
	ErrStalled    = errors.New("client stopped reading the response")
)

// ErrDeadline ends exchanges whose context has a deadline, which is not the
// client's.
var ErrDeadline = fmt.Errorf("a handler around the Router has set a deadline, which has passed: %w", context.DeadlineExceeded)

// ErrSpoiled is the failure of a body that is not as long as its request says.
var ErrSpoiled = errors.New("a handler around the Router has changed the request's Body, but not its ContentLength")

// Ended is why the context of a request has ended; nil if it has not.
func Ended(ctx context.Context) error {
	switch ctx.Err() {
	case nil:
		return nil
	case context.DeadlineExceeded:
		return ErrDeadline
	}
	return ErrClientGone
}

// ErrBodyTooLarge is the cause of failures of exchanges that bring too much.
var ErrBodyTooLarge = errors.New("request body too large")

// BodyStatus is the answer to a client whose body could not be read, because of
// err.
func BodyStatus(err error) int {
	var tooLarge *http.MaxBytesError
	var timeout net.Error
	switch {
	case errors.As(err, &tooLarge), errors.Is(err, ErrBodyTooLarge):
		return http.StatusRequestEntityTooLarge
	case err == ErrIdle, errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return http.StatusRequestTimeout
	case errors.Is(err, ErrClientGone):
		return StatusClientClosed
	}
	return http.StatusBadRequest
}
