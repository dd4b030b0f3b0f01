package exchange

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"syscall"

	"github.com/hostproxy/hostproxy/internal/h1"
)

// Reason returns the status and the error type of RFC 9209, 2.3, for an
// upstream failure during op.
func Reason(op string, err error) (status int, class string) {
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var parse *ProtocolError
	var refusal *h1.Refusal
	switch {
	case err == ErrCanceled:
		return http.StatusServiceUnavailable, "connection_terminated"
	case errors.As(err, &dns) && dns.IsTimeout:
		return http.StatusGatewayTimeout, "dns_timeout"
	case errors.As(err, &dns):
		return http.StatusBadGateway, "dns_error"
	case isTimeout(err) && (op == "dial" || op == "handshake"):
		return http.StatusGatewayTimeout, "connection_timeout"
	case isTimeout(err) && op == "write":
		return http.StatusGatewayTimeout, "connection_write_timeout"
	case isTimeout(err):
		return http.StatusGatewayTimeout, "http_response_timeout"
	case errors.Is(err, syscall.ECONNREFUSED), op == "dial" && errors.Is(err, syscall.ENOENT):
		// no such unix socket
		return http.StatusBadGateway, "connection_refused"
	case errors.As(err, &cert), errors.As(err, &unknown):
		return http.StatusBadGateway, "tls_certificate_error"
	case op == "handshake":
		return http.StatusBadGateway, "tls_protocol_error"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return http.StatusBadGateway, "destination_ip_unroutable"
	case op == "dial":
		return http.StatusBadGateway, "destination_unavailable"
	case errors.As(err, &parse), errors.As(err, &refusal), errors.Is(err, ErrInterim):
		return http.StatusBadGateway, "http_protocol_error"
	}
	return http.StatusBadGateway, "connection_terminated"
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) ||
		errors.As(err, &t) && t.Timeout()
}

// A ProtocolError is a response that is not valid HTTP, or was not requested.
type ProtocolError struct{ What string }

// Error says what was wrong.
func (e *ProtocolError) Error() string { return e.What }

// ErrUnasked is the failure of a target that switches protocols without being
// asked.
var ErrUnasked error = &ProtocolError{What: "status 101 without an upgrade request"}
