package handler

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/hostproxy/hostproxy/internal/client"
	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// The short way through the handler lane: most requests have no body, and most
// upstreams no hooks. Then net/http's request is written as it is, by the fast
// lane's functions, without an http.Request of our own in between. The
// response's fields go to a writer that relays them, or else straight into
// net/http's map.

// A draft shows a request on the short way to the fast lane's functions.
type draft struct {
	req      h1.Request
	hop      header.Hop
	received header.Received[[]byte]
}

var drafts = sync.Pool{New: func() any { return new(draft) }}

// short returns the request as a draft if the short way does for the exchange,
// and else nil. Its map iterator is gone when the draft is used: the stack is
// deepest there. The fields have the order and the spelling in which the client
// sent them.
func (a *roundTrip) short() *draft {
	q := a.q // which exchange.Check has found valid
	if !a.fast || len(a.f.Retry.Statuses) > 0 || len(a.f.Pages) > 0 || a.body != nil || q.RequestURI == "" || q.RequestURI[0] != '/' || q.Host == "" || !unchanged(q) {
		return nil
	}
	if _, counted := exchange.MaxForwards(q); counted {
		return nil
	}
	d := drafts.Get().(*draft)
	for name, values := range q.Header {
		if header.Classify(name)&(header.Connection|header.TE|header.Expect) != 0 && !harmless(name, values) || !header.ValidName(name) || !valid(values) {
			d.free()
			return nil
		}
	}
	o := exchange.Order{Names: exchange.NamesFrom(q.Context())}
	o.Each(q.Header, func(_, name, value string) {
		d.req.Fields = append(d.req.Fields, h1.Field{Name: bytesOf(name), Value: bytesOf(value)})
	})
	r := &d.req
	r.Method, r.Target, r.Host, r.ContentLength = bytesOf(q.Method), bytesOf(q.RequestURI), bytesOf(q.Host), -1
	if measured(q) {
		r.ContentLength = 0
	}
	a.fill(&d.hop)
	d.hop.ID = header.RequestID{}
	if id := a.x.Numbering.Name; id != "" && slices.Equal(q.Header[id], []string{a.x.RequestID}) {
		d.hop.ID = header.RequestID{Name: id, Value: a.x.RequestID} // behind the others
	}
	return d
}

// valid reports whether values can be those of a field.
func valid(values []string) bool {
	return !slices.ContainsFunc(values, func(v string) bool { return !header.ValidValue(v) })
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
// has no Header: the writer has the fields already.
func (a *roundTrip) doShort(c *client.Client, t *forward.Target, d *draft) (*http.Response, error) {
	try := c.Start(&a.flight, a.q, a.relay, &a.room)
	defer try.Free()
	try.Out = a.f.AppendRequest(try.Out, &d.req, t, &d.hop, &d.received)
	d.free()
	n, err := try.Exchange()
	if err != nil {
		return nil, err
	}
	return a.adopt(&try, n)
}

// adopt takes the response over whose head of n bytes try has read.
func (a *roundTrip) adopt(try *client.Try, n int) (*http.Response, error) {
	head := &try.Head
	if head.Status == http.StatusSwitchingProtocols {
		return nil, try.Fail("read", exchange.ErrUnasked)
	}
	res := &a.res
	res.StatusCode = head.Status
	if a.f.Translates() {
		a.paths = a.f.Translate(head, a.attempts.Target, a.paths[:0], a.q.Host, a.x.ClientHost)
	}
	if head.Nominates {
		a.named = []string{string(forward.AppendNominated(nil, head))}
	}
	// and so without trailers
	sized := head.ContentLength >= 0 && !head.Chunked && head.Status != http.StatusNoContent
	if a.relayed(head, sized) {
		try.Attach(res, n)
		return res, nil
	}
	h := a.w.Header()
	a.flight.order.Answer = client.AddFields(h, head, func(f *h1.Field) bool {
		return a.edit.Passes(head, f) || sized && header.EqualFold(f.Name, "Content-Length")
	})
	if head.Trailer && head.Framing(a.q.Method) == h1.ChunkedBody {
		all, _ := client.ResponseHeader(head)
		res.Trailer = client.AnnouncedTrailers(all)
	}
	if head.Upgrade {
		all, _ := client.ResponseHeader(head)
		a.requireUpgrade(h, head.Status, all["Upgrade"])
	}
	// last: without a body, the connection and the fields in its buffer are
	// somebody else's behind it
	try.Attach(res, n)
	return res, nil
}

// relayed reports whether the writer has taken the head as it is. What concerns
// more than the head, which are trailers and the protocols of a 426, is for the
// Header.
func (a *roundTrip) relayed(head *h1.Response, sized bool) bool {
	w, ok := a.w.(exchange.Relayer)
	if !ok || head.Trailer || head.Upgrade {
		return false
	}
	length := int64(-1)
	if sized {
		length = head.ContentLength
	}
	a.fields = a.attempts.AppendOwn(a.edit.AppendFields(a.fields[:0], head, header.RequestID{}), a.x.ClientScheme)
	if !w.Relay(head.Status, a.fields, length) {
		return false
	}
	a.wrote, a.x.Status = true, head.Status
	a.events = forward.IsEventStream(head)
	return true
}

// free gives the draft back, without a pointer to the request.
func (d *draft) free() {
	d.received.Reset()
	clear(d.req.Fields)
	d.req.Fields = d.req.Fields[:0]
	d.req.Method, d.req.Target, d.req.Host = nil, nil, nil
	drafts.Put(d)
}

// bytesOf is s as bytes that nobody may change.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
