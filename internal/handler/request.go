package handler

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/header"
)

// outgoing builds the request of one attempt. It does not change the client's
// request.
func (a *roundTrip) outgoing(ctx context.Context, t *forward.Target) (*http.Request, error) {
	q := a.q
	out := q.WithContext(ctx)
	out.URL = a.outgoingURL(t)
	out.Proto, out.ProtoMajor, out.ProtoMinor = "HTTP/1.1", 1, 1
	out.Header = a.outgoingHeader(t)
	out.Body, out.Trailer = http.NoBody, nil
	out.TransferEncoding, out.Close, out.RequestURI = nil, false, ""
	// RFC 8441: HTTP/1.1 targets get a GET with a key of ours
	if q.Method == http.MethodConnect {
		out.Method, out.ContentLength = http.MethodGet, 0
		out.Header.Set("Sec-Websocket-Key", websocketKey())
	}
	if a.f.TargetHost && t.URL.Host != "" {
		out.Host = t.URL.Host
	}
	if a.body == nil && measured(q) {
		out.Header["Content-Length"] = []string{"0"}
	}
	if a.body != nil && q.Method != http.MethodConnect {
		if out.Body, out.Trailer = a.body.reader(); len(out.Trailer) > 0 {
			out.ContentLength = -1 // over HTTP/1.1 trailers need chunks (RFC 9112, 7.1.2)
		} else if a.buffered && a.body.Whole() {
			a.measure(out)
		}
	}
	if a.f.Rewrite != nil {
		if err := a.rewrite(out, t); err != nil {
			return nil, err
		}
	}
	a.f.RequestHeader.Apply(out.Header)
	if q.Method == http.MethodConnect {
		a.key = out.Header.Get("Sec-Websocket-Key")
	}
	if o := exchange.OrderFrom(ctx); o != nil {
		*o = a.order(out.Header)
	}
	header.OmitUserAgent(out.Header) // after everything that may have added or removed one
	return out, nil
}

// measure sets the length of a body that has been read whole: not every server
// accepts chunks.
func (a *roundTrip) measure(out *http.Request) {
	if out.ContentLength = a.body.Count(); out.ContentLength == 0 {
		out.Body, out.Trailer = http.NoBody, nil
		out.Header["Content-Length"] = []string{"0"}
	}
}

// measured reports whether to tell a target that q has no body. It follows the
// client if our front serves it, and otherwise the method (RFC 9110, 8.6).
func measured(q *http.Request) bool {
	if _, said := q.Header["Content-Length"]; said || exchange.HasFront(q.Context()) {
		return said
	}
	return q.Method == http.MethodPost || q.Method == http.MethodPut || q.Method == http.MethodPatch
}

// outgoingURL returns the URL at the target: its base path and the request's
// own target, byte for byte if no hook has to read it.
func (a *roundTrip) outgoingURL(t *forward.Target) *url.URL {
	out := &url.URL{Scheme: t.URL.Scheme, Host: t.URL.Host}
	switch out.Scheme {
	case "unix":
		out.Scheme, out.Host = "http", a.q.Host
	case "h2c":
		out.Scheme = "http"
	}
	in := a.q.URL
	path, base := exchange.WirePath(a.q), t.Base
	inner := a.f.Prefix.Inner(path)
	if path == "*" { // a question about the server, which takes no base path
		base = ""
	}
	out.RawQuery, out.ForceQuery = in.RawQuery, in.ForceQuery
	if a.f.Rewrite == nil && path != in.EscapedPath() && (t.Pool != nil || !strings.HasPrefix(base+inner, "//")) {
		// The parsed form would spell it differently. Foreign clients read an
		// Opaque that begins with // as an authority.
		out.Opaque = base + inner
		return out
	}
	out.Path, out.RawPath = in.Path, in.RawPath
	if joined := base + in.EscapedPath(); base != "" || a.f.Translates() {
		if a.f.Translates() {
			joined = base + inner
		}
		if p, err := url.PathUnescape(joined); err == nil {
			out.Path, out.RawPath = p, joined
		}
	}
	return out
}

// outgoingHeader copies the fields that are forwarded to t and adds ours.
func (a *roundTrip) outgoingHeader(t *forward.Target) http.Header {
	q := a.q
	h := make(http.Header, len(q.Header)+6)
	for k, v := range q.Header {
		if !strings.HasPrefix(k, ":") {
			h[k] = v[:len(v):len(v)] // an append must not reach the client's slice
		}
	}
	if left, ok := exchange.MaxForwards(q); ok {
		h["Max-Forwards"] = []string{strconv.Itoa(left - 1)}
	}
	if exchange.IsHTTP10(q) || a.buffered {
		delete(h, "Expect") // has no meaning there (RFC 9110, 10.1.1)
	}
	protocol := a.f.UpgradeProtocol(a.q)
	if t.URL.Scheme == "h2c" { // HTTP/2 has no Upgrade: a server may ignore it (RFC 9110, 7.8)
		protocol = ""
	}
	header.RemoveHopByHop(h)
	if protocol != "" {
		h.Set("Connection", "Upgrade")
		h.Set("Upgrade", protocol)
	}
	var hop header.Hop
	a.fill(&hop)
	header.SetForwarded(h, &hop, q.Host)
	header.Replace(h, a.set)
	return h
}

// fill sets what the target is told about the client.
func (a *roundTrip) fill(h *header.Hop) {
	h.Peer, h.Client, h.Trusted = a.x.Via, a.x.Client, a.x.Trusted
	h.Scheme, h.Version, h.Name = a.x.Scheme, strings.TrimPrefix(exchange.Proto(a.q), "HTTP/"), a.x.Name
	if h.Name == "" {
		h.Name = a.f.Name()
	}
	h.RFC7239, h.Prefix, h.Set = a.f.Forwarded, a.f.Prefix.Strip, a.set
}

// websocketKey returns a fresh Sec-WebSocket-Key (RFC 6455, 4.1).
func websocketKey() string {
	var key [16]byte
	rand.Read(key[:]) // never fails, crypto/rand says
	return base64.StdEncoding.EncodeToString(key[:])
}

// accepts reports whether h has the right Sec-WebSocket-Accept for our key, if
// we sent one. Otherwise the target may not be a WebSocket server (RFC 6455,
// 4.1).
func (a *roundTrip) accepts(h http.Header) bool {
	if a.key == "" {
		return true // the client checks its own key
	}
	sum := sha1.Sum([]byte(a.key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return h.Get("Sec-Websocket-Accept") == base64.StdEncoding.EncodeToString(sum[:])
}

// rewrite runs the user's hook on a deep copy, so that it cannot reach the
// client's request. A panic in it fails this request.
func (a *roundTrip) rewrite(out *http.Request, t *forward.Target) (err error) {
	out.Header = out.Header.Clone()
	out.URL.RawQuery = cleanQuery(out.URL.RawQuery)
	defer exchange.Contain("Rewrite", &err)
	a.f.Rewrite(&httputil.ProxyRequest{In: a.q, Out: out})
	if out.URL == nil || out.Header == nil {
		return errRewritten
	}
	return nil
}

var errRewritten = errors.New("Upstream.Rewrite set URL or Header to nil: keep both")

// cleanQuery drops what url.ParseQuery cannot parse, so that a hook and the
// target see the same parameters.
func cleanQuery(raw string) string {
	v, err := url.ParseQuery(raw)
	if err != nil {
		return v.Encode()
	}
	return raw
}
