package exchange

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// An Answer is a response whose body is written by a handler of the program.
// The body replaces that of a target, or the line that explains why there is
// none.
type Answer struct {
	Status  int
	Header  http.Header // stays, unless Page changes it
	Page    http.Handler
	Spared  *Spared  // of a target's, which is edited already; see Exchange.Edited
	Failure *Failure // why no target has responded; nil if one has
}

// TakesPage reports whether a client that sent a request with that Content-Type
// can handle a page. gRPC clients cannot: they expect gRPC's own responses.
func TakesPage(contentType string) bool {
	const grpc = "application/grpc"
	return len(contentType) < len(grpc) || !strings.EqualFold(contentType[:len(grpc)], grpc)
}

// DescribesBody reports whether a response's field describes its body, so that
// it is wrong for another body.
func DescribesBody[T header.Text](name T) bool {
	const content = "content-"
	if len(name) > len(content) && header.EqualFold(name[:len(content)], content) {
		return true
	}
	for _, k := range [...]string{"Etag", "Last-Modified", "Accept-Ranges", "Digest", "Repr-Digest", "Trailer"} {
		if header.EqualFold(name, k) {
			return true
		}
	}
	return false
}

// AddFields adds fields of the fast lane to the answer's header.
func (a *Answer) AddFields(fields []h1.Field) {
	for i := range fields {
		a.Header.Add(string(fields[i].Name), string(fields[i].Value))
	}
}

// Serve answers q. The page gets q without its body and without conditions,
// which refer to the body that the page replaces. If the page panics, Serve
// responds with 500, or cuts off a response that has begun, as net/http
// requires.
func (a *Answer) Serve(out http.ResponseWriter, q *http.Request, x *Exchange) {
	w := Watch(out, x)
	x.Paged = true
	if x.About != nil {
		x.About.Paged = true // its client gets the page
	}
	if a.Failure != nil {
		x.Refused = true
		if a.Failure.Err != nil {
			x.Fail(a.Failure)
		}
	}
	h := w.Header()
	for k, v := range a.Header {
		h[k] = v
	}
	if a.Spared != nil {
		x.Edited(a.Spared)
	}
	p := &pageWriter{w: w, status: a.Status, head: q.Method == http.MethodHead}
	err := x.ServeHook("Pages", q.Context(), func(l *Loan) { a.Page.ServeHTTP(p, pageRequest(q, l)) })
	if err == nil {
		p.end()
		return
	}
	if a.Failure != nil && a.Failure.Err != nil {
		err = fmt.Errorf("%w, called for: %w", err, a.Failure.Err)
	}
	x.Err = &Failure{Op: "read", Target: x.Target, Side: SideProxy, Err: err}
	if w.Wrote() {
		panic(http.ErrAbortHandler)
	}
	x.Own()
	Reply(w, q, http.StatusInternalServerError, "proxy_internal_error")
}

// pageRequest returns q as a page sees it, with the loan of its exchange.
func pageRequest(q *http.Request, l *Loan) *http.Request {
	c := q.WithContext(l)
	c.Header = make(http.Header, len(q.Header))
	for k, v := range q.Header {
		if k != "Range" && k != "Expect" && !strings.HasPrefix(k, "If-") && k != "Content-Length" {
			c.Header[k] = v[:len(v):len(v)]
		}
	}
	c.Body, c.ContentLength, c.TransferEncoding, c.Trailer = http.NoBody, 0, nil, nil
	return c
}

// A pageWriter writes a page with its fixed status, regardless of the page's
// own.
type pageWriter struct {
	w      *Watcher
	status int
	head   bool // the request is a HEAD
}

// Header implements http.ResponseWriter.
func (p *pageWriter) Header() http.Header { return p.w.Header() }

// WriteHeader implements http.ResponseWriter. It ignores interim responses.
func (p *pageWriter) WriteHeader(status int) {
	if status >= 200 && !p.w.Wrote() {
		p.w.WriteHeader(p.status)
	}
}

// Write implements http.ResponseWriter.
func (p *pageWriter) Write(b []byte) (int, error) {
	p.WriteHeader(p.status)
	if p.head {
		return len(b), nil
	}
	return p.w.Write(b)
}

// FlushError is for http.ResponseController.
func (p *pageWriter) FlushError() error {
	p.WriteHeader(p.status)
	return p.w.FlushError()
}

// Flush implements http.Flusher.
func (p *pageWriter) Flush() { _ = p.FlushError() }

// end sends the head of a page that has written nothing.
func (p *pageWriter) end() {
	if !p.w.Wrote() && !p.head {
		p.Header().Set("Content-Length", "0")
	}
	p.WriteHeader(p.status)
}
