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

// Limits of a question to an authentication server: the bytes of an answer
// whose body is not used, and the time until the end of the answer.
const (
	maxVerdict = 64 << 10
	askTimeout = 30 * time.Second
)

// unasked are fields about a body or a condition that the question does not
// have. Read-only.
var unasked = []string{"Expect", "Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"}

// A Question is a request to an authentication server that decides whether a
// client's request may pass. It may be used concurrently.
type Question struct {
	Next http.Handler                       // for the owner: it serves requests that pass
	Auth func() (*forward.Forwarder, error) // for the owner: it answers

	target *url.URL
	fields []string
	user   string // the element of fields with the user's name; "" means none
}

// NewQuestion returns the question for a path, which may have a query. fields
// are the response headers that are copied to a request that passes; the
// client's own are always removed. user is the element of fields that contains
// the user's name; "" means none. The error names all faults.
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
	return &Question{target: u, fields: slices.Clone(fields), user: user}, errors.Join(errs...)
}

// Ask sends f a GET that asks whether q may pass. After a 2xx response of a
// target, Ask returns q as it should pass. It returns nil otherwise: then the
// response went to the client by w, or f failed to get one, which is also the
// failure of x. The question has q's end-to-end fields, the usual forwarding
// fields, and X-Forwarded-Method and X-Forwarded-Uri.
func (k *Question) Ask(f *forward.Forwarder, w http.ResponseWriter, q *http.Request, x *exchange.Exchange) *http.Request {
	ctx, cancel := context.WithTimeout(q.Context(), askTimeout)
	defer cancel()
	q = exchange.Withhold(q, k.fields...)
	// untrusted fields are removed in about, so Trusted is true
	c := &exchange.Exchange{Via: x.Via, Name: x.Name, Trusted: true, Lives: x.Lives, Asker: q, About: x, Paged: x.Paged}
	c.Client, c.Peer, c.Scheme, c.Start = x.Client, x.Peer, x.Scheme, time.Now()
	c.ClientScheme, c.ClientHost = x.ClientScheme, x.ClientHost
	c.RequestID, c.Numbering = x.RequestID, x.Numbering
	v := &verdict{w: w, h: make(http.Header), x: c, spared: f.EditIn(outer(x)).Spared()}
	defer func() {
		if fail, ok := c.Err.(*exchange.Failure); ok && v.yes == nil {
			if fail.Err == exchange.ErrDeadline && q.Context().Err() == nil { // our deadline
				fail.Side, fail.Err = exchange.SideUpstream, errLateVerdict
			}
			x.Fail(fail)
		}
		if c.Refused {
			x.Status, x.Mapped = c.Status, c.Mapped
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

// serveQuestion serves the question. A 2xx response counts even if its unused
// body is too long, but not if it was cut off: then there is no answer.
func serveQuestion(f *forward.Forwarder, v *verdict, q *http.Request, c *exchange.Exchange) {
	defer func() {
		switch p := recover(); {
		case p == nil, p == http.ErrAbortHandler && v.err != nil:
		case p == http.ErrAbortHandler && v.yes != nil: // the client has got nothing yet
			v.yes = nil
			exchange.Reply(v.w, c.Asker, http.StatusBadGateway, "http_response_incomplete")
		default:
			panic(p)
		}
	}()
	Serve(f, v, q, c)
}

// about returns the question for q.
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

// A verdict receives the answer to a question. If it is not a yes, it is passed
// on to the client.
type verdict struct {
	w      http.ResponseWriter
	h      http.Header
	x      *exchange.Exchange // exchange of the question
	spared *exchange.Spared   // if the answer is a target's
	yes    http.Header        // header of a yes; nil for any other answer
	status int                // final status; 0 until known
	read   int                // bytes of a yes's body
	err    error
}

// Header implements http.ResponseWriter. The trailers of an answer that is not
// a yes go to the client.
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
	if status/100 == 2 && !v.x.Refused { // our own page is not a yes, regardless of its status
		v.yes = v.h.Clone() // trailers may follow
		return
	}
	if !v.x.Refused {
		v.x.About.Edited(v.spared)
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
