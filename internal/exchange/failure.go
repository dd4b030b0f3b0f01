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

// A Side is the side that made an exchange fail.
type Side string

// The sides of an exchange.
const (
	SideClient   Side = "client"
	SideUpstream Side = "upstream"
	SideProxy    Side = "proxy"
	SideDrain    Side = "drain"
)

// A Failure is why forwarding failed, with the status for the client if its
// response has not begun.
type Failure struct {
	Op     string // "pick", "dial", "handshake", "write", "read", "copy" or "upgrade"
	Target string // "" if none was picked
	Side   Side
	Status int
	Reason string // error type shown to the client: no internals
	Err    error  // nil if a rule refused the request

	RetryAfter time.Duration // for the client; 0 means no Retry-After
	Fields     []byte        // header lines for the client, each with its CRLF
	Page       *Page         // response in place of a line with the reason
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
	Wrote bool   // parts of the request may have reached the target
	Err   error
}

// Error returns the operation and the cause.
func (e *AttemptError) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *AttemptError) Unwrap() error { return e.Err }

// Because sets the cause of failure f to why, the reason that the client's
// connection was closed. It does nothing if why is nil or f is not on the
// client's side. With [ErrCut] the drain was out of time, which is not the
// client's fault: r then gets the status that was sent.
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

// AddFields sets the failure's fields for the client in h.
func (f *Failure) AddFields(h http.Header) {
	if f.RetryAfter > 0 {
		h.Set("Retry-After", string(f.AppendRetryAfter(nil)))
	}
	for line := range strings.Lines(string(f.Fields)) {
		name, value, _ := strings.Cut(line, ":")
		h.Set(name, strings.TrimSpace(value))
	}
}

// Tell sets these fields in the header of w, in the fast lane's order and
// spelling.
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

// replyNames are the names of the fields that Reply and Tell write. Read-only:
// their capacity is their length.
var replyNames = func() Names {
	names := []string{"Cache-Control", "Content-Type", "Proxy-Status", "Retry-After"}
	return Names{Spelled: names, Keys: names}
}()

// Header returns the initial header of a page that responds to the failure.
func (f *Failure) Header() http.Header {
	h := http.Header{"Cache-Control": {"no-store"}, "Proxy-Status": {ProxyStatus(f.Reason)}}
	f.AddFields(h)
	return h
}

// AppendRetryAfter appends the number of seconds that the client should wait.
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

// ErrDeadline ends exchanges whose context has a deadline, which the client did
// not set.
var ErrDeadline = fmt.Errorf("a handler around the Router has set a deadline, which has passed: %w", context.DeadlineExceeded)

// ErrCanceled ends exchanges whose context was canceled by a handler of the
// program, and not because the client has left.
var ErrCanceled = fmt.Errorf("a handler around the Upstream has canceled the context of the request: %w", context.Canceled)

// ErrSpoiled is the failure of a body whose length differs from its request's
// ContentLength.
var ErrSpoiled = errors.New("a handler around the Router has changed the request's Body, but not its ContentLength")

// Ended returns why the context of a request has ended, or nil if it has not. A
// deadline that has passed counts at once: a dial fails by it, possibly before
// the context does.
func Ended(ctx context.Context) error {
	switch ctx.Err() {
	case nil:
		if end, ok := ctx.Deadline(); ok && !time.Now().Before(end) {
			return ErrDeadline
		}
		return nil
	case context.DeadlineExceeded:
		return ErrDeadline
	}
	for l := loanOf(ctx); l != nil; l = loanOf(l.Context) {
		if l.Context.Err() == nil { // the handler that got the loan
			return ErrCanceled
		}
	}
	return ErrClientGone
}

// Revoked returns why a handler of the program has ended the context of a
// request, or nil if it has not.
func Revoked(ctx context.Context) error {
	if err := Ended(ctx); err != ErrClientGone {
		return err
	}
	return nil
}

// ErrBodyTooLarge is the failure of a request body above the limit.
var ErrBodyTooLarge = errors.New("request body too large")

// BodyStatus returns the status for a client whose body could not be read
// because of err.
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
