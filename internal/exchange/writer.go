package exchange

import (
	"bufio"
	"cmp"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"

	"github.com/hostproxy/hostproxy/internal/h1"
)

// Watch returns w noting status and body bytes in x.
func Watch(w http.ResponseWriter, x *Exchange) *Watcher {
	inner := x.Watched
	x.Watched, x.Shared = true, true
	return &Watcher{ResponseWriter: w, x: x, inner: inner, length: -1}
}

// ServeOwn lets h, a handler of the program's own, serve q. It notes in the
// record that the client has left before the end of the response, also when h
// panics for that.
func ServeOwn(h http.Handler, w http.ResponseWriter, q *http.Request, x *Exchange) {
	watcher := Watch(w, x)
	defer func() {
		if ClientLeft(q.Context()) && !watcher.complete(q.Method) && x.Err == nil {
			x.Fail(&Failure{Op: "copy", Side: SideClient, Status: cmp.Or(x.Status, StatusClientClosed), Err: ErrClientGone})
			x.Status = StatusClientClosed
		}
	}()
	h.ServeHTTP(watcher, q)
	watcher.Conclude()
}

// ReturnForm lets the server of q remove the files of the form that a handler
// has parsed from c, a copy of q. It is called when the handler has returned.
func ReturnForm(q, c *http.Request) {
	if c.MultipartForm != nil {
		q.MultipartForm = c.MultipartForm
	}
}

// complete reports whether the client got all that there is of the response to
// a request with that method. A tunnel is complete, since its client ends it by
// leaving.
func (w *Watcher) complete(method string) bool {
	bodiless := method == http.MethodHead || w.x.Status == http.StatusNoContent || w.x.Status == http.StatusNotModified
	return w.Wrote && (bodiless || method == http.MethodConnect || w.n == w.length)
}

// A Watcher is a ResponseWriter that notes in the record what the client got.
// The bytes are those of the first watcher of an exchange, which is the nearest
// to the client: handlers may change what the others are given.
type Watcher struct {
	http.ResponseWriter
	x      *Exchange
	Wrote  bool
	inner  bool  // there is one nearer to the client
	length int64 // of the body, as the head says; -1 if it does not
	n      int64 // of what was written
}

// WriteHeader notes the first final status.
func (w *Watcher) WriteHeader(status int) {
	if !w.Wrote && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.begin(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

// A Relayer is a ResponseWriter that takes the head of a target's response as
// it came, which costs less than filling a Header that no handler looks at.
type Relayer interface {
	// Relay is WriteHeader with these fields, which it copies. length is that
	// of the body, negative if it is unknown. Later the Header has the fields.
	// Relay reports false, and has done nothing, if the status is known
	// already, or if the Header has been asked for: it may have fields of its
	// own, or be read later.
	Relay(status int, fields []h1.Field, length int64) bool
}

// Relay implements Relayer, if the inner writer does.
func (w *Watcher) Relay(status int, fields []h1.Field, length int64) bool {
	inner, ok := w.ResponseWriter.(Relayer)
	if !ok || !inner.Relay(status, fields, length) {
		return false
	}
	w.Wrote, w.x.Status, w.length = true, status, length
	return true
}

// Write counts p.
func (w *Watcher) Write(p []byte) (int, error) {
	w.implicit()
	n, err := w.ResponseWriter.Write(p)
	w.count(int64(n))
	return n, err
}

// WriteString is for handlers that assert io.StringWriter.
func (w *Watcher) WriteString(s string) (int, error) {
	w.implicit()
	n, err := io.WriteString(w.ResponseWriter, s)
	w.count(int64(n))
	return n, err
}

// ReadFrom keeps the inner writer's fast path.
func (w *Watcher) ReadFrom(src io.Reader) (int64, error) {
	w.implicit()
	n, err := io.Copy(w.ResponseWriter, src)
	w.count(n)
	return n, err
}

func (w *Watcher) count(n int64) {
	w.n += n
	if !w.inner {
		w.x.ResponseBytes += n
	}
}

func (w *Watcher) implicit() {
	if !w.Wrote {
		w.begin(http.StatusOK)
	}
}

// begin notes the head of the final response.
func (w *Watcher) begin(status int) {
	w.edit()
	w.Wrote, w.x.Status = true, status
	if n, err := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64); err == nil {
		w.length = n
	}
}

// Flush is for handlers that assert http.Flusher.
func (w *Watcher) Flush() { _ = w.FlushError() }

// FlushError is for http.ResponseController. The head goes out with it, if it
// has not.
func (w *Watcher) FlushError() error {
	if w.edits() && flushes(w.ResponseWriter) {
		w.implicit() // the head must be edited before it goes out
	}
	err := http.NewResponseController(w.ResponseWriter).Flush()
	if !errors.Is(err, http.ErrNotSupported) {
		w.implicit()
	}
	return err
}

// Hijack is for handlers that assert http.Hijacker.
func (w *Watcher) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// CloseNotify is for handlers that assert http.CloseNotifier. The channel stays
// empty where the server has none.
func (w *Watcher) CloseNotify() <-chan bool {
	for inner := w.ResponseWriter; ; {
		switch w := inner.(type) {
		case interface{ CloseNotify() <-chan bool }: // an http.CloseNotifier, which is deprecated
			return w.CloseNotify()
		case interface{ Unwrap() http.ResponseWriter }:
			inner = w.Unwrap()
		default:
			return make(chan bool)
		}
	}
}

// Unwrap lets http.ResponseController find the rest.
func (w *Watcher) Unwrap() http.ResponseWriter { return w.ResponseWriter }
