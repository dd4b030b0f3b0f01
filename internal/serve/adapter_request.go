package serve

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
)

// A text is a copy of a head, shared by all strings of a request: a handler
// that keeps one string keeps the whole head.
type text struct {
	base uintptr // where the head was
	s    string
}

// take copies a head.
func (t *text) take(head []byte) {
	t.base, t.s = uintptr(unsafe.Pointer(unsafe.SliceData(head))), string(head)
}

// of returns b, which is a part of the head, as a string.
func (t *text) of(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	i := uintptr(unsafe.Pointer(unsafe.SliceData(b))) - t.base
	return t.s[i : i+uintptr(len(b))]
}

// method returns b as a string. Usual methods do not refer to the head.
func (t *text) method(b []byte) string {
	switch string(b) {
	case http.MethodGet:
		return http.MethodGet
	case http.MethodHead:
		return http.MethodHead
	case http.MethodPost:
		return http.MethodPost
	}
	return t.of(b)
}

// request returns r as an http.Request. It is stored in the response writer,
// because handlers that keep one of them mostly keep both.
func (a *adapter) request(ctx context.Context, r *h1.Request) (*http.Request, error) {
	q := http.Request{Method: a.texts.method(r.Method), RequestURI: a.texts.of(r.Target), Host: a.texts.of(r.Host),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: r.Minor, RemoteAddr: a.c.remote(), TLS: a.c.state, Body: http.NoBody,
		Close: r.Close || r.Minor == 0 && !r.KeepAlive}
	switch {
	case a.f.major() == 2:
		q.Proto, q.ProtoMajor, q.ProtoMinor = "HTTP/2.0", 2, 0
	case r.Minor == 0:
		q.Proto = "HTTP/1.0"
	}
	u := &a.w.url
	if err := parseTarget(u, q.RequestURI, r); err != nil {
		return nil, err
	}
	if q.URL = u; u.Host != "" {
		q.Host = u.Host
	}
	b := &a.w.body
	if n := a.f.body().length(); n != 0 {
		q.ContentLength, q.Body = n, b
	}
	if err := a.fillHeader(&q, r); err != nil {
		return nil, err
	}
	if r.Framing() == h1.ChunkedBody && q.ProtoMajor == 1 {
		q.TransferEncoding = []string{"chunked"}
	}
	if q.Trailer == nil && trails(&q, r) {
		q.Trailer = make(http.Header) // one for all copies of the request
	}
	b.w, b.trailer = a.w, q.Trailer
	a.w.q = *q.WithContext(ctx)
	return &a.w.q, nil
}

// parseTarget parses target into u.
func parseTarget(u *url.URL, target string, r *h1.Request) error {
	if r.Unusual&h1.UnusualTarget == 0 && plainPath(r.Path) {
		u.Path = target[:len(r.Path)]
		if len(r.Query) > 0 {
			u.RawQuery = target[len(r.Path)+1:]
			u.ForceQuery = u.RawQuery == ""
		}
		return nil
	}
	parsed, err := url.ParseRequestURI(target)
	if err != nil {
		return errTarget
	}
	*u = *parsed
	return nil
}

// plainPath reports whether p is the path of an origin-form target and needs no
// decoding.
func plainPath(p []byte) bool {
	for _, c := range p {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '/' <= c && c <= '9', strings.IndexByte("-_.~$&+,:;=@", c) >= 0:
		default:
			return false
		}
	}
	return len(p) > 0
}

// fillHeader makes q's Header from the fields, and its Trailer. The names as
// the client sent them share the memory of the values: handlers may keep
// either.
func (a *adapter) fillHeader(q *http.Request, r *h1.Request) error {
	h := make(http.Header, len(r.Fields))
	n := len(r.Fields)
	values := make([]string, 3*n)
	names := exchange.Names{Spelled: values[n : 2*n : 2*n], Keys: values[2*n:]}
	a.w.life.slot.Names = names
	for i := range r.Fields {
		f := &r.Fields[i]
		names.Spelled[i] = a.texts.of(f.Name)
		key, value := http.CanonicalHeaderKey(names.Spelled[i]), a.texts.of(f.Value)
		names.Keys[i] = key
		switch key {
		case "Host", "Transfer-Encoding":
			continue
		case "Expect", "Upgrade": // RFC 9110, 7.8 and 10.1.1
			if r.Minor == 0 {
				continue
			}
		case "Trailer":
			if trails(q, r) {
				if err := announce(q, value); err != nil {
					return err
				}
				continue
			}
		}
		if old, ok := h[key]; ok {
			h[key] = append(old, value)
			continue
		}
		values[i] = value
		h[key] = values[i : i+1 : i+1]
	}
	if r.Protocol != nil { // as net/http does
		h[":protocol"] = []string{a.texts.of(r.Protocol)}
	}
	q.Header = h
	return nil
}

// trails reports whether trailers can follow the body of q, which was made from
// r.
func trails(q *http.Request, r *h1.Request) bool {
	return r.Chunked || q.ProtoMajor == 2 && q.Body != http.NoBody
}

var errTrailer = &h1.Refusal{Status: http.StatusBadRequest, Reason: "invalid Trailer"}

// announce adds the names in a Trailer field to q's trailers.
func announce(q *http.Request, value string) error {
	for name := range strings.SplitSeq(value, ",") {
		name = http.CanonicalHeaderKey(strings.Trim(name, " \t"))
		switch name {
		case "":
			continue
		case "Transfer-Encoding", "Trailer", "Content-Length":
			return errTrailer
		}
		if q.Trailer == nil {
			q.Trailer = make(http.Header)
		}
		q.Trailer[name] = nil
	}
	return nil
}

// A requestBody is the Body of a request: a source as handlers see it, as long
// as they may use it.
type requestBody struct {
	w       *response
	trailer http.Header // gets the trailers at the end

	mu     sync.Mutex // held during a Read
	closed atomic.Bool
	ended  bool // trailer is filled; guarded by mu
	left   bool // reading has ended; guarded by the response's gate
}

// Read implements io.Reader. The first call sends 100 Continue if the client
// waits for it.
func (b *requestBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.w.a.Load()
	if a == nil || b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	a.ask()
	n, err := a.f.body().Read(p)
	switch err {
	case nil:
	case io.EOF:
		b.end(a)
	case http.ErrBodyReadAfterClose:
	case exchange.ErrClientGone:
		b.w.leave()
		err = io.ErrUnexpectedEOF
	default:
		if _, malformed := err.(*h1.Refusal); !malformed { // a deadline: the client is still there
			b.w.life.end()
		}
	}
	return n, err
}

// end hands the trailers over. b.mu is held.
func (b *requestBody) end(a *adapter) {
	if b.ended {
		return
	}
	b.ended = true
	s := a.f.body()
	for _, f := range s.trailers() {
		key := http.CanonicalHeaderKey(string(f.Name))
		b.trailer[key] = append(b.trailer[key], string(f.Value))
	}
	s.release()
	a.one.lookOut(b.w)
}

// lookOut starts to look out for the client of a request without a body. After
// a body, end does so: only then is there room for the next byte.
func (b *requestBody) lookOut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.w.a.Load(); a.f.body().length() == 0 {
		a.one.lookOut(b.w)
	}
}

// Interrupt ends a Read in progress, and all later ones. It is for package
// handler, which knows only a deadline to do that with behind a foreign server.
func (b *requestBody) Interrupt() { _ = b.Close() }

// Close implements io.Closer. A Read in progress returns.
func (b *requestBody) Close() error {
	b.closed.Store(true)
	if b.mu.TryLock() {
		b.mu.Unlock()
		return nil
	}
	b.w.gate.Lock()
	defer b.w.gate.Unlock()
	if a := b.w.a.Load(); a != nil && !b.left {
		a.f.body().interrupt()
	}
	return nil
}

// ask sends 100 Continue, if the client waits for it.
func (a *adapter) ask() {
	if !a.expects {
		return
	}
	a.asking.Lock()
	defer a.asking.Unlock()
	if a.asks {
		a.asked()
		_ = a.f.interim(http.StatusContinue, nil)
	}
}

// asked notes that the client has been sent 100 Continue. a.asking is held.
func (a *adapter) asked() {
	a.asks = false
	a.f.body().expect(false)
}

// stopAsking disables 100 Continue: the response has begun.
func (a *adapter) stopAsking() {
	if !a.expects {
		return
	}
	a.asking.Lock()
	defer a.asking.Unlock()
	a.asks = false
}

// shutBody ends the handler's reading of a body when its response begins, and
// reports whether the connection can be kept. The rest of a short body is read
// after the response. A handler may go on reading a long one, as with net/http.
// A goroutine of the handler may be reading at the same time.
func (a *adapter) shutBody() bool {
	b := &a.w.body
	if !b.mu.TryLock() {
		return true
	}
	defer b.mu.Unlock()
	s := a.f.body()
	if s.length() == 0 {
		return true
	}
	if s.stopped() {
		s.resume()
	}
	switch {
	case b.ended:
		return true
	case !s.short(): // the handler may read on
		return false
	}
	whole := s.settle(0)
	if whole {
		b.end(a)
	}
	b.closed.Store(true)
	return true
}

// closeBody ends all reading by the handler, and reads the rest of the body. It
// reports whether the body has been read to its end.
func (a *adapter) closeBody() bool {
	a.leaveBody()
	s := a.f.body()
	if !s.whole() && a.one != nil && a.one.keeps() {
		return s.settle(exchange.LingerTime)
	}
	return s.whole()
}

// leaveBody ends all reading of the body by the handler, if there can be any.
func (a *adapter) leaveBody() {
	b, s := &a.w.body, a.f.body()
	if s.length() == 0 && !a.one.looksOut() && !s.bounded() {
		return
	}
	b.closed.Store(true)
	if !b.mu.TryLock() {
		s.interrupt()
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	a.w.gate.Lock()
	b.left = true
	a.w.gate.Unlock()
	a.one.comeBack()
	s.resume()
}
