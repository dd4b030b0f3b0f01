package site

import (
	"context"
	"errors"
	"net"
	"net/http"

	"github.com/hostproxy/hostproxy"
)

// An Errors calls Handle to answer failures of handlers behind Next: a file
// that does not exist, a target that cannot be reached, or Fail. A target's
// response is never a failure, whatever its status.
type Errors struct {
	// Handle gets the request as it was before rewrites. The status is the
	// placeholder {err.status_code}.
	Handle http.Handler
	Next   http.Handler
}

// ServeHTTP serves q by Next.
func (s *Errors) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	s.Next.ServeHTTP(w, with(q, func(st *state) { st.errors, st.asked = s, q }))
}

// Unwrap returns Next.
func (s *Errors) Unwrap() http.Handler { return s.Next }

// A Fail fails with a status. Without an Errors in front, it answers with that
// status. 0 means the status of the failure that an Errors handles.
type Fail struct{ Status int }

// ServeHTTP fails.
func (s Fail) ServeHTTP(w http.ResponseWriter, q *http.Request) { fail(w, q, s.Status) }

// fail answers a failure. If there is an Errors in front, that does it.
func fail(w http.ResponseWriter, q *http.Request, status int) {
	st := stateOf(q)
	switch {
	case st.status != 0: // a failure during the handling of another one
		w.WriteHeader(st.status)
	case st.errors == nil:
		w.WriteHeader(status)
	default:
		out := with(q, func(n *state) { n.errors, n.asked, n.original, n.status = nil, nil, nil, status })
		out.URL, out.RequestURI, out.Method = st.asked.URL, st.asked.RequestURI, st.asked.Method
		st.errors.Handle.ServeHTTP(w, out)
	}
}

// UpstreamFailed is for Upstream.ErrorHandler. It fails with 504 after a
// timeout, 503 without a target, 413 if the body is too large, and 502
// otherwise.
func UpstreamFailed(w http.ResponseWriter, q *http.Request, err error) {
	status := http.StatusBadGateway
	var failure *hostproxy.Error
	var large *http.MaxBytesError
	var slow net.Error
	switch {
	case errors.As(err, &large):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &slow) && slow.Timeout():
		status = http.StatusGatewayTimeout
	case errors.As(err, &failure) && failure.Op == "pick":
		status = http.StatusServiceUnavailable
	}
	fail(w, q, status)
}
