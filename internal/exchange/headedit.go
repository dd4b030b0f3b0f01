package exchange

import (
	"net/http"

	"github.com/hostproxy/hostproxy/internal/header"
)

// A HeadEdit is what a Router changes in the heads of all final responses. It
// may be used concurrently.
type HeadEdit interface {
	// EditHead changes h. done is nil unless the edit has been applied already,
	// with that of the route: then it changes only what handlers around the
	// route have changed since, except the fields that done spares.
	EditHead(h http.Header, done *Spared)
}

// Spared are the fields on which the route has the last word.
type Spared struct {
	Names []string // of the fields
	Given []string // those of Names that every response of the route has
}

// Spares reports whether the route has the last word on the field of that name
// in h. If a field that the route always gives is missing, a handler around the
// route has replaced the response by one of its own.
func (s *Spared) Spares(h http.Header, name string) bool {
	if s == nil || !header.Matches(s.Names, name) {
		return false
	}
	if !header.Matches(s.Given, name) {
		return true
	}
	for k := range h {
		if header.SameVariable(k, name) {
			return true
		}
	}
	return false
}

// Edited notes that a response of x's has been edited, by the route and by
// x.Head. A handler around the route may still replace it by one of its own.
func (x *Exchange) Edited(spared *Spared) {
	if x.Head != nil {
		x.spare(spared)
	}
}

// spare stores spared in x, and in the exchange of each lender.
func (x *Exchange) spare(spared *Spared) {
	for x.edited.Store(spared); x.loan != nil; x.edited.Store(spared) {
		x = x.loan.x
	}
}

// nothing is what the proxy's own responses spare. Read-only.
var nothing Spared

// Own notes that the next response of x's is one of the proxy, possibly in
// place of one that was edited and whose fields are still there.
func (x *Exchange) Own() {
	if x.edited.Load() != nil {
		x.spare(&nothing)
	}
}

// edit edits the head that is about to be sent, if w is the writer nearest to
// the client. w.mu is held.
func (w *Watcher) edit() {
	if !w.wrote && !w.inner && w.x.Head != nil {
		w.x.Head.EditHead(w.Header(), w.x.edited.Load())
	}
}

// edits reports whether w has a head to edit.
func (w *Watcher) edits() bool { return !w.inner && w.x.Head != nil && !w.Wrote() }

// ServeWatched lets h serve q, noting status and body bytes in x.
func ServeWatched(h http.Handler, w http.ResponseWriter, q *http.Request, x *Exchange) {
	watcher := Watch(w, x)
	defer watcher.end()
	h.ServeHTTP(watcher, q)
	watcher.Conclude()
}

// Conclude edits the head of a response whose handler has returned without
// writing one: the server then does.
func (w *Watcher) Conclude() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.edit()
}

// flushes reports whether w, or what it wraps, can be flushed.
func flushes(w http.ResponseWriter) bool {
	for {
		switch inner := w.(type) {
		case interface{ FlushError() error }, http.Flusher:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = inner.Unwrap()
		default:
			return false
		}
	}
}
