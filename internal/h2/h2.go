// Package h2 is the HTTP/2 wire format (RFC 9113, with HPACK of RFC 7541): it
// parses frames and header blocks in the caller's buffer, and appends them to
// the caller's buffer. It holds no policy, does no I/O, knows no clock and no
// streams.
//
// A connection parses frames with a Parser, gathers those of a header block in
// a Block, decodes it with its Decoder into a List, and fills an h1.Request
// from that. So the same code refuses requests for HTTP/1.1 and HTTP/2. The
// connection counts the bytes that it may send in Windows and those that it may
// receive in Inflows, and writes responses with its Encoder.
//
// The parsers are strict. Invalid input is a Fault or an h1.Refusal. A Fault is
// a stream error or a connection error with its code; an h1.Refusal has the
// status for a response.
//
// Hot path: no locks, no allocation in the steady state.
//
//   - h2.go: the faults
//   - frame.go: frames
//   - append.go: writing frames
//   - settings.go, window.go: SETTINGS and flow control
//   - block.go: header blocks, gathered from frames
//   - decoder.go, table.go, huffman.go, static.go: header blocks, decoded
//   - list.go: the fields of a header block, within limits
//   - request.go: fields as an h1.Request
//   - encoder.go: header blocks, encoded
package h2

import "errors"

// Preface is the beginning of each client's connection (RFC 9113, 3.4).
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// ErrMore means that the bytes are the valid beginning of a frame: call again
// with more.
var ErrMore = errors.New("h2: frame incomplete")

// A Code is the reason why a stream or a connection ends.
type Code uint32

// The codes of RFC 9113, section 7.
const (
	NoError Code = iota
	ProtocolError
	InternalError
	FlowControlError
	SettingsTimeout
	StreamClosed
	FrameSizeError
	RefusedStream
	Cancel
	CompressionError
	ConnectError
	EnhanceYourCalm
	InadequateSecurity
	HTTP11Required
)

// A Fault is a connection error or a stream error (RFC 9113, 5.4).
type Fault struct {
	Code   Code
	Stream bool   // a stream error, for RST_STREAM; otherwise a connection error, for GOAWAY
	Reason string // short and constant: safe for logs and for the peer
}

// Error returns the reason.
func (f *Fault) Error() string { return "HTTP/2: " + f.Reason }

// All faults. Sections of RFC 9113 are in brackets; those of RFC 7541 follow
// "HPACK".
//
// Each fault of a frame is a connection error, even if the RFC asks for a
// stream error. The RFC allows that [5.4.1], and resets that a peer provokes
// would cost us work (CVE-2025-8671).
var (
	// [4.2]
	errFrameSize = &Fault{FrameSizeError, false, "frame larger than SETTINGS_MAX_FRAME_SIZE"}
	// [4.2]
	errFrameLength = &Fault{FrameSizeError, false, "frame of a length that its type does not have"}
	// [6]
	errNoStream = &Fault{ProtocolError, false, "frame without a stream, but its type needs one"}
	// [6]
	errStream = &Fault{ProtocolError, false, "frame with a stream, but its type has none"}
	// [6.1]
	errPadding = &Fault{ProtocolError, false, "padding longer than the frame"}
	// [4.3]
	errBlockOpen = &Fault{ProtocolError, false, "frame inside a header block"}
	// [6.10]
	errContinuation = &Fault{ProtocolError, false, "CONTINUATION outside of a header block"}
	// RFC 7540, 5.3.1
	errSelfDepends = &Fault{ProtocolError, false, "stream depends on itself"}
	// [8.4]
	errPush = &Fault{ProtocolError, false, "PUSH_PROMISE is not allowed"}
	// [6.9]
	errIncrement = &Fault{ProtocolError, false, "WINDOW_UPDATE of zero"}
	// [6.5.2]
	errSetting = &Fault{ProtocolError, false, "setting out of range"}
	// [6.5.2]
	errInitial = &Fault{FlowControlError, false, "SETTINGS_INITIAL_WINDOW_SIZE above 2^31-1"}
	// [6.9.1]
	errOverflow = &Fault{FlowControlError, false, "window above 2^31-1"}
	// [6.9]
	errOverrun = &Fault{FlowControlError, false, "more DATA than the window allows"}
	// [10.5.1]
	errBlockSize = &Fault{EnhanceYourCalm, false, "header block too large"}
	// [10.5.1]
	errBlockFrames = &Fault{EnhanceYourCalm, false, "header block of too many frames"}
	// [10.5.1]
	errListHuge = &Fault{EnhanceYourCalm, false, "header block decodes to far more than the limit"}
	// HPACK [3]
	errBlockEnds = &Fault{CompressionError, false, "header block ends inside a field"}
	// HPACK [2.3.3]
	errIndex = &Fault{CompressionError, false, "no field has that index"}
	// HPACK [5.1]
	errInteger = &Fault{CompressionError, false, "integer too large"}
	// HPACK [5.2]
	errHuffman = &Fault{CompressionError, false, "invalid Huffman code"}
	// HPACK [4.2]
	errUpdateLate = &Fault{CompressionError, false, "table size update behind a field"}
	// HPACK [6.3]
	errUpdateSize = &Fault{CompressionError, false, "table size above SETTINGS_HEADER_TABLE_SIZE"}
	// [8.2]
	errUpper = &Fault{ProtocolError, true, "header name in upper case"}
	// [8.2.1]
	errBlank = &Fault{ProtocolError, true, "white space around a header value"}
	// [8.2.2]
	errConnection = &Fault{ProtocolError, true, "connection-specific header"}
	// [8.3]
	errPseudo = &Fault{ProtocolError, true, "unknown, repeated or misplaced pseudo-header"}
	// [8.3.1]
	errNoPseudo = &Fault{ProtocolError, true, "pseudo-header missing"}
	// [8.3.1]
	errPath = &Fault{ProtocolError, true, ":path is neither a path nor *"}
	// [8.1.1]
	errEnded = &Fault{ProtocolError, true, "Content-Length, but no body"}
)
