package handler

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
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
// Read-only.
var unasked = []string{"Expect", "Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"}

// A Question is what another server is asked about requests that are to pass.
// It may be used concurrently.
type Question struct {
	target *url.URL
	fields []string
	user   string // the one of fields that names the user; "" means none
}

// NewQuestion returns the question at a path, which may have a query. fields
// are those of the answer that a request gets when it passes, and that are
// never the client's; user is the one of them that names the user, "" means
// none. The error says all that is wrong.
func NewQuestion(path string, fields []string, user string) (*Question, error) {
	var errs []error
	u, err := url.ParseRequestURI(path)
	if err != nil || !strings.HasPrefix(u.Path, "/") || u.Host != "" {
		errs = append(errs, fmt.Errorf("ForwardAuth.Path is %q: want a path that begins with a slash, such as /verify", path))
	}
	for _, k := range fields {
		errs = append(errs, header.CheckName("ForwardAuth.Fields", k))
	}
	if user != "" && !slices.ContainsFunc(fields, func(k string) bool { return strings.EqualFold(k, user) }) {
		errs = append(errs, fmt.Errorf("ForwardAuth.User is %q: want one of the headers in ForwardAuth.Fields", user))
	}
	return &Question{u, fields, user}, errors.Join(errs...)
}

// Ask asks f by a GET whether q may pass, and returns q as it is to pass after
// an answer of 2xx by a target. Any other answer goes to the client by w, as
// does the failure of f to get one, which is that of x too; the result is nil
// then. What is asked has q's end-to-end fields, and X-Forwarded-Method and
// X-Forwarded-Uri besides those that every request gets.
func (k *Question) Ask(f *forward.Forwarder, w http.ResponseWriter, q *http.Request, x *exchange.Exchange) *http.Request {
	ctx, cancel := context.WithTimeout(q.Context(), askTimeout)
	defer cancel()
	q = exchange.Withhold(q, k.fields...)
	// what is not to be trusted is removed here
	c := &exchange.Exchange{Via: x.Via, Name: x.Name, Trusted: true, Lives: x.Lives, Asker: q}
	c.Client, c.Peer, c.Scheme, c.Start = x.Client, x.Peer, x.Scheme, time.Now()
	c.ClientScheme, c.ClientHost = x.ClientScheme, x.ClientHost
	c.RequestID, c.Numbering = x.RequestID, x.Numbering
	v := &verdict{w: w, h: make(http.Header), x: c, asked: x, spared: f.EditIn(outer(x)).Spared()}
	defer func() {
		if fail, ok := c.Err.(*exchange.Failure); ok && v.yes == nil {
			if fail.Err == exchange.ErrDeadline && q.Context().Err() == nil { // it was ours
				fail.Side, fail.Err = exchange.SideUpstream, errLateVerdict
			}
			x.Fail(fail)
		}
		if c.Refused {
			x.Status = c.Status
		}
	}()
	serveQuestion(f, v, k.about(q.WithContext(ctx), x), c)
	if v.yes == nil {
		return nil
	}
	for _, name := range k.fields {
		if values := v.yes.Values(name); len(values) > 0 {
			q.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	if k.user != "" {
		x.User = exchange.Bounded(q.Header.Get(k.user))
	}
	return q
}

// serveQuestion serves the question. A yes is one however long its body is that
// nobody reads, but not if it was cut off: then there is no answer.
func serveQuestion(f *forward.Forwarder, v *verdict, q *http.Request, c *exchange.Exchange) {
	defer func() {
		switch p := recover(); {
		case p == nil, p == http.ErrAbortHandler && v.err != nil:
		case p == http.ErrAbortHandler && v.yes != nil: // nothing has gone to the client
			v.yes = nil
			exchange.Reply(v.w, c.Asker, http.StatusBadGateway, "http_response_incomplete")
		default:
			panic(p)
		}
	}()
	Serve(f, v, q, c)
}

// about is what is asked about q.
func (k *Question) about(q *http.Request, x *exchange.Exchange) *http.Request {
	c := q.Clone(q.Context())
	header.RemoveHopByHop(c.Header)
	for name := range c.Header {
		class := header.Classify(name)
		if strings.HasPrefix(name, ":") || strings.HasPrefix(name, "Content-") || !x.Trusted && class&(header.Forwarding|header.Alias) != 0 {
			delete(c.Header, name)
		}
	}
	for _, name := range unasked {
		c.Header.Del(name)
	}
	c.Header.Set("X-Forwarded-Method", q.Method)
	c.Header.Set("X-Forwarded-Uri", exchange.WireURI(q))
	c.Method, c.URL, c.RequestURI = http.MethodGet, k.target, k.target.RequestURI()
	c.Body, c.ContentLength, c.TransferEncoding, c.Trailer = http.NoBody, 0, nil, nil
	return c
}

// A verdict takes the answer to a question. What is not a yes goes on to the
// client.
type verdict struct {
	w      http.ResponseWriter
	h      http.Header
	x      *exchange.Exchange // of the question
	asked  *exchange.Exchange // of the request that it is about
	spared *exchange.Spared   // if the answer is a target's
	yes    http.Header        // nil for any other answer
	status int                // final; 0 before it is known
	read   int                // bytes of a yes
	err    error
}

// Header implements http.ResponseWriter. Trailers of what is not a yes go to
// the client.
func (v *verdict) Header() http.Header {
	if v.status != 0 && v.yes == nil {
		return v.w.Header()
	}
	return v.h
}

// WriteHeader implements http.ResponseWriter.
func (v *verdict) WriteHeader(status int) {
	if v.status != 0 || status < 200 {
		return
	}
	v.status = status
	if status/100 == 2 && !v.x.Refused { // a page of ours is no yes, whatever its status
		v.yes = v.h.Clone() // trailers may follow
		return
	}
	if !v.x.Refused {
		v.asked.Edited(v.spared)
	}
	out := v.w.Header()
	for k, values := range v.h {
		out[k] = values
	}
	v.w.WriteHeader(status)
}

var errLateVerdict = fmt.Errorf("the authentication server has not answered within %v: %w", askTimeout, context.DeadlineExceeded)

var errLongVerdict = errors.New("response of the authentication server is too long")

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
