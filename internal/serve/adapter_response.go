package serve

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
)

// A response is the ResponseWriter of one request, together with everything
// else that a handler may keep of it. Once the request has been served it does
// nothing any more.
//
// The adapter that serves the request comes from a pool, and serves another
// client's request next. So it is used only under mu, or, where waiting for a
// write is not acceptable, under gate.
type response struct {
	a    atomic.Pointer[adapter] // nil when the handler has returned; see shut
	mu   sync.Mutex              // held while a is used
	gate sync.Mutex              // held for use that does not block; guards the creation of header
	life lifetime                // the request's context
	left atomic.Bool             // the client left, which ended the context
	q    http.Request
	url  url.URL
	body requestBody

	header http.Header // the handler's; nil until Header is called

	since   time.Time // when the handler was called
	goodbye goodbye   // used by the sweeper
}

// use returns the adapter, or nil if the request has been served. The caller
// unlocks w.mu.
func (w *response) use() *adapter {
	w.mu.Lock()
	return w.a.Load()
}

// serving is use for methods that panic once the request has been served.
func (w *response) serving(method string) *adapter {
	a := w.use()
	if a == nil {
		w.mu.Unlock()
		panic("net/http: " + method + " called after ServeHTTP finished")
	}
	return a
}

// shut ends all use of the adapter by the handler, and by goroutines that it
// has left running.
func (w *response) shut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gate.Lock()
	defer w.gate.Unlock()
	w.a.Store(nil)
}

// Header implements http.ResponseWriter.
func (w *response) Header() http.Header {
	w.gate.Lock()
	defer w.gate.Unlock()
	if w.header == nil {
		w.header = make(http.Header)
		if a := w.a.Load(); a != nil && a.relayed {
			a.addTo(w.header)
		}
	}
	return w.header
}

// made returns the handler's header, or nil if Header was not called.
func (w *response) made() http.Header {
	w.gate.Lock()
	defer w.gate.Unlock()
	return w.header
}

// WriteHeader implements http.ResponseWriter. An interim response is sent
// immediately.
func (w *response) WriteHeader(status int) {
	a := w.use()
	defer w.mu.Unlock()
	if a != nil {
		a.setStatus(status)
	}
}

func (a *adapter) setStatus(status int) {
	switch {
	case a.hijacked:
		a.logf("http: response.WriteHeader on hijacked connection from %s", caller())
		return
	case a.wrote:
		a.logf("http: superfluous response.WriteHeader call from %s", caller())
		return
	case status < 100 || status > 999:
		panic(fmt.Sprintf("invalid WriteHeader code %v", status))
	case status == http.StatusSwitchingProtocols && a.f.major() == 2: // RFC 9113, 8.6
		a.logf("http: response.WriteHeader(101) over HTTP/2 from %s", caller())
		return
	case status < 200 && status != http.StatusSwitchingProtocols:
		a.interim(status)
		return
	}
	a.stopAsking()
	a.wrote = true
	a.out.status = status
	a.note()
	a.noteLength()
}

// interim sends an interim response with the handler's fields.
func (a *adapter) interim(status int) {
	a.asking.Lock()
	defer a.asking.Unlock()
	if status == http.StatusContinue {
		a.asked()
	}
	a.note()
	for _, v := range a.out.connection {
		a.fields = appendField(a.fields, "Connection", v)
	}
	a.check(a.f.interim(status, a.fields))
	a.out, a.given = head{}, given{trailers: a.given.trailers[:0]}
}

// note takes a copy of the handler's header as it is now. Fields that frame the
// response or describe the connection are recognised however their key is
// spelled: with two of a kind, clients would disagree on where the response
// ends.
func (a *adapter) note() {
	a.keys, a.fields = a.keys[:0], a.fields[:0]
	header := a.w.made()
	for k := range header {
		a.keys = append(a.keys, k)
	}
	slices.Sort(a.keys)
	g, ordered := &a.given, a.order.Keys != nil || a.order.Last != nil
	for _, k := range a.keys {
		values := header[k]
		switch http.CanonicalHeaderKey(k) {
		case "Connection":
			a.out.connection = append(a.out.connection, values...)
			continue
		case "Content-Length":
			g.length = cmp.Or(g.length, first(values))
			continue
		case "Transfer-Encoding":
			g.coding = cmp.Or(g.coding, first(values))
			continue
		case "Content-Type":
			g.kind = true
		case "Content-Encoding":
			g.encoded = first(values) != ""
		case "Date":
			g.date = true
		case "Trailer":
			a.declare(values)
		default:
			if strings.HasPrefix(k, http.TrailerPrefix) {
				g.trails = true
				continue
			}
		}
		if !ordered {
			for _, v := range values {
				a.fields = appendField(a.fields, k, v)
			}
		}
	}
	if ordered {
		a.order.Each(header, func(key, name, value string) {
			if !framed(key) {
				a.fields = appendField(a.fields, name, value)
			}
		})
		a.order = exchange.Order{}
	}
}

// framed reports whether a key of a handler's header is not sent as a field.
func framed(key string) bool {
	switch http.CanonicalHeaderKey(key) {
	case "Connection", "Content-Length", "Transfer-Encoding":
		return true
	}
	return strings.HasPrefix(key, http.TrailerPrefix)
}

// Ordered sets the order of the fields in the next head, interim or final. See
// exchange.Arrange.
func (w *response) Ordered(o exchange.Order) {
	if a := w.use(); a != nil {
		a.order = o
	}
	w.mu.Unlock()
}

// first returns the first value, as Header.Get does.
func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// appendField appends a field of a handler's header, unless its name is not a
// token. Control characters in its value become blanks.
func appendField(dst []h1.Field, name, value string) []h1.Field {
	if !h1.ValidToken(name) {
		return dst
	}
	v := bytesOf(strings.Trim(value, " \t\r\n"))
	if !h1.ValidValue(v) {
		v = bytes.Clone(v)
		for i := range v {
			if !h1.ValidValue(v[i : i+1]) {
				v[i] = ' '
			}
		}
	}
	return append(dst, h1.Field{Name: bytesOf(name), Value: v})
}

// noteLength notes the Content-Length that the handler has set.
func (a *adapter) noteLength() {
	a.out.length = unknownLength
	v := a.given.length
	if v == "" {
		return
	}
	n, err := strconv.ParseInt(v, 10, 64)
	switch {
	case err != nil || n < 0:
		a.logf("http: invalid Content-Length of %q", v)
		a.w.made().Del("Content-Length")
	case a.given.coding != "" && a.given.coding != "identity":
		a.logf("http: WriteHeader called with both Transfer-Encoding of %q and a Content-Length of %d", a.given.coding, n)
	default:
		a.out.length = n
	}
}

// writeHead gives the head to the front. first is the beginning of the body, or
// all of it if the handler is done.
func (a *adapter) writeHead(first []byte) error {
	a.sent = true
	h, g := &a.out, &a.given
	coded := g.coding != ""
	if a.done && (!g.trails || a.f.major() == 2) && !coded && !g.unsized && hasBody(h.status) && h.length < 0 && (!a.headOnly || len(first) > 0) {
		h.length = int64(len(first))
		a.written = h.length
	}
	h.unframed, h.trails = g.coding == "identity", g.trails || a.mayTrail()
	if !hasBody(h.status) && h.status != http.StatusNotModified {
		h.length = unknownLength
	}
	body := a.f.body()
	h.last = body.expected() && body.pending() || body.length() != 0 && !a.duplex && a.one != nil && a.one.reuses(h) && !a.shutBody()
	body.answer()
	h.undated = g.date
	if !g.kind && !g.encoded && !coded && len(first) > 0 && hasBody(h.status) {
		a.fields = appendField(a.fields, "Content-Type", http.DetectContentType(first))
	}
	h.fields = a.fields
	return a.check(a.f.head(h))
}

// check ends the request's context if err says that the client is gone.
func (a *adapter) check(err error) error {
	if err != nil {
		a.w.leave()
	}
	return err
}

// Write implements http.ResponseWriter.
func (w *response) Write(p []byte) (int, error) {
	a := w.use()
	defer w.mu.Unlock()
	switch {
	case a == nil:
		return 0, errServed
	case a.hijacked:
		if len(p) > 0 {
			a.logf("http: response.Write on hijacked connection from %s", caller())
		}
		return 0, http.ErrHijacked
	case !a.wrote:
		a.setStatus(http.StatusOK)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if !hasBody(a.out.status) {
		return 0, http.ErrBodyNotAllowed
	}
	a.written += int64(len(p))
	if a.out.length >= 0 && a.written > a.out.length {
		return 0, http.ErrContentLength
	}
	return a.put(p)
}

// WriteString implements io.StringWriter.
func (w *response) WriteString(s string) (int, error) {
	return w.Write(unsafe.Slice(unsafe.StringData(s), len(s))) // not changed, not kept
}

// put gives p to the front. Small pieces gather in buf first.
func (a *adapter) put(p []byte) (total int, err error) {
	if a.sent && a.n == 0 && a.out.length >= 0 { // nothing to gather
		return a.emit(p)
	}
	for len(p) > len(a.buf)-a.n {
		n := 0
		if a.n == 0 {
			n, err = a.emit(p)
		} else {
			n = copy(a.buf[a.n:], p)
			a.n = 0
			if _, err = a.emit(a.buf[:]); err != nil {
				n = 0
			}
		}
		if total += n; err != nil {
			return total, err
		}
		p = p[n:]
	}
	a.n += copy(a.buf[a.n:], p)
	return total + len(p), nil
}

// emit gives the next part of the body to the front, after the head.
func (a *adapter) emit(p []byte) (n int, err error) {
	if !a.sent {
		if err := a.writeHead(p); err != nil {
			return 0, err
		}
	}
	if len(p) == 0 || a.headOnly {
		return len(p), nil
	}
	n, err = a.f.data(p)
	return n, a.check(err)
}

// Flush implements http.Flusher.
func (w *response) Flush() { _ = w.FlushError() }

// Unsized lets the response have no length if the handler gives none.
func (w *response) Unsized() {
	if a := w.use(); a != nil {
		a.given.unsized = true
	}
	w.mu.Unlock()
}

// FlushError is Flush for http.ResponseController.
func (w *response) FlushError() error {
	a := w.use()
	defer w.mu.Unlock()
	if a == nil {
		return errServed
	}
	return a.flush()
}

func (a *adapter) flush() error {
	if a.hijacked {
		return http.ErrHijacked
	}
	if !a.wrote {
		a.setStatus(http.StatusOK)
	}
	n := a.n
	a.n = 0
	if _, err := a.emit(a.buf[:n]); err != nil {
		return err
	}
	return a.check(a.f.flush())
}

// ReadFrom implements io.ReaderFrom. A file goes out by sendfile where that is
// possible.
func (w *response) ReadFrom(src io.Reader) (total int64, err error) {
	buf := exchange.Buffers.Get().(*[32 << 10]byte)
	defer exchange.Buffers.Put(buf)
	only := struct{ io.Writer }{w}
	if w.sniffs() { // a source that fails immediately can still be answered by an error
		const sniffed = 512
		total, err = io.CopyBuffer(only, io.LimitReader(src, sniffed), buf[:])
		if err != nil || total < sniffed {
			return total, err
		}
	}
	if err := w.FlushError(); err != nil {
		return total, err
	}
	n, err := w.sendFile(src)
	if total += n; err != nil {
		return total, err
	}
	n, err = io.CopyBuffer(only, src, buf[:]) // not a file, or longer than the Content-Length
	return total + n, err
}

// sniffs reports whether the head has not been sent yet.
func (w *response) sniffs() bool {
	a := w.use()
	defer w.mu.Unlock()
	return a != nil && !a.hijacked && !a.sent
}

// sendFile lets the front send src by a short cut, if there is one, up to the
// Content-Length that the handler has set.
func (w *response) sendFile(src io.Reader) (n int64, err error) {
	a := w.use()
	defer w.mu.Unlock()
	if a == nil || a.one == nil || a.hijacked || a.headOnly || !hasBody(a.out.status) {
		return 0, nil
	}
	some := &io.LimitedReader{R: src, N: math.MaxInt64}
	limited, ok := src.(*io.LimitedReader)
	if ok {
		*some = *limited
	}
	if a.out.length >= 0 {
		some.N = min(some.N, max(a.out.length-a.written, 0))
	}
	n, err = a.one.sendFile(some)
	if a.written += n; ok {
		limited.N -= n
	}
	return n, a.check(err)
}

// SetReadDeadline is for http.ResponseController.
func (w *response) SetReadDeadline(t time.Time) error {
	w.gate.Lock()
	defer w.gate.Unlock()
	if a := w.a.Load(); a != nil {
		return a.f.body().readBy(t)
	}
	return errServed
}

// SetWriteDeadline is for http.ResponseController.
func (w *response) SetWriteDeadline(t time.Time) error {
	w.gate.Lock()
	defer w.gate.Unlock()
	if a := w.a.Load(); a != nil {
		return a.f.writeBy(t)
	}
	return errServed
}

// EnableFullDuplex is for http.ResponseController.
func (w *response) EnableFullDuplex() error {
	if a := w.use(); a != nil {
		a.duplex = true
	}
	w.mu.Unlock()
	return nil
}

// A hijackable is a response of HTTP/1.x, whose handler can take over the
// connection.
type hijackable struct{ response }

// Hijack implements http.Hijacker.
func (w *hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	a := w.serving("Hijack")
	defer w.mu.Unlock()
	if a.hijacked {
		return nil, nil, http.ErrHijacked
	}
	a.stopAsking()
	if a.wrote {
		_ = a.flush()
	}
	a.f.handle(nil)
	a.leaveBody()
	conn, buf := a.one.hijack()
	a.hijacked = true // after a panic in hijack, the connection is still ours
	return conn, buf, nil
}

// CloseNotify implements http.CloseNotifier.
func (w *response) CloseNotify() <-chan bool {
	w.serving("CloseNotify")
	w.mu.Unlock()
	left := make(chan bool, 1)
	context.AfterFunc(&w.life, func() {
		if w.left.Load() {
			left <- true
		}
	})
	return left
}

// errServed is the error of writes after the request has been served.
var errServed = fmt.Errorf("the request has been served: %w", http.ErrHandlerTimeout)
