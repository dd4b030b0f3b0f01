package exchange

import (
	"bufio"
	"cmp"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"

	"github.com/hostproxy/hostproxy/internal/h1"
)

// Watch returns a ResponseWriter that notes the status and body bytes of w in
// x.
func Watch(w http.ResponseWriter, x *Exchange) *Watcher {
	inner := x.Watched
	x.Watched, x.Shared = true, true
	return &Watcher{ResponseWriter: w, x: x, inner: inner, length: -1}
}

// ServeOwn lets h, a handler of the program, serve q, whose context is the loan
// of an exchange. It ends the loan. If the client leaves before the end of the
// response, it notes that in the record, even if h panics because of that.
func ServeOwn(h http.Handler, w http.ResponseWriter, q *http.Request, l *Loan) {
	x := l.x
	watcher := Watch(w, x)
	defer func() {
		watcher.end()
		l.End()
		if ClientLeft(q.Context()) && !watcher.complete(q.Method) && x.Err == nil {
			x.Fail(&Failure{Op: "copy", Side: SideClient, Status: cmp.Or(x.Status, StatusClientClosed), Err: ErrClientGone})
			x.Status = StatusClientClosed
		}
	}()
	h.ServeHTTP(watcher, q)
	watcher.Conclude()
}

// ReturnForm lets the server of q remove the files of a form that a handler has
// parsed from c, a copy of q. It is called after the handler has returned.
func ReturnForm(q, c *http.Request) {
	if c.MultipartForm != nil {
		q.MultipartForm = c.MultipartForm
	}
}

// complete reports whether the client got the whole response to a request with
// that method. A tunnel is always complete, since its client ends it by
// leaving.
func (w *Watcher) complete(method string) bool {
	bodiless := method == http.MethodHead || w.x.Status == http.StatusNoContent || w.x.Status == http.StatusNotModified
	tunnel := method == http.MethodConnect || w.x.Status == http.StatusSwitchingProtocols
	return w.wrote && (bodiless || tunnel || w.n == w.length)
}

// A Watcher is a ResponseWriter that notes in the record what the client got.
// Only the first watcher of an exchange counts bytes. It is the nearest to the
// client: handlers may change what the others get. A handler that writes after
// it has returned changes nothing in the record any more: see end.
type Watcher struct {
	http.ResponseWriter
	x     *Exchange
	inner bool // another watcher is nearer to the client

	mu     sync.Mutex // guards the fields below, and what they stand for in x
	over   bool       // nothing is noted any more
	wrote  bool
	length int64 // Content-Length in the head; -1 if there is none
	n      int64 // number of bytes written
}

// end makes w note nothing any more. From then on its fields do not change.
func (w *Watcher) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
}

// Wrote reports whether the response has begun.
func (w *Watcher) Wrote() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wrote
}

// note notes n in the exchange of w.
func (w *Watcher) note(n notes) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	if n.fail != nil {
		w.x.Fail(n.fail)
	}
	if n.status != 0 {
		w.x.Status, w.x.Mapped = n.status, true
	}
}

// WriteHeader notes the first final status.
func (w *Watcher) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.begin(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

// A Relayer is a ResponseWriter that takes the head of a target's response
// directly. That is cheaper than filling a Header that no handler reads.
type Relayer interface {
	// Relay is WriteHeader with these fields, which it copies. length is that
	// of the body, negative if it is unknown. A later call of Header returns
	// the fields. Relay does nothing and returns false if the status is already
	// known, or if Header was called: the header may have fields of its own, or
	// be read later.
	Relay(status int, fields []h1.Field, length int64) bool
}

// Relay implements Relayer, if the inner writer does and w need not edit the
// head, such as that of another Router's target.
func (w *Watcher) Relay(status int, fields []h1.Field, length int64) bool {
	inner, ok := w.ResponseWriter.(Relayer)
	if !ok || w.edits() && w.x.edited.Load() == nil || !inner.Relay(status, fields, length) {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.wrote, w.x.Status, w.length = true, status, length
	}
	return true
}

// Write counts p.
func (w *Watcher) Write(p []byte) (int, error) {
	w.begin(http.StatusOK)
	n, err := w.ResponseWriter.Write(p)
	w.count(int64(n))
	return n, err
}

// WriteString is for handlers that assert io.StringWriter.
func (w *Watcher) WriteString(s string) (int, error) {
	w.begin(http.StatusOK)
	n, err := io.WriteString(w.ResponseWriter, s)
	w.count(int64(n))
	return n, err
}

// ReadFrom keeps the inner writer's fast path.
func (w *Watcher) ReadFrom(src io.Reader) (int64, error) {
	w.begin(http.StatusOK)
	n, err := io.Copy(w.ResponseWriter, src)
	w.count(n)
	return n, err
}

func (w *Watcher) count(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	w.n += n
	if !w.inner {
		w.x.ResponseBytes += n
	}
}

// begin notes the head of the final response, unless it has begun.
func (w *Watcher) begin(status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wrote || w.over {
		return
	}
	w.edit()
	w.wrote, w.x.Status = true, status
	w.x.Coded = w.Header().Get("Grpc-Status") != ""
	if n, err := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64); err == nil {
		w.length = n
	}
}

// Flush is for handlers that assert http.Flusher.
func (w *Watcher) Flush() { _ = w.FlushError() }

// FlushError is for http.ResponseController. It also sends the head if that has
// not been sent.
func (w *Watcher) FlushError() error {
	if w.edits() && flushes(w.ResponseWriter) {
		w.begin(http.StatusOK) // the head must be edited before it goes out
	}
	err := http.NewResponseController(w.ResponseWriter).Flush()
	if !errors.Is(err, http.ErrNotSupported) {
		w.begin(http.StatusOK)
	}
	return err
}

// Hijack is for handlers that assert http.Hijacker. A connection that a handler
// takes before it responds is noted as upgraded.
func (w *Watcher) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && !w.wrote && !w.over {
		w.wrote, w.x.Status = true, http.StatusSwitchingProtocols
	}
	return c, rw, err
}

// CloseNotify is for handlers that assert http.CloseNotifier. The channel stays
// empty if the server does not support it.
func (w *Watcher) CloseNotify() <-chan bool {
	for inner := w.ResponseWriter; ; {
		switch w := inner.(type) {
		case interface{ CloseNotify() <-chan bool }: // http.CloseNotifier is deprecated
			return w.CloseNotify()
		case interface{ Unwrap() http.ResponseWriter }:
			inner = w.Unwrap()
		default:
			return make(chan bool)
		}
	}
}

// Unwrap lets http.ResponseController find other methods.
func (w *Watcher) Unwrap() http.ResponseWriter { return w.ResponseWriter }
