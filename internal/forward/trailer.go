package forward

import (
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// Trailers follow the rules for the fields of a head: those that are forbidden,
// named by Connection, or removed or set by an Edit do not pass.

// AppendRequestEnd appends the last chunk of a request with the trailers that
// may pass; hop is as for AppendRequest. It does not change trailers, since the
// request may be sent again.
func (e *Encoder) AppendRequestEnd(dst []byte, trailers []h1.Field, hop *header.Hop) []byte {
	dst = append(dst, "0\r\n"...)
	for i := range trailers {
		if fd := &trailers[i]; header.PassesTrailer[[]byte, []byte](e.RequestHeader.drops, fd.Name) && !header.SameVariable(fd.Name, hop.ID.Name) && !header.Replaces(hop.Set, fd.Name) {
			dst = h1.AppendField(dst, fd.Name, fd.Value)
		}
	}
	return append(dst, "\r\n"...)
}

// AppendTrailers appends the trailers of a response that may pass. named is the
// result of AppendNominated for its head.
func (e *Edit) AppendTrailers(dst, trailers []h1.Field, named []byte) []h1.Field {
	for i := range trailers {
		if fd := &trailers[i]; header.PassesTrailer(e.drops, fd.Name, named) {
			dst = append(dst, *fd)
		}
	}
	return dst
}

// AppendNominated appends the values of Connection in res, as one list. It
// keeps them for the trailers, which arrive when the head is gone.
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
