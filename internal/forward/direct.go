package forward

import (
	"net/http"
	"strings"
	"sync"
	"unsafe"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// The short way through the full lane: most requests have no body, and most
// upstreams no hooks. Then net/http's request is written as it is, by the fast
// lane's functions, and the response's fields go straight into net/http's map,
// without an http.Request and an http.Response of our own in between.

// A draft is memory for a request on the short way.
type draft struct {
	req      h1.Request
	hop      header.Hop
	received header.Received[[]byte]
}

var drafts = sync.Pool{New: func() any { return new(draft) }}

// short reports whether the short way does for the exchange.
func (a *attempt) short() bool {
	q := a.q
	if !a.f.fast || a.body != nil || q.RequestURI == "" || q.RequestURI[0] != '/' || !h1.ValidTarget(q.RequestURI) ||
		!h1.ValidHost(q.Host) || !h1.ValidToken(q.Method) || !unchanged(q) {
		return false
	}
	for name, values := range q.Header {
		if header.Classify(name)&(header.Connection|header.TE|header.Expect) != 0 && !harmless(name, values) || !header.ValidName(name) {
			return false
		}
		for _, v := range values {
			if !header.ValidValue(v) {
				return false
			}
		}
	}
	return true
}

// harmless reports whether a field is a Connection that only says how long the
// connection is to last.
func harmless(name string, values []string) bool {
	if name != "Connection" {
		return false
	}
	for _, v := range values {
		if header.ConnectionOptions(v)&^(header.OptionClose|header.OptionKeepAlive) != 0 {
			return false
		}
	}
	return true
}

// unchanged reports whether the request's URL is still what the client wrote:
// handlers around us may have changed it.
func unchanged(q *http.Request) bool {
	u := q.URL
	rest, ok := strings.CutPrefix(q.RequestURI, u.Path)
	if ok && u.RawPath == "" && u.Opaque == "" {
		if rest == "" {
			return u.RawQuery == "" && !u.ForceQuery
		}
		return rest[0] == '?' && rest[1:] == u.RawQuery
	}
	return u.RequestURI() == q.RequestURI
}

// doShort performs one attempt on the short way. The response that it returns
// has no Header: the fields are in a.w.Header() already.
func (a *attempt) doShort(c *client, t *Target) (*http.Response, error) {
	try := &try{c: c, req: a.q, ctx: &a.flight, on1xx: a.informational, s: scratches.Get().(*scratch)}
	defer try.s.free()
	try.s.out = a.appendShort(try.s.out[:0], t)
	try.s.res.Reset()
	n, err := try.exchange()
	if err != nil {
		return nil, err
	}
	head := &try.s.res
	if head.Status == http.StatusSwitchingProtocols {
		return nil, try.fail("read", &ProtocolError{What: "101 that nobody asked for"})
	}
	res := &a.res
	res.StatusCode = head.Status
	h := a.w.Header()
	addFields(h, head, func(f *h1.Field) bool { return a.f.passes(head, f) })
	if head.Trailer && head.Framing(a.q.Method) == h1.ChunkedBody {
		res.Trailer = announcedTrailers(responseHeader(head))
	}
	try.attach(res, n)
	if len(res.Trailer) == 0 && head.ContentLength >= 0 && !head.Chunked {
		addFields(h, head, func(f *h1.Field) bool { return equalFold(f.Name, "Content-Length") })
	}
	return res, nil
}

// appendShort appends the head of the client's request as it goes to t.
func (a *attempt) appendShort(dst []byte, t *Target) []byte {
	d := drafts.Get().(*draft)
	defer drafts.Put(d)
	q := a.q
	r := &d.req
	r.Method, r.Target, r.Host = bytesOf(q.Method), bytesOf(q.RequestURI), bytesOf(q.Host)
	r.Fields, r.ContentLength = r.Fields[:0], -1
	for name, values := range q.Header {
		for _, v := range values {
			r.Fields = append(r.Fields, h1.Field{Name: bytesOf(name), Value: bytesOf(v)})
		}
	}
	if _, zero := q.Header["Content-Length"]; zero {
		r.ContentLength = 0
	}
	a.fill(&d.hop)
	dst = a.f.AppendRequest(dst, r, t, &d.hop, &d.received)
	d.received.Reset()
	clear(r.Fields)
	r.Method, r.Target, r.Host = nil, nil, nil
	return dst
}

// bytesOf is s as bytes that nobody may change.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
