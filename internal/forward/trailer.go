package forward

import (
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// Trailers obey what the fields of a head obey: what is forbidden, what
// Connection nominates, and what an Edit removes or sets does not pass.

// AppendRequestEnd appends the last chunk of a request with the trailers that
// may pass; hop is as for AppendRequest. The trailers stay as they are: the request
// may be sent again.
func (e *Encoder) AppendRequestEnd(dst []byte, trailers []h1.Field, hop *header.Hop) []byte {
	return appendEnd(dst, trailers, &e.RequestHeader, nil, hop.ID.Name)
}

// AppendResponseEnd appends the last chunk of a response with the trailers that
// may pass. named is what AppendNominated made of its head.
func (e *Encoder) AppendResponseEnd(dst []byte, trailers []h1.Field, named []byte) []byte {
	return appendEnd(dst, trailers, &e.ResponseHeader, named, "")
}

func appendEnd(dst []byte, trailers []h1.Field, e *Edit, named []byte, replaced string) []byte {
	dst = append(dst, "0\r\n"...)
	for i := range trailers {
		if fd := &trailers[i]; header.PassesTrailer(e.drops, fd.Name, named) && !header.SameVariable(fd.Name, replaced) {
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
