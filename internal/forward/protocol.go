package forward

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"

	"github.com/hostproxy/hostproxy/internal/pool"
)

// noProtocol is the TLS alert of a server that supports none of the protocols
// offered to it (RFC 7301, 3.2).
const noProtocol = tls.AlertError(120)

// Refuses reports whether err means that t, an https target, does not speak
// HTTP/1.1. If so it remembers that, and exchanges reach t over HTTP/2 in the
// handler lane. Nothing was sent to t.
func (f *Forwarder) Refuses(t *Target, err error) bool {
	var remote *net.OpError
	alert := errors.As(err, &remote) && remote.Op == "remote error" && remote.Err.Error() == noProtocol.Error()
	if t.h2 == nil || !alert && !errors.Is(err, pool.ErrHTTP2) {
		return false
	}
	t.refuses.Store(true)
	f.refused.Store(true)
	return true
}

// Speaker returns the client of t for q: HTTP/1.1, unless q is gRPC or t
// refuses HTTP/1.1.
func (t *Target) Speaker(q *http.Request) Doer {
	if t.h2 != nil && (isGRPC(q) || t.refuses.Load()) {
		return t.h2
	}
	return t.client
}

// Do performs an attempt outside the lanes, for a request without a body.
func (f *Forwarder) Do(t *Target, req *http.Request, on1xx func(int, http.Header) error) (*http.Response, error) {
	res, err := t.Speaker(req).Do(req, on1xx)
	if err != nil && !t.refuses.Load() && f.Refuses(t, err) {
		return t.h2.Do(req, on1xx)
	}
	return res, err
}

// isGRPC reports whether q can only travel over HTTP/2.
func isGRPC(q *http.Request) bool {
	return q.ProtoMajor >= 2 && strings.HasPrefix(q.Header.Get("Content-Type"), "application/grpc")
}
