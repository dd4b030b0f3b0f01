package exchange

import (
	"io"
	"net/http"
	"slices"

	"github.com/hostproxy/hostproxy/internal/header"
)

// Withhold returns a copy of q for a handler that trusts the fields with these
// names. It removes the client's own, in any spelling and in trailers too, and
// a Connection field that could remove what is added later.
func Withhold(q *http.Request, names ...string) *http.Request {
	c := q.Clone(q.Context())
	header.Denominate(c.Header)
	for _, name := range names {
		header.Drop(c.Header, name)
	}
	if q.Body == nil || q.Body == http.NoBody || q.ContentLength >= 0 && len(q.Trailer) == 0 {
		return c
	}
	b := &withheldBody{ReadCloser: q.Body, from: q, to: make(http.Header, len(q.Trailer)), drops: names,
		named: slices.Clone(q.Header["Connection"])}
	for name := range q.Trailer {
		if b.passes(name) {
			b.to[name] = nil
		}
	}
	c.Body, c.Trailer = b, b.to
	return c
}

// A withheldBody is a body whose trailers go to another request than the one
// that the server fills in.
type withheldBody struct {
	io.ReadCloser
	from  *http.Request
	to    http.Header
	drops []string
	named []string // values of Connection
}

// Read implements io.Reader. At the end it passes on the trailers.
func (b *withheldBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		for name, values := range b.from.Trailer {
			if b.passes(name) {
				b.to[name] = values
			}
		}
	}
	return n, err
}

func (b *withheldBody) passes(name string) bool {
	return header.PassesTrailer(b.drops, name, b.named...)
}
