package client

import (
	"errors"
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// Reasons why a request cannot be sent: a Rewrite hook has made it invalid.
var (
	errBadMethod = errors.New("request method is not a token")
	errBadTarget = errors.New("invalid byte in the request target")
	errBadHost   = errors.New("invalid byte in the request's host")
)

// A head is a request that is valid for writing.
type head struct {
	req          *http.Request
	target, host string
	framing      h1.Framing
}

// requestHead checks the values that AppendField and others would have to
// repair.
func requestHead(req *http.Request) (*head, error) {
	h := &head{req: req, target: requestTarget(req), host: req.Host}
	if h.host == "" {
		h.host = req.URL.Host
	}
	switch {
	case !h1.ValidToken(req.Method):
		return nil, errBadMethod
	case !h1.ValidTarget(h.target):
		return nil, errBadTarget
	case h.host != "" && !h1.ValidHost(h.host):
		return nil, errBadHost
	}
	switch {
	case req.Body == nil || req.Body == http.NoBody:
	case req.ContentLength > 0:
		h.framing = h1.SizedBody
	default:
		h.framing = h1.ChunkedBody
	}
	return h, nil
}

// requestTarget returns the target in origin-form, or from Opaque.
func requestTarget(req *http.Request) string {
	u := req.URL
	if u.Opaque == "" {
		return u.RequestURI()
	}
	if u.ForceQuery || u.RawQuery != "" {
		return u.Opaque + "?" + u.RawQuery
	}
	return u.Opaque
}

func (h *head) append(dst []byte) []byte {
	dst = h1.AppendRequestLine(dst, h.req.Method, h.target)
	dst = h1.AppendField(dst, "Host", h.host)
	order := exchange.OrderFrom(h.req.Context())
	order.Each(h.req.Header, func(key, name, value string) {
		if !skipped(key, h.req.Header[key], order) {
			dst = h1.AppendField(dst, name, value)
		}
	})
	if _, ok := h.req.Header["Te"]; ok { // RFC 9110, 10.1.4
		dst = append(dst, "Connection: TE\r\n"...)
	}
	if h.req.Close {
		dst = append(dst, "Connection: close\r\n"...)
	}
	dst = h.appendFraming(dst)
	return append(dst, "\r\n"...)
}

// skipped reports whether a field of the header map is not written as it is.
func skipped(name string, values []string, order *exchange.Order) bool {
	switch http.CanonicalHeaderKey(name) {
	case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
		return true
	case "User-Agent":
		return values[0] == "" && (order == nil || !order.EmptyAgent)
	}
	return false
}

func (h *head) appendFraming(dst []byte) []byte {
	switch h.framing {
	case h1.SizedBody:
		return h1.AppendContentLength(dst, h.req.ContentLength)
	case h1.ChunkedBody:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
		if len(h.req.Trailer) == 0 { // sorting nothing allocates
			return dst
		}
		for _, name := range slices.Sorted(maps.Keys(h.req.Trailer)) {
			if !header.ForbiddenTrailer(name) {
				dst = h1.AppendField(dst, "Trailer", name)
			}
		}
		return dst
	}
	if said := h.req.Header["Content-Length"]; len(said) == 1 && said[0] == "0" { // RFC 9110, 8.6
		return h1.AppendContentLength(dst, 0)
	}
	return dst
}

// ResponseHeader copies the fields into a map, and returns their names.
// Transfer-Encoding is left out, and a repeated Content-Length counts once.
func ResponseHeader(res *h1.Response) (http.Header, exchange.Names) {
	h := make(http.Header, len(res.Fields))
	return h, AddFields(h, res, func(f *h1.Field) bool { return !header.EqualFold(f.Name, "Transfer-Encoding") })
}

// AddFields adds the fields of res that pass to h, and returns their names. It
// allocates one string and one slice for all of them. A repeated Content-Length
// counts once.
func AddFields(h http.Header, res *h1.Response, pass func(*h1.Field) bool) exchange.Names {
	size, count := 0, 0
	for i := range res.Fields {
		if f := &res.Fields[i]; pass(f) {
			size += len(f.Name) + len(f.Value)
			count++
		}
	}
	var text strings.Builder
	text.Grow(size)
	all, n := make([]string, 3*count), 0
	values, names := all[:0:count], exchange.Names{Spelled: all[count : 2*count : 2*count], Keys: all[2*count:]}
	for i := range res.Fields {
		f := &res.Fields[i]
		if !pass(f) {
			continue
		}
		start := text.Len()
		text.Write(f.Name)
		text.Write(f.Value)
		line := text.String()[start:]
		name, value := textproto.CanonicalMIMEHeaderKey(line[:len(f.Name)]), line[len(f.Name):]
		names.Spelled[n], names.Keys[n] = line[:len(f.Name)], name
		n++
		switch old := h[name]; {
		case old == nil:
			values = append(values, value)
			h[name] = values[len(values)-1 : len(values) : len(values)]
		case name != "Content-Length":
			h[name] = append(old[:len(old):len(old)], value)
		}
	}
	return names
}

// AnnouncedTrailers removes the Trailer fields from h and returns the names in
// them, except forbidden ones.
func AnnouncedTrailers(h http.Header) http.Header {
	lines := h["Trailer"]
	delete(h, "Trailer")
	var names http.Header
	for _, line := range lines {
		for name := range strings.SplitSeq(line, ",") {
			name = textproto.TrimString(name)
			if !h1.ValidToken(name) || header.ForbiddenTrailer(name) {
				continue
			}
			if names == nil {
				names = make(http.Header)
			}
			names[http.CanonicalHeaderKey(name)] = nil
		}
	}
	return names
}
