package exchange

import (
	"errors"
	"net/http"
	"strings"

	"github.com/hostproxy/hostproxy/internal/h1"
)

// Check returns the failure of a request that must not reach any target, else
// nil. Our front refuses such requests itself; net/http does not.
func Check(q *http.Request) *Failure {
	if fail := CheckMethod(q); fail != nil {
		return fail
	}
	switch {
	case !h1.ValidToken(q.Method):
		return Refusal(http.StatusBadRequest, "http_request_error", "method is not a token")
	case q.RequestURI != "" && !h1.ValidTarget(q.RequestURI): // a fragment, or non-ASCII bytes
		return Refusal(http.StatusBadRequest, "http_request_error", "invalid byte in the request target")
	case q.ProtoMajor == 1 && q.RequestURI != "" && !ours(q):
		return Refusal(http.StatusBadRequest, "http_request_error", "the request target is neither a path nor a URL of http or https")
	case q.Host != "" && !h1.ValidHost(q.Host):
		// net/http decodes the escapes of a URL in the request line
		return Refusal(http.StatusBadRequest, "http_request_error", "invalid byte in the host")
	case q.RequestURI == "*" && q.Method != http.MethodOptions:
		return Refusal(http.StatusBadRequest, "http_request_error", "the request target * requires the method OPTIONS")
	case q.ProtoMajor >= 2 && q.Method != http.MethodConnect && q.RequestURI != "*" && !strings.HasPrefix(q.RequestURI, "/"):
		// RFC 9113, 8.3.1
		return Refusal(http.StatusBadRequest, "http_request_error", "path does not begin with a slash")
	case !IsHTTP10(q) && !expectable(q.Header["Expect"]):
		return Refusal(http.StatusExpectationFailed, "http_request_denied", "Expect is not 100-continue")
	}
	return nil
}

// ours reports whether the target of q is a path, "*", or a URL as sent to a
// proxy (RFC 9112, 3.2).
func ours(q *http.Request) bool {
	if q.RequestURI[0] == '/' || q.RequestURI == "*" {
		return true
	}
	scheme, rest, ok := strings.Cut(q.RequestURI, "://")
	authority := rest[:strings.IndexAny(rest+"/", "/?")]
	return ok && (strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https")) && authority != "" && !strings.ContainsAny(authority, "@%")
}

// expectable reports whether lines, the values of Expect, contain only
// 100-continue (RFC 9110, 10.1.1). Readers may disagree on other values, such
// as "y 100-continue", and so on whether a body follows.
func expectable(lines []string) bool {
	for _, line := range lines {
		if !strings.EqualFold(line, "100-continue") {
			return false
		}
	}
	return true
}

// Refusal returns the failure of a request that must not be forwarded.
func Refusal(status int, reason, why string) *Failure {
	return &Failure{Op: "read", Side: SideClient, Status: status, Reason: reason, Err: errors.New(why)}
}

// Causes of CheckMethod's failures.
var (
	ErrConnect = errors.New("CONNECT is not forwarded")
	ErrTrace   = errors.New("TRACE is not forwarded")
)

// CheckMethod returns the failure of a request whose method is never forwarded,
// else nil. These are TRACE, which would show credentials to scripts (RFC 9110,
// 9.3.8), and CONNECT. An extended CONNECT (RFC 8441 and 9220) passes: its
// Forwarder decides.
func CheckMethod(q *http.Request) *Failure {
	switch {
	case q.Method == http.MethodConnect && Protocol(q) == "":
		return &Failure{Op: "read", Side: SideClient, Status: http.StatusNotImplemented, Reason: "http_request_denied", Err: ErrConnect}
	case q.Method == http.MethodTrace:
		return &Failure{Op: "read", Side: SideClient, Status: http.StatusMethodNotAllowed, Reason: "http_request_denied", Err: ErrTrace}
	}
	return nil
}
