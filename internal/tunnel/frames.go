package tunnel

// opClose is the opcode of a Close frame (RFC 6455, 11.8).
const opClose = 0x8

// Frames follows the frame borders of a WebSocket stream (RFC 6455, 5.2) while
// its bytes pass. It reads headers only and checks nothing else. The zero value
// is for the start of a stream.
//
// Hot path: a few operations per frame and per call, none per byte of payload,
// no allocation.
type Frames struct {
	header int    // number of header bytes of the current frame so far
	extra  int    // number of extended length bytes
	size   int    // total number of header bytes; known after the second byte
	left   uint64 // payload bytes to come
	opcode byte
	closed bool
}

// Next consumes the bytes of p up to the end of the current frame, or all of p,
// and returns their number.
func (f *Frames) Next(p []byte) int {
	n := 0
	for n < len(p) && f.inHeader() {
		f.headerByte(p[n])
		n++
	}
	if f.inHeader() {
		return n
	}
	payload := min(f.left, uint64(len(p)-n))
	f.left -= payload
	if f.left == 0 {
		f.closed = f.closed || f.opcode == opClose
		f.header = 0
	}
	return n + int(payload)
}

// Skip consumes all of p.
func (f *Frames) Skip(p []byte) {
	for len(p) > 0 {
		p = p[f.Next(p):]
	}
}

// AtBorder reports whether the last consumed byte ended a frame, so that
// another frame may follow.
func (f *Frames) AtBorder() bool { return f.header == 0 }

// Closed reports whether a whole Close frame was consumed.
func (f *Frames) Closed() bool { return f.closed }

// inHeader reports whether the current frame's header is not complete.
func (f *Frames) inHeader() bool { return f.header < 2 || f.header < f.size }

// headerByte consumes one byte of a header.
func (f *Frames) headerByte(b byte) {
	switch {
	case f.header == 0:
		f.opcode = b & 0x0f
	case f.header == 1:
		f.left, f.extra = uint64(b&0x7f), 0
		switch f.left {
		case 126:
			f.left, f.extra = 0, 2
		case 127:
			f.left, f.extra = 0, 8
		}
		f.size = 2 + f.extra
		if b&0x80 != 0 {
			f.size += 4 // the masking key
		}
	case f.header < 2+f.extra:
		f.left = f.left<<8 | uint64(b)
	}
	f.header++
}
