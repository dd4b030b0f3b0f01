package exchange

import (
	"net/http"
	"strings"
)

// gRPC clients look for a status in trailers: of an HTTP error they show no more
// than its number, if that. They get the proxy's own errors as gRPC servers
// answer those: 200 and a head that is the trailers as well ("Trailers-Only",
// gRPC over HTTP/2). The record keeps the HTTP status.
//
// A request with the content type of gRPC over HTTP/1.x is not from a gRPC
// client, which has no trailers there, but from something that translates, and
// goes by the HTTP status. It gets that.

// AwaitsTrailers reports whether q is from a gRPC client, as against gRPC-Web,
// which is made for those that see no trailers.
func AwaitsTrailers(q *http.Request) bool {
	const grpc = "application/grpc"
	t := q.Header.Get("Content-Type")
	if q.ProtoMajor < 2 || len(t) < len(grpc) || !strings.EqualFold(t[:len(grpc)], grpc) {
		return false
	}
	return len(t) == len(grpc) || strings.IndexByte("+; \t", t[len(grpc)]) >= 0
}

// trailersOnly answers a gRPC client with an error of the proxy's own.
func trailersOnly(w http.ResponseWriter, status int, reason string) {
	if status < 400 {
		status = http.StatusServiceUnavailable // a page for browsers, in place of the target
	}
	h := w.Header()
	describe(h, "application/grpc", 0)
	h.Del("Content-Length")
	h.Set("Grpc-Status", grpcStatus(status))
	h.Set("Grpc-Message", grpcMessage(strings.TrimSuffix(Line(status, reason), "\n")))
	h.Set("Proxy-Status", ProxyStatus(reason))
	w.WriteHeader(http.StatusOK)
}

// grpcStatus is the gRPC status code for an HTTP status of the proxy's own. It is
// what gRPC clients make of the HTTP status ("HTTP to gRPC Status Code Mapping"),
// but for those of which we know more.
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

// grpcMessage is the percent-encoding of a gRPC message: printable ASCII stays,
// but for the percent sign.
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
