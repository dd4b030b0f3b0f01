package forward

import (
	"io"
	"net/http"
	"slices"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// Trailers obey what the fields of a head obey: what is forbidden, what
// Connection nominates, and what an Edit removes or sets does not pass.

// passesTrailer reports whether a trailer of that name crosses the proxy in a
// message that is edited by e. named are the values of Connection in its head.
//
// Hot path: no allocation.
func passesTrailer[N, V header.Text](e *Edit, name N, named ...V) bool {
	if header.ForbiddenTrailer(name) || matches(e.drops, name) {
		return false
	}
	for _, value := range named {
		if header.Nominated(value, name) {
			return false
		}
	}
	return true
}

// matches reports whether a CGI-like target takes name for one of names.
func matches[N header.Text](names []string, name N) bool {
	for _, k := range names {
		if header.SameVariable(k, name) {
			return true
		}
	}
	return false
}

// AppendRequestEnd appends the last chunk of a request with the trailers that
// may pass; hop is as for AppendRequest. The trailers stay as they are: the request
// may be sent again.
func (f *Forwarder) AppendRequestEnd(dst []byte, trailers []h1.Field, hop *header.Hop) []byte {
	return appendEnd(dst, trailers, &f.RequestHeader, nil, hop.ID.Name)
}

// AppendResponseEnd appends the last chunk of a response with the trailers that
// may pass. named is what AppendNominated made of its head.
func (f *Forwarder) AppendResponseEnd(dst []byte, trailers []h1.Field, named []byte) []byte {
	return appendEnd(dst, trailers, &f.ResponseHeader, named, "")
}

func appendEnd(dst []byte, trailers []h1.Field, e *Edit, named []byte, replaced string) []byte {
	dst = append(dst, "0\r\n"...)
	for i := range trailers {
		if fd := &trailers[i]; passesTrailer(e, fd.Name, named) && !header.SameVariable(fd.Name, replaced) {
			dst = h1.AppendField(dst, fd.Name, fd.Value)
		}
	}
	return append(dst, "\r\n"...)
}

// AppendNominated appends the values of Connection in res, as one list. The head
// is gone when the trailers come.
func AppendNominated(dst []byte, res *h1.Response) []byte {
	if !res.Nominates {
		return dst
	}
	for i := range res.Fields {
		if fd := &res.Fields[i]; header.Classify(fd.Name)&header.Connection != 0 {
			dst = append(append(dst, fd.Value...), ',')
		}
	}
	return dst
}

// Withhold returns q as it is to pass to a handler that believes the fields with
// these names: without the client's own, in any spelling and in trailers too,
// and without a Connection that could take away what is added then.
func Withhold(q *http.Request, names ...string) *http.Request {
	c := q.Clone(q.Context())
	header.Denominate(c.Header)
	for _, name := range names {
		header.Drop(c.Header, name)
	}
	if q.Body == nil || q.Body == http.NoBody || q.ContentLength >= 0 && len(q.Trailer) == 0 {
		return c
	}
	b := &withheldBody{ReadCloser: q.Body, from: q, to: make(http.Header, len(q.Trailer)), edit: Edit{drops: names},
		named: slices.Clone(q.Header["Connection"])}
	for name := range q.Trailer {
		if b.passes(name) {
			b.to[name] = nil
		}
	}
	c.Body, c.Trailer = b, b.to
	return c
}

// A withheldBody is a body whose trailers come to another request than the one
// that the server fills in.
type withheldBody struct {
	io.ReadCloser
	from  *http.Request
	to    http.Header
	edit  Edit
	named []string // values of Connection
}

// Read implements io.Reader. At the end it hands the trailers on.
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

func (b *withheldBody) passes(name string) bool { return passesTrailer(&b.edit, name, b.named...) }
