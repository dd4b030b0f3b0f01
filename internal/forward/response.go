package forward

import (
	"bytes"
	"net/http"
	"strings"
	"unsafe"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// The fields of a response to the client, in the fast lane. The client's
// protocol encodes them, and adds the fields for framing, connection and Date.
// The Edit is that of EditIn.
//
// Hot path: no locks, no allocation once the destination has room.

// AppendFields appends the fields of a final response to the client. id
// replaces the identifier in res. The fields are valid as long as res is.
func (e *Edit) AppendFields(dst []h1.Field, res *h1.Response, id header.RequestID) []h1.Field {
	dst = e.appendPassing(dst, res, id.Name)
	if id.Name != "" && !header.Matches(e.drops, id.Name) {
		dst = append(dst, fieldOf(id.Name, id.Value))
	}
	return append(dst, e.fields...)
}

// AppendUpgrade appends the Upgrade fields of a 426, which name the protocols
// that it requires. A client of HTTP/1.1 must get them (RFC 9110, 15.5.22).
func AppendUpgrade(dst []h1.Field, res *h1.Response) []h1.Field {
	if res.Status != http.StatusUpgradeRequired || !res.Upgrade {
		return dst
	}
	for i := range res.Fields {
		if fd := &res.Fields[i]; header.EqualFold(fd.Name, "upgrade") {
			dst = append(dst, *fd)
		}
	}
	return append(dst, fieldOf("Connection", "Upgrade"))
}

// AppendInterimFields appends the fields of a 1xx response to the client.
func (e *Edit) AppendInterimFields(dst []h1.Field, res *h1.Response) []h1.Field {
	return e.appendPassing(dst, res, "")
}

// appendPassing appends the fields of res that cross the proxy, except the one
// named replaced.
func (e *Edit) appendPassing(dst []h1.Field, res *h1.Response, replaced string) []h1.Field {
	for i := range res.Fields {
		if fd := &res.Fields[i]; e.Passes(res, fd) && !header.SameVariable(fd.Name, replaced) {
			dst = append(dst, *fd)
		}
	}
	return dst
}

// AppendAnnounced appends one Trailer field for each trailer that res announces
// and that may pass.
func (e *Edit) AppendAnnounced(dst []h1.Field, res *h1.Response) []h1.Field {
	if !res.Trailer {
		return dst
	}
	for i := range res.Fields {
		fd := &res.Fields[i]
		if len(fd.Name) != len("trailer") || !strings.EqualFold(string(fd.Name), "trailer") {
			continue
		}
		for name := range bytes.SplitSeq(fd.Value, []byte{','}) {
			name = bytes.Trim(name, " \t")
			if h1.ValidToken(name) && !announced(dst, name) && header.PassesTrailer[[]byte, []byte](e.drops, name) && !(res.Nominates && nominated(res, name)) {
				dst = append(dst, h1.Field{Name: bytesOf("Trailer"), Value: name})
			}
		}
	}
	return dst
}

// announced reports whether fields has a Trailer field for name.
func announced(fields []h1.Field, name []byte) bool {
	for i := range fields {
		if header.EqualFold(fields[i].Name, "Trailer") && header.EqualFold(fields[i].Value, string(name)) {
			return true
		}
	}
	return false
}

// Passes reports whether a response field crosses the proxy.
func (e *Edit) Passes(res *h1.Response, fd *h1.Field) bool {
	return header.Classify(fd.Name)&(header.HopByHop|header.Framing|header.AltSvc) == 0 &&
		!(res.Nominates && nominated(res, fd.Name)) &&
		!header.Matches(e.drops, fd.Name)
}

func nominated(res *h1.Response, name []byte) bool {
	for i := range res.Fields {
		fd := &res.Fields[i]
		if header.Classify(fd.Name)&header.Connection != 0 && header.Nominated(fd.Value, name) {
			return true
		}
	}
	return false
}

// AppendReplyFields appends the fields of the proxy's answer to a request that
// failed with f, and also returns its body. id is as for AppendFields.
func AppendReplyFields(dst []h1.Field, f *exchange.Failure, id header.RequestID) (fields []h1.Field, body []byte) {
	contentType := exchange.PlainText
	if f.Page != nil {
		contentType, body = f.Page.ContentType, f.Page.Body
	} else {
		body = []byte(exchange.Line(f.Status, f.Reason))
	}
	dst = append(dst, fieldOf("Cache-Control", "no-store"), fieldOf("Content-Type", contentType))
	if f.Page == nil {
		dst = append(dst, fieldOf("Proxy-Status", exchange.ProxyStatus(f.Reason)))
	}
	if f.RetryAfter > 0 {
		dst = append(dst, h1.Field{Name: bytesOf("Retry-After"), Value: f.AppendRetryAfter(nil)})
	}
	for line := range bytes.Lines(f.Fields) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		dst = append(dst, h1.Field{Name: name, Value: bytes.TrimSpace(value)})
	}
	if id.Name != "" {
		dst = append(dst, fieldOf(id.Name, id.Value))
	}
	return dst, body
}

// fieldOf returns a field whose bytes must not be changed.
func fieldOf(name, value string) h1.Field {
	return h1.Field{Name: bytesOf(name), Value: bytesOf(value)}
}

// bytesOf returns s as bytes that must not be changed.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// viewOf returns b as a string that is valid as long as b is not changed.
func viewOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
