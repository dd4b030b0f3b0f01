package compress

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// An inner is the writer that the handler gets. It decides by the head of the
// response whether gzhttp may compress it.
type inner struct {
	http.ResponseWriter                     // gzhttp's writer
	to                  http.ResponseWriter // gzhttp's writer, or the one below gzhttp
	h                   *Handler
	q                   *http.Request
	wrote               bool
}

// Unwrap lets http.ResponseController find what gzhttp and the server support.
func (w *inner) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *inner) WriteHeader(status int) {
	if w.wrote {
		return
	}
	if status < 200 && status != http.StatusSwitchingProtocols {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.wrote = true
	h := w.Header()
	onlyOnce(h)
	if w.stays(status, h) {
		w.to = w.outer().ResponseWriter
	} else if !lists(h["Vary"], "Accept-Encoding") && !lists(h["Vary"], "*") {
		// the handler has replaced the Vary that gzhttp set
		h.Add("Vary", "Accept-Encoding")
	}
	if status == http.StatusNotModified {
		weakenIfAsked(h, w.q.Header)
	}
	w.outer().head = h.Clone()
	w.to.WriteHeader(status)
}

func (w *inner) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.to.Write(p)
}

// Flush implements http.Flusher.
func (w *inner) Flush() { _ = w.FlushError() }

// FlushError flushes everything written so far. The head of a response that may
// be compressed waits for the first byte of the body.
func (w *inner) FlushError() error {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.to).Flush()
}

// stays reports whether a response with this status and header is never
// compressed. gzhttp itself checks lengths and the type.
func (w *inner) stays(status int, h http.Header) bool {
	switch {
	case status < 200, status == http.StatusNoContent, status == http.StatusPartialContent, status == http.StatusNotModified:
		return true
	case h.Get("Content-Encoding") != "", h.Get("Content-Range") != "":
		return true
	}
	t := h.Get("Content-Type")
	return isGRPC(h) || hasType(h, "text/event-stream") || noTransform(h) || t != "" && !w.h.compressible(t)
}

// outer returns the writer below gzhttp's.
func (w *inner) outer() *outer {
	for at := w.ResponseWriter; ; {
		switch x := at.(type) {
		case *outer:
			return x
		case interface{ Unwrap() http.ResponseWriter }:
			at = x.Unwrap()
		default:
			return &outer{ResponseWriter: w.ResponseWriter} // never: gzhttp's writers unwrap
		}
	}
}

// An outer is the writer below gzhttp. It sees whether the response is
// compressed.
type outer struct {
	http.ResponseWriter
	head http.Header // the header at the handler's WriteHeader; gzhttp calls WriteHeader later
}

// Unwrap lets http.ResponseController find what the server supports.
func (w *outer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *outer) WriteHeader(status int) {
	if w.head != nil {
		defer w.putBack(w.late())
	}
	// gzhttp has set it: if the handler does, inner bypasses this writer
	if h := w.Header(); status >= 200 && h.Get("Content-Encoding") != "" {
		weaken(h)
		// these were computed from the uncompressed body
		for _, name := range []string{"Content-Digest", "Repr-Digest", "Digest", "Content-Md5"} {
			h.Del(name)
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// late removes from the header what the handler changed after WriteHeader, such
// as trailers, and returns it.
func (w *outer) late() http.Header {
	late, h := http.Header{}, w.Header()
	for name, values := range h {
		if was, ok := w.head[name]; !slices.Equal(values, was) && !slices.Contains(ofGzhttp, name) {
			late[name] = values
			if h[name] = was; !ok {
				delete(h, name)
			}
		}
	}
	return late
}

func (w *outer) putBack(late http.Header) { maps.Copy(w.Header(), late) }

// ofGzhttp are the headers that gzhttp changes after WriteHeader. Read-only.
var ofGzhttp = []string{"Accept-Ranges", "Content-Encoding", "Content-Length", "Content-Type", "Vary"}

// weaken makes the ETag weak: the bytes differ, but the meaning is the same
// (RFC 9110, 8.8.1).
func weaken(h http.Header) {
	if e := h.Get("Etag"); strings.HasPrefix(e, `"`) {
		h.Set("Etag", "W/"+e)
	}
}

// weakenIfAsked gives a 304 the weak ETag that the client asked about.
// Otherwise a cache does not find its stored response (RFC 9111, 4.3.4).
func weakenIfAsked(h, asked http.Header) {
	e := h.Get("Etag")
	// a tag may contain a comma
	if strings.HasPrefix(e, `"`) && strings.Contains(strings.Join(asked["If-None-Match"], ","), "W/"+e) {
		h.Set("Etag", "W/"+e)
	}
}

// onlyOnce removes the value that gzhttp added to Vary if the handler has added
// the same one.
func onlyOnce(h http.Header) {
	if v := h["Vary"]; len(v) > 1 && v[0] == "Accept-Encoding" && lists(v[1:], "Accept-Encoding") {
		h["Vary"] = v[1:]
	}
}
