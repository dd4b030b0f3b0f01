package h1

import (
	"errors"
	"io"
)

var _ = errors.New
var _ = io.EOF

// Chunks decodes a chunked body (RFC 9112, 7.1) in the buffer that holds it. The
// zero value is ready for a body.
type Chunks struct {
	// Trailers are the fields behind the last chunk, once Decode has returned
	// io.EOF: slices into the buffer. The slice is reused after Reset.
	Trailers []Field

	left  uint64 // bytes of the current chunk not seen yet, or its size so far
	waste int64  // bytes that were not data, beyond what is always allowed
	state chunkState
	count int // digits of the size so far
}

type chunkState uint8

// Reset prepares c for another body. The memory of Trailers stays.
func (c *Chunks) Reset() { *c = Chunks{Trailers: c.Trailers[:0]} }

// Decode decodes the part b of the body. It consumes n bytes of b, and returns
// the data among them: one slice of b, moved together in place when b holds
// several chunks. b[n:] is left; unless the body has ended, it is the beginning
// of the trailer section, at most MaxTrailer bytes, and is to be given again
// with more behind it.
//
// The error is nil while the body goes on, io.EOF with the last data when body
// and trailer section are complete, and otherwise a *Refusal; data that came
// before the fault is returned with it.
func (c *Chunks) Decode(b []byte) (data []byte, n int, err error) {
	panic("not yet")
}
