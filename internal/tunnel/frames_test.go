package tunnel_test

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/tunnel"
)

const (
	opText  = 0x1
	opClose = 0x8
	opPing  = 0x9
)

var maskKey = []byte{0xa1, 0xb2, 0xc3, 0xd4}

// frame builds a final frame with the shortest length encoding. A masked frame
// uses maskKey.
func frame(opcode byte, masked bool, payload []byte) []byte {
	out := []byte{0x80 | opcode, 0}
	switch n := len(payload); {
	case n < 126:
		out[1] = byte(n)
	case n <= math.MaxUint16:
		out[1] = 126
		out = binary.BigEndian.AppendUint16(out, uint16(n))
	default:
		out[1] = 127
		out = binary.BigEndian.AppendUint64(out, uint64(n))
	}
	if !masked {
		return append(out, payload...)
	}
	out[1] |= 0x80
	out = append(out, maskKey...)
	for i, b := range payload {
		out = append(out, b^maskKey[i%4])
	}
	return out
}

// payloadOf returns n bytes that look like frame headers to a parser that has
// lost its position.
func payloadOf(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = []byte{0x88, 0x82, 0xff, 0x00}[i%4]
	}
	return p
}

// borders feeds p in pieces of the given sizes, the last one repeated, and
// returns the offsets at which frames ended.
func borders(f *tunnel.Frames, p []byte, sizes ...int) (at []int) {
	offset := 0
	for i := 0; len(p) > 0; i++ {
		piece := p[:min(len(p), max(1, sizes[min(i, len(sizes)-1)]))]
		p = p[len(piece):]
		for len(piece) > 0 {
			n := f.Next(piece)
			offset += n
			piece = piece[n:]
			if f.AtBorder() {
				at = append(at, offset)
			}
		}
	}
	return at
}

func TestFramesFindsFrameBoundaries(t *testing.T) {
	for _, masked := range []bool{false, true} {
		var (
			stream []byte
			want   []int
		)
		for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 0, 3} {
			stream = append(stream, frame(opText, masked, payloadOf(n))...)
			want = append(want, len(stream))
		}
		for _, size := range []int{1, 2, 3, 7, 125, 4096, len(stream)} {
			var f tunnel.Frames
			assert.True(t, f.AtBorder(), "at the start")
			assert.Equal(t, want, borders(&f, stream, size), "masked %v, pieces of %d", masked, size)
			assert.False(t, f.Closed())
		}
	}
}

func TestFramesSeesClose(t *testing.T) {
	var f tunnel.Frames
	stream := append(frame(opText, true, []byte("x")), frame(opClose, true, []byte{3, 232})...)
	f.Skip(stream[:len(stream)-1])
	assert.False(t, f.Closed(), "not before its last byte")
	f.Skip(stream[len(stream)-1:])
	assert.True(t, f.Closed())

	var empty tunnel.Frames
	empty.Skip([]byte{0x88, 0})
	assert.True(t, empty.Closed(), "a Close frame without a status")
}

func TestFramesFindsNoBoundaryAfterAnImpossibleLength(t *testing.T) {
	for _, length := range []string{"\x80\x00\x00\x00\x00\x00\x00\x00", "\xff\xff\xff\xff\xff\xff\xff\xff", "\x7f\xff\xff\xff\xff\xff\xff\xff"} {
		var f tunnel.Frames
		f.Skip([]byte("\x82\x7f" + length))
		assert.Equal(t, 5, f.Next([]byte{0x88, 0, 0x88, 0, 0}), "%q", length)
		assert.False(t, f.AtBorder(), "%q", length)
		assert.False(t, f.Closed(), "%q", length)
	}
}

// FuzzFrames checks that any split of a stream gives the same borders, and that
// a parser of the whole stream finds them, too.
func FuzzFrames(f *testing.F) {
	f.Add(append(frame(opText, true, payloadOf(200)), frame(opClose, false, nil)...), 1, 5)
	f.Add(frame(opPing, false, payloadOf(126)), 3, 2)
	f.Add([]byte{0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x88, 0}, 4, 4)
	f.Add([]byte{0x82, 127, 0, 0, 0, 0, 0, 0, 0, 0, 0x88, 0}, 4, 4)
	f.Fuzz(func(t *testing.T, stream []byte, first, rest int) {
		var whole, split tunnel.Frames
		at := borders(&whole, stream, len(stream))
		require.Equal(t, at, borders(&split, stream, first, rest))
		require.Equal(t, whole, split)
		want, closed := reference(stream)
		require.Equal(t, want, at)
		require.Equal(t, closed, whole.Closed())
	})
}

// reference finds the ends of all whole frames in a stream.
func reference(stream []byte) (at []int, closed bool) {
	for offset := 0; len(stream) >= offset+2; {
		header, length := 2, uint64(stream[offset+1]&0x7f)
		switch length {
		case 126:
			header += 2
		case 127:
			header += 8
		}
		end := offset + header
		if stream[offset+1]&0x80 != 0 {
			end += 4
		}
		if len(stream) < end {
			return at, closed
		}
		switch header {
		case 4:
			length = uint64(binary.BigEndian.Uint16(stream[offset+2:]))
		case 10:
			length = binary.BigEndian.Uint64(stream[offset+2:])
		}
		if length > uint64(len(stream)-end) {
			return at, closed
		}
		closed = closed || stream[offset]&0x0f == opClose
		offset = end + int(length)
		at = append(at, offset)
	}
	return at, closed
}

func TestFramesDoesNotAllocate(t *testing.T) {
	stream := append(frame(opText, true, payloadOf(1000)), frame(opText, false, payloadOf(70_000))...)
	var f tunnel.Frames
	assert.Zero(t, testing.AllocsPerRun(100, func() { f.Skip(stream) }))
	assert.True(t, f.AtBorder())
}
