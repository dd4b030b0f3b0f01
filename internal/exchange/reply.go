package exchange

import (
	"io"
	"net/http"
	"strconv"
)

// StatusClientClosed is the status in the record of an exchange whose client
// left before it was answered. It is never sent.
const StatusClientClosed = 499

// Allow is the value of Allow in the proxy's own responses: the methods that
// most targets know.
const Allow = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

// Reply answers q with an error of the proxy's own: the status, a Proxy-Status
// field (RFC 9209) with the error type, and one line of text. Fields set by
// handlers around us stay, except those that describe a body. A gRPC client
// gets a gRPC status instead, and the record gets the HTTP status.
func Reply(w http.ResponseWriter, q *http.Request, status int, reason string) {
	if AwaitsTrailers(q) {
		trailersOnly(w, q, exchangeOf(w, q), status, reason)
		noteAt(w, q, notes{status: status})
		return
	}
	body := Line(status, reason)
	h := w.Header()
	describe(h, PlainText, len(body))
	h.Set("Proxy-Status", ProxyStatus(reason))
	switch status {
	case http.StatusMethodNotAllowed: // RFC 9110, 15.5.6
		h.Set("Allow", Allow)
	case http.StatusMisdirectedRequest: // RFC 7838, 6; a companion has set it
		h.Del("Alt-Svc")
	}
	w.WriteHeader(status)
	if q.Method != http.MethodHead {
		io.WriteString(w, body)
	}
}

// exchangeOf returns the exchange of q that w responds to, or nil. It must not
// be changed: see noteAt.
func exchangeOf(w http.ResponseWriter, q *http.Request) *Exchange {
	if w, ok := w.(*Watcher); ok {
		return w.x
	}
	return FromContext(q.Context())
}

// describe sets the fields in h that describe a body of ours.
func describe(h http.Header, contentType string, size int) {
	for _, k := range []string{"Content-Encoding", "Content-Range", "Etag", "Last-Modified", "Trailer"} {
		h.Del(k)
	}
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(size))
	h.Set("Cache-Control", "no-store")
}

// PlainText is the content type of a Line.
const PlainText = "text/plain; charset=utf-8"

// Line returns the body of a reply.
func Line(status int, reason string) string {
	return strconv.Itoa(status) + " " + http.StatusText(status) + ": " + reason + "\n"
}

// ProxyStatus returns the value of Proxy-Status for an error type of RFC 9209,
// 2.3.
func ProxyStatus(reason string) string { return Name + "; error=" + reason }

// Refuse returns a handler that answers every request with Reply.
func Refuse(status int, reason string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { Reply(w, q, status, reason) })
}

// Handler returns a handler that answers every request as f says, and notes f
// in its record.
func (f *Failure) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		noteAt(w, q, notes{fail: f})
		Reply(w, q, f.Status, f.Reason)
	})
}
