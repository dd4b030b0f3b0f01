package http3

import (
	"io"
	"maps"
	"net/http"
	"time"
)

// endWait limits the wait for the end of a request that has no length and
// probably no body. The end is nearly always in the same packet as the head, or
// in the next one.
const endWait = 50 * time.Millisecond

// asNetHTTP returns q as a net/http server would pass it to a handler:
//
//   - Copies of the request get the trailers at the end of the body, announced
//     or not. quic-go assigns a new Trailer map, which copies do not see.
//   - A request without a body has the length 0. quic-go reports it as unknown,
//     because the end of a stream comes after the head. Otherwise targets would
//     get a GET with a chunked body.
//   - Host is only in the field Host, and not among the headers.
func asNetHTTP(q *http.Request) *http.Request {
	delete(q.Header, "Host") // equal to the authority: otherwise quic-go refuses q
	if q.ContentLength == 0 && q.Trailer == nil || q.Method == http.MethodConnect {
		return q
	}
	c := q.WithContext(q.Context()) // quic-go changes q when the trailers arrive
	if c.Trailer = maps.Clone(q.Trailer); c.Trailer == nil {
		c.Trailer = http.Header{}
	}
	b := &body{ReadCloser: q.Body, q: q, trailer: c.Trailer}
	c.Body = b
	if q.ContentLength < 0 && mayLackBody(q.Method) && b.ends() {
		c.ContentLength, c.Body, c.Trailer = 0, http.NoBody, nil
	}
	return c
}

// mayLackBody reports whether requests of this method usually have no body. The
// others announce an empty one by a Content-Length of 0 (RFC 9110, 8.6).
func mayLackBody(method string) bool {
	return method != http.MethodPost && method != http.MethodPut && method != http.MethodPatch
}

// A body is the body of a request.
type body struct {
	io.ReadCloser
	q       *http.Request // quic-go's
	trailer http.Header   // trailer of the request that the handler gets

	// closed when the first byte or an error has been read; nil if nothing
	// waits for that
	looked chan struct{}
	first  [1]byte
	n      int
	err    error
}

// ends reports whether the body is empty, as far as this is known within
// endWait.
func (b *body) ends() bool {
	b.looked = make(chan struct{})
	go b.look()
	late := time.NewTimer(endWait)
	defer late.Stop()
	select {
	case <-b.looked:
		return b.n == 0 && b.err == io.EOF && len(b.q.Trailer) == 0
	case <-late.C:
		return false
	}
}

// look reads the first byte. At the latest, it returns when the stream ends.
func (b *body) look() {
	defer close(b.looked)
	for b.n == 0 && b.err == nil {
		b.n, b.err = b.ReadCloser.Read(b.first[:])
	}
}

// Read returns the byte that look has read, and then the rest.
func (b *body) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	if b.looked != nil {
		<-b.looked
		n, b.n, err = copy(p, b.first[:b.n]), 0, b.err
	}
	if n == 0 && err == nil {
		n, err = b.ReadCloser.Read(p)
	}
	if err == io.EOF {
		maps.Copy(b.trailer, b.q.Trailer)
	}
	return n, err
}
