// Package compress compresses responses with zstd or gzip. It uses gzhttp of
// klauspost/compress. It is middleware around one route, or around all routes
// as hostproxy.Server.Handler:
//
//	h, err := compress.New(hostproxy.To("localhost:4006"), compress.Options{})
//	r.Handle("blog.example.com", h)
package compress

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/klauspost/compress/gzhttp"
)

// Options are the settings of New. The zero value has defaults.
type Options struct {
	// MinSize is the smallest size in bytes that is compressed. A response of
	// unknown length is also compressed if it is flushed before it has reached
	// MinSize. Zero means 1024; a negative value is an error.
	MinSize int

	// Compressible reports whether responses with a Content-Type are worth
	// compressing. Event streams and gRPC are never compressed. Nil means text,
	// JSON, JavaScript, XML, SVG, WebAssembly, and uncompressed fonts and
	// images. It may be called concurrently.
	Compressible func(contentType string) bool

	// GzipOnly disables zstd. Otherwise zstd is preferred to gzip.
	GzipOnly bool

	// Jitter adds up to this many bytes to the size of each response. How many
	// depends on the response's contents, so that its size reveals less about
	// them: see BREACH in the README. Responses are then held back until 64
	// KiB, their end or a flush. Zero adds nothing; a negative value is an
	// error.
	Jitter int
}

// A Handler compresses the responses of another handler. Create it with New.
type Handler struct {
	next         http.Handler
	compressible func(string) bool
	wrapped      http.Handler
}

// New returns a handler that serves by next and compresses the responses if the
// client accepts that. These are never changed:
//
//   - event streams, gRPC, WebSockets and other upgraded connections
//   - responses below Options.MinSize, and those that are not
//     Options.Compressible
//   - responses with a Content-Encoding, a part of a resource (206), or
//     "Cache-Control: no-transform" in the request or the response
//
// A compressed response has Vary: Accept-Encoding and a weak ETag, but no
// digests and no Accept-Ranges. New returns all errors in o, joined.
func New(next http.Handler, o Options) (*Handler, error) {
	var errs []error
	if next == nil {
		errs = append(errs, errors.New("compress: next is nil: want a handler"))
	}
	if o.MinSize < 0 {
		errs = append(errs, fmt.Errorf("compress: Options.MinSize is %d: want 0 for the default, or a size", o.MinSize))
	}
	if o.Jitter < 0 || o.Jitter > 32<<10 {
		errs = append(errs, fmt.Errorf("compress: Options.Jitter is %d: want 0 for none, or at most 32768 bytes", o.Jitter))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	h := &Handler{next: next, compressible: o.Compressible}
	if h.compressible == nil {
		h.compressible = Compressible
	}
	wrap, err := gzhttp.NewWrapper(gzhttp.MinSize(cmp.Or(o.MinSize, gzhttp.DefaultMinSize)), gzhttp.EnableZstd(!o.GzipOnly),
		gzhttp.ContentTypeFilter(h.compressible), gzhttp.RandomJitter(o.Jitter, 0, false))
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	h.wrapped = wrap(http.HandlerFunc(h.serve))
	return h, nil
}

// ServeHTTP serves q by the handler given to New.
func (h *Handler) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if q.Method == http.MethodConnect || len(q.Header["Upgrade"]) > 0 || isGRPC(q.Header) || noTransform(q.Header) {
		h.next.ServeHTTP(w, q)
		return
	}
	h.wrapped.ServeHTTP(&outer{ResponseWriter: w}, q)
}

// Unwrap returns the handler given to New. hostproxy.Router finds targets
// behind it.
func (h *Handler) Unwrap() http.Handler { return h.next }

// serve serves q within gzhttp. w is gzhttp's writer.
func (h *Handler) serve(w http.ResponseWriter, q *http.Request) {
	h.next.ServeHTTP(&inner{ResponseWriter: w, to: w, h: h, q: q}, q)
}

// Compressible is the default of Options.Compressible.
func Compressible(contentType string) bool {
	t, _, _ := strings.Cut(contentType, ";")
	switch t = strings.ToLower(strings.TrimSpace(t)); t {
	case "application/json", "application/javascript", "application/xml", "application/wasm", "application/x-ndjson", "application/x-javascript",
		"application/manifest+json", "application/graphql", "application/vnd.ms-fontobject", "font/ttf", "font/otf", "image/bmp", "image/x-icon",
		"image/vnd.microsoft.icon":
		return true
	}
	return strings.HasPrefix(t, "text/") || strings.HasSuffix(t, "+json") || strings.HasSuffix(t, "+xml") || strings.HasSuffix(t, "+text")
}

// isGRPC reports whether a message with these headers is gRPC.
func isGRPC(h http.Header) bool { return hasType(h, "application/grpc") }

// hasType reports whether the Content-Type begins with prefix.
func hasType(h http.Header, prefix string) bool {
	t := h.Get("Content-Type")
	return len(t) >= len(prefix) && strings.EqualFold(t[:len(prefix)], prefix)
}

// noTransform reports whether Cache-Control forbids that anything between
// client and origin changes the content (RFC 9111, 5.2.1.6 and 5.2.2.6).
func noTransform(h http.Header) bool { return lists(h["Cache-Control"], "no-transform") }

// lists reports whether a word is in comma-separated lists.
func lists(values []string, word string) bool {
	for _, v := range values {
		for w := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(w), word) {
				return true
			}
		}
	}
	return false
}
