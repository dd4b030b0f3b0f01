package forward

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy/internal/header"
)

// Bounds of a question: the bytes of an answer that nobody reads, and the time
// until the answer's end.
const (
	maxVerdict = 64 << 10
	askTimeout = 30 * time.Second
)

// unasked are the fields that describe a body or a wish which the question does
// not have.
var unasked = []string{"Expect", "Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"} // read-only

// Ask asks f by a GET of u whether q may pass. It returns the fields of an answer
// that says yes by a status of 2xx; any other answer, or that there is none, goes
// to the client by w, and the result is nil. The question has q's end-to-end
// fields, and X-Forwarded-Method and X-Forwarded-Uri besides those that every
// request gets. A failure is that of x too.
func (f *Forwarder) Ask(w http.ResponseWriter, q *http.Request, x *Exchange, u *url.URL) http.Header {
	c := &Exchange{Via: x.Via, Trusted: true, Lives: x.Lives} // what is not to be trusted is removed here
	c.Client, c.Peer, c.Scheme, c.Start = x.Client, x.Peer, x.Scheme, time.Now()
	ctx, cancel := context.WithTimeout(q.Context(), askTimeout)
	defer cancel()
	v := &verdict{w: w, h: make(http.Header)}
	defer func() {
		if fail, ok := c.Err.(*Failure); ok && v.yes == nil {
			x.Fail(fail)
		}
	}()
	f.ask(v, question(q.WithContext(ctx), x, u), c)
	return v.yes
}

// ask serves the question. An answer whose head came is one, however long its
// body is that nobody reads.
func (f *Forwarder) ask(v *verdict, q *http.Request, c *Exchange) {
	defer func() {
		if p := recover(); p != nil && !(p == http.ErrAbortHandler && v.err != nil) {
			panic(p)
		}
	}()
	f.Serve(v, q, c)
}

// question is what is asked about q.
func question(q *http.Request, x *Exchange, u *url.URL) *http.Request {
	c := q.Clone(q.Context())
	header.RemoveHopByHop(c.Header)
	for k := range c.Header {
		class := header.Classify(k)
		if strings.HasPrefix(k, ":") || strings.HasPrefix(k, "Content-") || !x.Trusted && class&(header.Forwarding|header.Alias) != 0 {
			delete(c.Header, k)
		}
	}
	for _, k := range unasked {
		c.Header.Del(k)
	}
	c.Header.Set("X-Forwarded-Method", q.Method)
	uri := wirePath(q)
	if q.URL.RawQuery != "" || q.URL.ForceQuery {
		uri += "?" + q.URL.RawQuery
	}
	c.Header.Set("X-Forwarded-Uri", uri)
	c.Method, c.URL, c.RequestURI = http.MethodGet, u, u.RequestURI()
	c.Body, c.ContentLength, c.TransferEncoding, c.Trailer = http.NoBody, 0, nil, nil
	return c
}

// A verdict takes the answer to a question. What is not a yes goes on to the
// client.
type verdict struct {
	w      http.ResponseWriter
	h      http.Header
	yes    http.Header // nil for any other answer
	status int         // final; 0 before it is known
	read   int         // bytes of a yes
	err    error
}

// Header implements http.ResponseWriter.
func (v *verdict) Header() http.Header { return v.h }

// WriteHeader implements http.ResponseWriter.
func (v *verdict) WriteHeader(status int) {
	if v.status != 0 || status < 200 {
		return
	}
	v.status = status
	if status/100 == 2 {
		v.yes = v.h.Clone() // trailers may follow
		return
	}
	out := v.w.Header()
	for k, values := range v.h {
		out[k] = values
	}
	v.w.WriteHeader(status)
}

var errLongVerdict = errors.New("a body that nobody reads")

// Write implements http.ResponseWriter.
func (v *verdict) Write(p []byte) (int, error) {
	if v.yes == nil {
		return v.w.Write(p)
	}
	if v.read += len(p); v.read > maxVerdict {
		v.err = errLongVerdict
		return 0, v.err
	}
	return len(p), nil
}

// Flush implements http.Flusher.
func (v *verdict) Flush() {
	if v.yes == nil {
		_ = http.NewResponseController(v.w).Flush()
	}
}
