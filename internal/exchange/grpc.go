package exchange

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// gRPC clients look for a status in trailers. Of an HTTP error they show at
// most the number. So for the proxy's own errors they get what gRPC servers
// send: 200 with a head that contains the trailers ("Trailers-Only", gRPC over
// HTTP/2). The record keeps the HTTP status.
//
// A request with the content type of gRPC over HTTP/1.x is not from a gRPC
// client, since these need HTTP/2 trailers. It comes from a translator that
// uses the HTTP status, so it gets that.

// AwaitsTrailers reports whether q is from a gRPC client. gRPC-Web does not
// count: it is made for clients that see no trailers.
func AwaitsTrailers(q *http.Request) bool {
	return q.ProtoMajor >= 2 && isGRPC(q.Header.Get("Content-Type"))
}

func isGRPC(t string) bool {
	const grpc = "application/grpc"
	if len(t) < len(grpc) || !strings.EqualFold(t[:len(grpc)], grpc) {
		return false
	}
	return len(t) == len(grpc) || strings.IndexByte("+; \t", t[len(grpc)]) >= 0
}

// trailersOnly answers a gRPC client with an error of the proxy's own.
func trailersOnly(w http.ResponseWriter, q *http.Request, x *Exchange, status int, reason string) {
	if status < 400 {
		status = http.StatusServiceUnavailable // a page for browsers, not a target's response
	}
	h := w.Header()
	describe(h, "application/grpc", 0)
	h.Del("Content-Length")
	h.Set("Grpc-Status", grpcCode(q, x, status))
	h.Set("Grpc-Message", grpcMessage(strings.TrimSuffix(Line(status, reason), "\n")))
	h.Set("Proxy-Status", ProxyStatus(reason))
	w.WriteHeader(http.StatusOK)
}

// EndGRPC ends a response that has begun with trailers that contain a status
// for f, and reports whether it did. It does nothing if the client is to blame
// or does not wait for such trailers. Without a status, clients treat a stream
// that is cut off as an internal error, which few of them retry. They notice
// themselves if a message was cut.
func EndGRPC(w http.ResponseWriter, q *http.Request, x *Exchange, f *Failure) bool {
	h := w.Header()
	if f.Side == SideClient || !AwaitsTrailers(q) || !isGRPC(h.Get("Content-Type")) || h.Get("Content-Length") != "" {
		return false
	}
	status := http.StatusBadGateway
	switch {
	case errors.Is(f.Err, ErrDeadline):
		status = http.StatusGatewayTimeout
	case f.Side == SideProxy:
		status = http.StatusInternalServerError
	case f.Side == SideDrain:
		status = http.StatusServiceUnavailable
	}
	h.Set(http.TrailerPrefix+"Grpc-Status", grpcCode(q, x, status))
	h.Set(http.TrailerPrefix+"Grpc-Message", grpcMessage(strings.TrimSuffix(Line(status, f.Reason), "\n")))
	return true
}

// grpcCode is grpcStatus for the response to q. If the call's deadline has
// passed, a bad gateway becomes a timeout: a target may end such a call before
// the client does, and that is not the target's failure.
func grpcCode(q *http.Request, x *Exchange, status int) string {
	if status == http.StatusBadGateway && x != nil {
		if limit, ok := grpcTimeout(q.Header.Get("Grpc-Timeout")); ok && time.Since(x.Start) >= limit {
			status = http.StatusGatewayTimeout
		}
	}
	return grpcStatus(status)
}

// grpcTimeout parses the timeout of a call: at most eight digits and a unit.
func grpcTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	unit := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': 1}[s[len(s)-1]]
	if err != nil || unit == 0 || time.Duration(n) > math.MaxInt64/unit {
		return 0, false
	}
	return time.Duration(n) * unit, true
}

// grpcStatus returns the gRPC status code for an HTTP status of the proxy's
// own. It is the one that gRPC clients derive from the HTTP status ("HTTP to
// gRPC Status Code Mapping"), unless we know more.
func grpcStatus(status int) string {
	switch status {
	case http.StatusBadRequest, http.StatusInternalServerError:
		return "13" // INTERNAL
	case http.StatusUnauthorized:
		return "16" // UNAUTHENTICATED
	case http.StatusForbidden:
		return "7" // PERMISSION_DENIED
	case http.StatusNotFound, http.StatusNotImplemented:
		return "12" // UNIMPLEMENTED
	case http.StatusRequestEntityTooLarge, http.StatusTooManyRequests, http.StatusRequestHeaderFieldsTooLarge:
		return "8" // RESOURCE_EXHAUSTED
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return "4" // DEADLINE_EXCEEDED
	case http.StatusMisdirectedRequest, http.StatusBadGateway, http.StatusServiceUnavailable:
		return "14" // UNAVAILABLE
	}
	return "2" // UNKNOWN
}

// grpcMessage percent-encodes a gRPC message: printable ASCII stays, except the
// percent sign.
func grpcMessage(text string) string {
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '%' {
			const digits = "0123456789ABCDEF"
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
