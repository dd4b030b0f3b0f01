package forward

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// The request to a target, in the fast lane. This file makes the same decisions
// as request.go of package handler, on slices of the read buffer.
//
// Hot path: no locks, no allocation once the destination has room.

// An Encoder writes the messages of a Forwarder: the fields that cross the
// proxy, and those that it adds. It writes a request as bytes, since targets
// speak HTTP/1.1. For a response it returns a list of fields, which the
// client's protocol encodes.
type Encoder struct{ *Config }

// plain reports whether the edit touches no field that the proxy itself writes.
func (e *Edit) plain() bool {
	for _, k := range e.names() {
		if header.Classify(k)&^header.NoTrailer != 0 || strings.EqualFold(k, "Date") {
			return false
		}
	}
	return true
}

// names returns all names that the edit touches.
func (e *Edit) names() []string {
	all := slices.Clone(e.Remove)
	for k := range e.Set {
		all = append(all, k)
	}
	for k := range e.Add {
		all = append(all, k)
	}
	return all
}

// compile prepares the edit for the fast lane: the fields that it adds, sorted
// by name, also as lines, and the names of the fields that it drops.
func (e *Edit) compile() {
	e.drops = slices.Clone(e.Remove)
	for _, k := range slices.Sorted(maps.Keys(e.Set)) {
		e.drops = append(e.drops, k)
		e.compileValues(k, e.Set[k])
	}
	for _, k := range slices.Sorted(maps.Keys(e.Add)) {
		e.compileValues(k, e.Add[k])
	}
}

func (e *Edit) compileValues(name string, values []string) {
	name = http.CanonicalHeaderKey(name)
	e.adds = append(e.adds, name)
	for _, v := range values {
		e.fields = append(e.fields, h1.Field{Name: []byte(name), Value: []byte(v)})
		e.lines = h1.AppendField(e.lines, name, v)
	}
}

// AppendRequest appends the head of req for the target t. received is memory
// for the peer's forwarding fields. The stages do not call each other: an
// HTTP/2 stream has a small stack, which is deepest here.
func (e *Encoder) AppendRequest(dst []byte, req *h1.Request, t *Target, hop *header.Hop, received *header.Received[[]byte]) []byte {
	dst = e.appendStart(dst, req, t)
	dst = e.appendClients(dst, req, hop, received)
	dst = header.AppendForwarded(dst, hop, req.Host, received)
	dst = appendNumber(dst, &hop.ID, &e.RequestHeader)
	if len(hop.Set) > 0 {
		dst = appendSet(dst, hop.Set, &e.RequestHeader)
	}
	dst = append(dst, e.RequestHeader.lines...)
	return appendFraming(dst, req)
}

// appendStart appends the request line and Host.
func (e *Encoder) appendStart(dst []byte, req *h1.Request, t *Target) []byte {
	dst = append(dst, req.Method...)
	dst = append(dst, ' ')
	dst = append(dst, t.Base...)
	// absolute-form; its authority is in Host
	if len(req.Path) > 0 && req.Unusual&h1.UnusualTarget != 0 {
		dst = e.Prefix.appendInner(dst, req.Path)
		dst = append(dst, req.Query...)
	} else {
		dst = e.Prefix.appendInner(dst, req.Target)
	}
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	if e.TargetHost && t.URL.Host != "" {
		dst = append(dst, t.URL.Host...)
	} else {
		dst = append(dst, req.Host...)
	}
	return append(dst, "\r\n"...)
}

// appendClients appends the client's fields that cross the proxy.
func (e *Encoder) appendClients(dst []byte, req *h1.Request, hop *header.Hop, received *header.Received[[]byte]) []byte {
	received.Reset()
	for i := range req.Fields {
		fd := &req.Fields[i]
		if c := header.Classify(fd.Name); c != 0 {
			received.Note(c, fd.Value)
			if c&header.Host != 0 || hop.Drops(c) {
				continue
			}
		}
		if header.Matches(e.RequestHeader.drops, fd.Name) || header.SameVariable(fd.Name, hop.ID.Name) || header.Replaces(hop.Set, fd.Name) {
			continue
		}
		dst = appendLine(dst, fd)
	}
	return dst
}

// appendNumber appends the line of a request's identifier, if it has one and e
// does not drop it.
func appendNumber(dst []byte, id *header.RequestID, e *Edit) []byte {
	if id.Name == "" || header.Matches(e.drops, id.Name) {
		return dst
	}
	return h1.AppendField(dst, id.Name, id.Value)
}

// appendSet appends the lines of the replacements that e does not drop.
func appendSet(dst []byte, set []header.Replacement, e *Edit) []byte {
	for i := range set {
		if s := &set[i]; !s.Gone && !header.Matches(e.drops, s.Name) {
			dst = h1.AppendField(dst, s.Name, s.Value)
		}
	}
	return dst
}

// appendFraming appends the field that frames the body, and the end of the
// head.
func appendFraming(dst []byte, req *h1.Request) []byte {
	switch req.Framing() {
	case h1.ChunkedBody:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	case h1.SizedBody:
		dst = h1.AppendContentLength(dst, req.ContentLength)
	default:
		if req.ContentLength == 0 {
			dst = append(dst, "Content-Length: 0\r\n"...)
		}
	}
	return append(dst, "\r\n"...)
}

func appendLine(dst []byte, fd *h1.Field) []byte {
	dst = append(dst, fd.Name...)
	dst = append(dst, ": "...)
	dst = append(dst, fd.Value...)
	return append(dst, "\r\n"...)
}
