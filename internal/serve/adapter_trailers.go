package serve

import (
	"bytes"
	"net/http"
	"slices"
	"strings"

	"github.com/hostproxy/hostproxy/internal/h1"
)

// declare notes the trailer names in the values of a Trailer field.
func (a *adapter) declare(values []string) {
	a.given.trails = a.given.trails || len(values) > 0
	for _, v := range values {
		for name := range strings.SplitSeq(v, ",") {
			name = http.CanonicalHeaderKey(strings.Trim(name, " \t"))
			if name != "" && trailable(name) {
				a.given.trailers = append(a.given.trailers, name)
			}
		}
	}
}

// trailable reports whether a field may be sent as a trailer (RFC 9110, 6.5.1).
func trailable(name string) bool {
	switch name {
	case "Authorization", "Cache-Control", "Connection", "Content-Encoding", "Content-Length", "Content-Range", "Content-Type",
		"Expect", "Host", "Keep-Alive", "Max-Forwards", "Pragma", "Proxy-Authenticate", "Proxy-Authorization",
		"Proxy-Connection", "Range", "Realm", "Te", "Trailer", "Transfer-Encoding", "Www-Authenticate":
		return false
	}
	return !strings.HasPrefix(name, "If-")
}

// mayTrail reports whether trailers that were not announced may follow a body
// of known length. Only HTTP/2 allows that.
func (a *adapter) mayTrail() bool {
	if a.given.untrailed || a.f.major() == 1 {
		return false
	}
	if !a.done {
		return true
	}
	for k := range a.w.made() {
		if strings.HasPrefix(k, http.TrailerPrefix) {
			return true
		}
	}
	return false
}

// trailers returns the trailers of the response, sorted by name.
func (a *adapter) trailers() (trailers []h1.Field) {
	if !a.f.trails() {
		return nil
	}
	for k, values := range a.w.made() {
		name, marked := strings.CutPrefix(k, http.TrailerPrefix)
		if marked && !trailable(http.CanonicalHeaderKey(name)) || !marked && !slices.Contains(a.given.trailers, k) {
			continue
		}
		for _, v := range values {
			trailers = appendField(trailers, name, v)
		}
	}
	slices.SortStableFunc(trailers, func(a, b h1.Field) int { return bytes.Compare(a.Name, b.Name) })
	return trailers
}

// Untrailed promises that no trailers follow a body of known length, so that
// HTTP/2 can end the response with the body.
func (w *response) Untrailed() {
	if a := w.use(); a != nil {
		a.given.untrailed = true
	}
	w.mu.Unlock()
}
