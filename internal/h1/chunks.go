package h1

import (
	"bytes"
	"io"
)

// Limits on what a chunked body may contain besides data. They are at least as
// strict as net/http's.
const (
	maxChunkLine  = 1 << 10  // bytes of one size line with its extensions
	maxChunkWaste = 16 << 10 // overhead of a body beyond freeWaste and twice its data
	freeWaste     = 16       // overhead that every chunk may have
	maxSizeDigits = 16
)

// Chunks decodes a chunked body (RFC 9112, 7.1) in the buffer that holds it.
// The zero value is ready for a body.
type Chunks struct {
	// Trailers are the fields after the last chunk, set when Decode returns
	// io.EOF. They are slices into the buffer. The slice is reused after Reset.
	Trailers []Field

	// Padded allows white space between a size and its CRLF, as some servers
	// write it. White space before an extension is always allowed (RFC 9112,
	// 7.1.1). Reset keeps it.
	Padded bool

	state chunkState
	left  uint64 // the size read so far; then the remaining bytes of the chunk
	line  int    // bytes of the size line so far
	waste int64  // overhead so far, see maxChunkWaste
}

type chunkState uint8

const (
	chunkSize     chunkState = iota // at the first digit
	chunkDigits                     // after a digit
	chunkPadding                    // in white space after the size
	chunkExt                        // in extensions
	chunkSizeLF                     // at the LF of the size line
	chunkData                       // in the data
	chunkDataCR                     // after the data
	chunkDataLF                     // at the LF after the data
	chunkTrailers                   // in the trailer section
	chunkEnd                        // after the body
)

// Reset prepares c for another body. It keeps the memory of Trailers.
func (c *Chunks) Reset() { *c = Chunks{Trailers: c.Trailers[:0], Padded: c.Padded} }

// Decode decodes the part b of the body. It consumes n bytes of b, and returns
// the data among them as one slice of b: if b holds several chunks, their data
// is moved together in place. If the body has not ended, b[n:] is the beginning
// of the trailer section, less than MaxTrailer bytes. The caller must pass it
// again, followed by more bytes.
//
// The error is nil until the body ends. It is io.EOF with the last data, once
// body and trailer section are complete, and otherwise a *Refusal. Data before
// the fault is returned with it.
func (c *Chunks) Decode(b []byte) (data []byte, n int, err error) {
	from, to := 0, 0 // data is b[from:to]
	for err == nil && n < len(b) && c.state < chunkTrailers {
		if c.state != chunkData {
			err = c.advance(b[n])
			n++
			continue
		}
		k := int(min(c.left, uint64(len(b)-n)))
		if from == to {
			from, to = n, n
		}
		if to == n {
			to += k
		} else {
			to += copy(b[to:], b[n:n+k])
		}
		n += k
		if c.left -= uint64(k); c.left == 0 {
			c.state = chunkDataCR
		}
	}
	if err == nil && c.state == chunkTrailers {
		var k int
		k, err = c.trailers(b[n:])
		n += k
	}
	if err == nil && c.state == chunkEnd {
		err = io.EOF
	}
	return b[from:to:to], n, err
}

// advance consumes a byte that is not data.
func (c *Chunks) advance(b byte) error {
	switch c.state {
	case chunkDataCR:
		return c.expect(b, '\r', chunkDataLF, errChunkEnd)
	case chunkDataLF:
		return c.expect(b, '\n', chunkSize, errChunkEnd)
	case chunkSizeLF:
		if b != '\n' {
			return errChunkSize
		}
		return c.begin()
	}
	if c.line++; c.line > maxChunkLine {
		return errChunkExt
	}
	switch {
	case c.state == chunkSize || c.state == chunkDigits && class[b]&hexByte != 0:
		return c.digit(b)
	case b == '\r' && (c.state != chunkPadding || c.Padded):
		c.line--
		c.state = chunkSizeLF
	case c.state <= chunkPadding && b == ';':
		c.state = chunkExt
	case c.state <= chunkPadding:
		c.state = chunkPadding
		if b != ' ' && b != '\t' {
			return errChunkSize
		}
	case badValueByte(b):
		return errChunkExt
	}
	return nil
}

func (c *Chunks) expect(b, want byte, next chunkState, fault error) error {
	if b != want {
		return fault
	}
	c.state = next
	return nil
}

func (c *Chunks) digit(b byte) error {
	if class[b]&hexByte == 0 || c.line > maxSizeDigits {
		return errChunkSize
	}
	d := b - '0'
	if d > 9 {
		d = lower(b) - 'a' + 10
	}
	c.left = c.left<<4 | uint64(d)
	c.state = chunkDigits
	return nil
}

// begin starts a chunk after its size line.
func (c *Chunks) begin() error {
	if c.left >= 1<<60 { // far from overflow below
		return errChunkSize
	}
	c.waste = max(0, c.waste+int64(c.line)+2-freeWaste-2*int64(c.left))
	if c.waste > maxChunkWaste {
		return errChunkWaste
	}
	c.line = 0
	c.state = chunkData
	if c.left == 0 {
		c.state = chunkTrailers
	}
	return nil
}

// trailers parses the trailer section once b contains all of it, and returns
// its length.
func (c *Chunks) trailers(b []byte) (int, error) {
	b = b[:min(len(b), MaxTrailer)]
	end := 0
	for start := 0; ; start = end {
		i := bytes.IndexByte(b[start:], '\n')
		switch {
		case i < 0 && len(b) == MaxTrailer:
			return 0, errTrailerSize
		case i < 0:
			return 0, nil
		case i == 0 || b[start+i-1] != '\r':
			return 0, errBareLF
		}
		end = start + i + 1
		if i == 1 {
			break
		}
	}
	c.Trailers = c.Trailers[:0]
	for rest := b[:end-2]; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		f, err := parseField(rest[:i-1])
		switch {
		case err != nil:
			return 0, err
		case len(c.Trailers) == MaxFields:
			return 0, errFieldCount
		}
		c.Trailers = append(c.Trailers, f)
		rest = rest[i+1:]
	}
	c.state = chunkEnd
	return end, nil
}
