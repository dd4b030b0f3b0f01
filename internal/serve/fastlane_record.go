package serve

import (
	"net/netip"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/header"
)

// A name is a string that is likely to come again. Hooks may keep the record's
// strings, so they cannot point into the buffer.
type name struct{ last string }

// of returns b as a string. It allocates only when b has changed.
func (n *name) of(b []byte) string {
	if n.last != string(b) {
		n.last = string(b)
	}
	return n.last
}

// client returns the client's address, resolved through the trusted proxies.
func (x *fastExchange) client() netip.Addr {
	if !x.from.trusted {
		return x.from.peer.Addr
	}
	x.received.Reset()
	for i := range x.req.Fields {
		x.received.Note(header.Classify(x.req.Fields[i].Name), x.req.Fields[i].Value)
	}
	return header.ClientIP(x.from.peer, x.from.s.Lane.Trusted, x.received.For)
}

// finish completes the record and passes it to End if that wants it.
func (x *fastExchange) finish() {
	lane := x.from.s.Lane
	if !lane.Always && x.fail == nil {
		return
	}
	r := &x.rec
	if r.Pattern = x.hit.Pattern; r.Proto == "" { // not yet described for a hook
		x.describe(r)
	}
	if x.asked {
		r.RequestBytes = x.upload.body.Count()
	}
	if x.fail != nil {
		r.Because(x.fail, x.front.why())
		r.Err = x.fail
	}
	r.Conclude(time.Now())
	lane.End(r)
}

// describe fills r with what is known from the start.
func (x *fastExchange) describe(r *exchange.Record) {
	r.Client, r.Peer = x.hop.Client, x.from.peer.Addr
	r.Proto, r.Scheme = x.proto(), x.from.scheme()
	r.Method, r.Host, r.Path = x.names[0].of(x.req.Method), x.names[1].of(x.req.Host), x.names[2].of(x.req.Path)
	if len(x.req.Query) > 0 {
		r.Query = x.names[3].of(x.req.Query[1:])
	}
	r.UserAgent, r.Referer = x.names[4].of(x.said("User-Agent")), x.names[5].of(x.said("Referer"))
	r.Secured(x.from.state)
}

// said returns the value of the first field of that name, cut to the length of
// records, or nil.
func (x *fastExchange) said(name string) []byte {
	for i := range x.req.Fields {
		if fd := &x.req.Fields[i]; len(fd.Name) == len(name) && strings.EqualFold(view(fd.Name), name) {
			return exchange.Bounded(fd.Value)
		}
	}
	return nil
}
