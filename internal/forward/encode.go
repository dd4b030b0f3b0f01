package forward

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// The byte form of an exchange, for the fast lane. It makes the decisions of
// request.go and response.go on slices of the read buffer.
//
// Hot path: no locks, no allocation once the destination has room.

// An Encoder writes the messages of a Forwarder in bytes: which fields cross the
// proxy, and what it adds.
type Encoder struct{ *Config }

// plain reports whether the edit leaves alone what the proxy itself writes.
func (e *Edit) plain() bool {
	for _, k := range e.names() {
		if header.Classify(k)&^header.NoTrailer != 0 || strings.EqualFold(k, "Date") {
			return false
		}
	}
	return true
}

// names returns every name the edit touches.
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

// compile prepares the edit for the fast lane: the lines that it adds, and the
// names whose fields it drops.
func (e *Edit) compile() {
	e.drops = slices.Clone(e.Remove)
	for k, values := range e.Set {
		e.drops = append(e.drops, k)
		for _, v := range values {
			e.lines = h1.AppendField(e.lines, http.CanonicalHeaderKey(k), v)
		}
	}
	for k, values := range e.Add {
		for _, v := range values {
			e.lines = h1.AppendField(e.lines, http.CanonicalHeaderKey(k), v)
		}
	}
}

// AppendRequest appends the head of req as it goes to t. received is room for
// what a trusted peer says. Its stages do not call each other: an HTTP/2
// stream's stack is small, and this is where it is deepest.
func (e *Encoder) AppendRequest(dst []byte, req *h1.Request, t *Target, hop *header.Hop, received *header.Received[[]byte]) []byte {
	dst = e.appendStart(dst, req, t)
	dst = e.appendClients(dst, req, hop, received)
	dst = header.AppendForwarded(dst, hop, req.Host, received)
	dst = appendNumber(dst, &hop.ID, &e.RequestHeader)
	dst = append(dst, e.RequestHeader.lines...)
	return appendFraming(dst, req)
}

// appendStart appends the request line and Host.
func (e *Encoder) appendStart(dst []byte, req *h1.Request, t *Target) []byte {
	dst = append(dst, req.Method...)
	dst = append(dst, ' ')
	dst = append(dst, t.Base...)
	if len(req.Path) > 0 && req.Unusual&h1.UnusualTarget != 0 { // absolute-form, whose authority is in Host
		dst = append(dst, req.Path...)
		dst = append(dst, req.Query...)
	} else {
		dst = append(dst, req.Target...)
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
		if header.Matches(e.RequestHeader.drops, fd.Name) || header.SameVariable(fd.Name, hop.ID.Name) {
			continue
		}
		dst = appendLine(dst, fd)
	}
	return dst
}

// appendNumber appends the line of a request's identifier, if there is one, before
// e edits the message.
func appendNumber(dst []byte, id *header.RequestID, e *Edit) []byte {
	if id.Name == "" || header.Matches(e.drops, id.Name) {
		return dst
	}
	return h1.AppendField(dst, id.Name, id.Value)
}

// appendFraming appends how the body is framed, and the end of the head.
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

// AppendResponse appends the head of a final response as it goes to the
// client. framing is how the body will be framed for it: sized as res is, or
// chunked. id takes the place of res's own identifier; own are further lines, see
// [Attempts.Own]; connection is the value of the Connection field; "" means none.
func (e *Encoder) AppendResponse(dst []byte, res *h1.Response, framing h1.Framing, id header.RequestID, own, connection string) []byte {
	dst = appendStatus(dst, res)
	dst, dated := e.appendFields(dst, res, id.Name)
	if !dated {
		dst = append(dst, "Date: "...)
		dst = time.Now().UTC().AppendFormat(dst, http.TimeFormat)
		dst = append(dst, "\r\n"...)
	}
	dst = appendNumber(dst, &id, &e.ResponseHeader)
	dst = append(dst, e.ResponseHeader.lines...)
	dst = append(dst, own...)
	switch {
	case framing == h1.ChunkedBody:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
		if res.Trailer && res.Chunked {
			dst = e.appendAnnounced(dst, res)
		}
	case res.ContentLength >= 0 && res.Status != http.StatusNoContent && !res.Chunked:
		dst = h1.AppendContentLength(dst, res.ContentLength)
	}
	if connection != "" {
		dst = h1.AppendField(dst, "Connection", connection)
	}
	return append(dst, "\r\n"...)
}

// appendAnnounced appends a Trailer line for each trailer that res announces and that may pass.
func (e *Encoder) appendAnnounced(dst []byte, res *h1.Response) []byte {
	for i := range res.Fields {
		fd := &res.Fields[i]
		if len(fd.Name) != len("trailer") || !strings.EqualFold(string(fd.Name), "trailer") {
			continue
		}
		for name := range bytes.SplitSeq(fd.Value, []byte{','}) {
			name = bytes.Trim(name, " \t")
			if h1.ValidToken(name) && header.PassesTrailer[[]byte, []byte](e.ResponseHeader.drops, name) && !(res.Nominates && nominated(res, name)) {
				dst = h1.AppendField(dst, "Trailer", name)
			}
		}
	}
	return dst
}

// AppendInterim appends the head of a 1xx.
func (e *Encoder) AppendInterim(dst []byte, res *h1.Response) []byte {
	dst = appendStatus(dst, res)
	dst, _ = e.appendFields(dst, res, "")
	return append(dst, "\r\n"...)
}

func appendStatus(dst []byte, res *h1.Response) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = append(dst, byte('0'+res.Status/100), byte('0'+res.Status/10%10), byte('0'+res.Status%10), ' ')
	dst = append(dst, res.Reason...)
	return append(dst, "\r\n"...)
}

// appendFields appends the fields of res that cross the proxy, but for the one that
// is replaced, and reports whether Date was among them.
func (e *Encoder) appendFields(dst []byte, res *h1.Response, replaced string) (_ []byte, dated bool) {
	for i := range res.Fields {
		fd := &res.Fields[i]
		if !e.Passes(res, fd) || header.SameVariable(fd.Name, replaced) {
			continue
		}
		dated = dated || len(fd.Name) == 4 && strings.EqualFold(string(fd.Name), "Date")
		dst = appendLine(dst, fd)
	}
	return dst, dated
}

// Passes reports whether a response field crosses the proxy.
func (e *Encoder) Passes(res *h1.Response, fd *h1.Field) bool {
	return header.Classify(fd.Name)&(header.HopByHop|header.Framing|header.AltSvc) == 0 &&
		!(res.Nominates && nominated(res, fd.Name)) &&
		!header.Matches(e.ResponseHeader.drops, fd.Name)
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

// AppendReply appends the whole answer that the handler lane gives to a request of
// that method which failed with f. id and connection are as for AppendResponse. It
// returns the size of the body, too.
func AppendReply(dst []byte, method string, f *exchange.Failure, id header.RequestID, connection string) (_ []byte, size int) {
	status, contentType := f.Status, exchange.PlainText
	var body []byte
	if f.Page != nil {
		contentType, body = f.Page.ContentType, f.Page.Body
	} else {
		body = []byte(exchange.Line(status, f.Reason))
	}
	dst = h1.AppendStatusLine(dst, status, http.StatusText(status))
	dst = append(dst, "Cache-Control: no-store\r\n"...)
	dst = h1.AppendContentLength(dst, int64(len(body)))
	dst = h1.AppendField(dst, "Content-Type", contentType)
	dst = append(dst, "Date: "...)
	dst = time.Now().UTC().AppendFormat(dst, http.TimeFormat)
	dst = append(dst, "\r\n"...)
	if f.Page == nil {
		dst = h1.AppendField(dst, "Proxy-Status", exchange.ProxyStatus(f.Reason))
	}
	if f.RetryAfter > 0 {
		dst = append(f.AppendRetryAfter(append(dst, "Retry-After: "...)), "\r\n"...)
	}
	dst = append(dst, f.Fields...)
	if id.Name != "" {
		dst = h1.AppendField(dst, id.Name, id.Value)
	}
	if connection != "" {
		dst = h1.AppendField(dst, "Connection", connection)
	}
	dst = append(dst, "\r\n"...)
	if method == http.MethodHead {
		return dst, 0
	}
	return append(dst, body...), len(body)
}
