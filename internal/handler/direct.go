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
// upstreams no hooks. For these the fast lane's functions write net/http's
// request as it is, without an http.Request of our own in between. The
// response's fields go to a writer that relays them, or else directly into
// net/http's map.

// A draft presents a request on the short way to the fast lane's functions.
type draft struct {
	req      h1.Request
	hop      header.Hop
	received header.Received[[]byte]
}

var drafts = sync.Pool{New: func() any { return new(draft) }}

// short returns the request as a draft if the exchange can go the short way,
// and otherwise nil. It is a function of its own so that its map iterator is
// off the stack when the draft is used: the stack is deepest there. The fields
// keep the client's order and spelling.
func (a *roundTrip) short() *draft {
	q := a.q // exchange.Check has found it valid
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
		d.hop.ID = header.RequestID{Name: id, Value: a.x.RequestID} // written after the others
	}
	return d
}

// valid reports whether values are valid for a field.
func valid(values []string) bool {
	return !slices.ContainsFunc(values, func(v string) bool { return !header.ValidValue(v) })
}

// harmless reports whether a field is a Connection with no other options than
// close and keep-alive.
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

// unchanged reports whether the request's URL is still the client's: handlers
// around us may have changed it.
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

// doShort performs one attempt on the short way. The returned response has no
// Header: the fields are already in the writer.
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

// adopt takes over the response of try, whose head of n bytes has been read.
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
	// a body with a length has no trailers
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
	// last: without a body, Attach gives back the connection, and the fields in
	// its buffer are lost
	try.Attach(res, n)
	return res, nil
}

// relayed reports whether the writer has taken the head as it is. Heads with
// trailers, or with the protocols of a 426, need the Header.
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
	a.x.Edited(a.edit.Spared())
	if !w.Relay(head.Status, a.fields, length) {
		return false
	}
	a.wrote, a.x.Status = true, head.Status
	a.events = forward.IsEventStream(head)
	return true
}

// free puts the draft back into the pool, without pointers to the request.
func (d *draft) free() {
	d.received.Reset()
	clear(d.req.Fields)
	d.req.Fields = d.req.Fields[:0]
	d.req.Method, d.req.Target, d.req.Host = nil, nil, nil
	drafts.Put(d)
}

// bytesOf returns s as bytes, which must not be changed.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
