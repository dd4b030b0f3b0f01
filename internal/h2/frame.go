package h2

import "encoding/binary"

// A Type is the type of a frame. Peers may send unknown types.
type Type uint8

// The types of RFC 9113, section 6, and of RFC 9218, section 7.1.
const (
	Data           Type = 0x0
	Headers        Type = 0x1
	Priority       Type = 0x2
	RSTStream      Type = 0x3
	SettingsFrame  Type = 0x4
	PushPromise    Type = 0x5
	Ping           Type = 0x6
	GoAway         Type = 0x7
	WindowUpdate   Type = 0x8
	Continuation   Type = 0x9
	PriorityUpdate Type = 0x10
)

// Flags of a frame. What a bit means depends on the type.
type Flags uint8

// The flags.
const (
	FlagEndStream  Flags = 0x1 // DATA and HEADERS
	FlagAck        Flags = 0x1 // SETTINGS and PING
	FlagEndHeaders Flags = 0x4 // HEADERS and CONTINUATION
	FlagPadded     Flags = 0x8 // DATA and HEADERS
	FlagPriority   Flags = 0x20
)

// Sizes of frames.
const (
	HeadSize        = 9       // of the head of each frame
	DefaultMaxFrame = 1 << 14 // of a payload
	mostMaxFrame    = 1<<24 - 1
	settingSize     = 6
	lastStream      = 1<<31 - 1
)

// A Frame is a frame, or a piece of one: see Parser.Parse.
type Frame struct {
	Type   Type
	Flags  Flags // as sent; see EndStream, EndHeaders and Ack
	Stream uint32
	Begins bool // this is the first piece
	Ends   bool // this is the last piece

	// Payload is a slice of the buffer that was parsed: data, a fragment of a
	// header block, settings for Settings.Apply, the data of a PING, or the
	// debug data of a GOAWAY. Padding and the fields below are not in it.
	Payload []byte

	Counted    uint32 // of DATA: number of bytes for flow control, including padding
	Increment  uint32 // of WINDOW_UPDATE
	Code       Code   // of RST_STREAM and GOAWAY
	LastStream uint32 // of GOAWAY
}

// EndStream reports whether this is the end of a frame with END_STREAM.
// CONTINUATION may follow HEADERS.
func (f *Frame) EndStream() bool {
	return f.Ends && f.Flags&FlagEndStream != 0 && (f.Type == Data || f.Type == Headers)
}

// EndHeaders reports whether this is the end of a header block.
func (f *Frame) EndHeaders() bool {
	return f.Ends && f.Flags&FlagEndHeaders != 0 && (f.Type == Headers || f.Type == Continuation)
}

// Ack reports whether this is the acknowledgement of a SETTINGS or a PING.
func (f *Frame) Ack() bool {
	return f.Flags&FlagAck != 0 && (f.Type == SettingsFrame || f.Type == Ping)
}

// A Parser parses the frames that follow the preface. The zero value is ready
// for use.
type Parser struct {
	MaxFrame int // longest payload: our SETTINGS_MAX_FRAME_SIZE; 0 means DefaultMaxFrame

	Frame // the last parsed frame

	rest  int    // payload of the frame still to come
	pad   int    // padding after it
	block uint32 // stream whose header block is not complete; 0 if there is none
}

// Parse parses the frame, or a piece of one, at the start of b, and returns its
// length or a *Fault. ErrMore asks for the same bytes again, followed by more,
// at least n in all; the buffer may have moved. A buffer of 32 bytes is enough.
//
// A frame need not be complete: the part of its payload in b is one piece, and
// the next Parse returns another. A piece of DATA can be used like a frame.
// RST_STREAM, PING, WINDOW_UPDATE and PRIORITY are always whole.
func (p *Parser) Parse(b []byte) (n int, err error) {
	if p.rest+p.pad > 0 {
		p.Begins, p.Counted = false, 0
		return p.piece(b, 0, p.rest, p.pad)
	}
	if len(b) < HeadSize {
		return HeadSize, ErrMore
	}
	size := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	p.Frame = Frame{Type: Type(b[3]), Flags: Flags(b[4]), Stream: binary.BigEndian.Uint32(b[5:]) & lastStream, Begins: true}
	if err := p.check(size); err != nil {
		return 0, err
	}
	fixed := p.fixed()
	switch {
	case size < fixed:
		return 0, errFrameLength
	case len(b) < HeadSize+fixed:
		return HeadSize + fixed, ErrMore
	}
	return p.payload(b, fixed, size)
}

// Missing returns how many bytes of the frame are still to come, including
// padding.
func (p *Parser) Missing() int { return p.rest + p.pad }

// Between reports whether the last frame and the last header block are
// complete.
func (p *Parser) Between() bool { return p.rest+p.pad == 0 && p.block == 0 }

// check returns the fault of a frame's head, or nil.
func (p *Parser) check(size int) error {
	most := p.MaxFrame
	if most == 0 {
		most = DefaultMaxFrame
	}
	switch {
	case size > most:
		return errFrameSize
	case p.block != 0 && (p.Type != Continuation || p.Stream != p.block):
		return errBlockOpen
	case p.block == 0 && p.Type == Continuation:
		return errContinuation
	}
	switch p.Type {
	case Data, Headers, Priority, RSTStream:
		if p.Stream == 0 {
			return errNoStream
		}
	case SettingsFrame, Ping, GoAway, PriorityUpdate:
		if p.Stream != 0 {
			return errStream
		}
	case PushPromise:
		return errPush
	}
	return p.checkLength(size)
}

// checkLength checks the length of frames whose type has a fixed one.
func (p *Parser) checkLength(size int) error {
	ok := true
	switch p.Type {
	case Priority, RSTStream, Ping, WindowUpdate:
		ok = size == p.fixed()
	case SettingsFrame:
		ok = size%settingSize == 0 && (size == 0 || !p.Ack())
	}
	if !ok {
		return errFrameLength
	}
	return nil
}

// fixed returns how many bytes of the payload are needed to parse the frame.
func (p *Parser) fixed() int {
	n := 0
	switch p.Type {
	case Priority:
		return 5
	case RSTStream, WindowUpdate, PriorityUpdate:
		return 4
	case Ping, GoAway:
		return 8
	case Data, Headers:
		if p.Flags&FlagPadded != 0 {
			n = 1
		}
		if p.Type == Headers && p.Flags&FlagPriority != 0 {
			n += 5
		}
	}
	return n
}

// payload parses the first fixed bytes of a payload, and then the rest with
// piece.
func (p *Parser) payload(b []byte, fixed, size int) (int, error) {
	body := b[HeadSize : HeadSize+fixed]
	pad := 0
	switch p.Type {
	case Data, Headers:
		if p.Flags&FlagPadded != 0 {
			if pad = int(body[0]); pad > size-fixed {
				return 0, errPadding
			}
			p.Counted = 1
			body = body[1:]
		}
		if len(body) > 0 && p.dependsOnItself(body) {
			return 0, errSelfDepends
		}
	case Priority:
		if p.dependsOnItself(body) {
			return 0, errSelfDepends
		}
	case RSTStream:
		p.Code = Code(binary.BigEndian.Uint32(body))
	case WindowUpdate:
		if p.Increment = binary.BigEndian.Uint32(body) & lastStream; p.Increment == 0 {
			return 0, errIncrement
		}
	case GoAway:
		p.LastStream, p.Code = binary.BigEndian.Uint32(body)&lastStream, Code(binary.BigEndian.Uint32(body[4:]))
	case PriorityUpdate:
		if binary.BigEndian.Uint32(body)&lastStream == 0 {
			return 0, errNoStream
		}
	case Ping:
		fixed = 0 // the payload is for the caller
	}
	return p.piece(b, HeadSize+fixed, size-fixed-pad, pad)
}

// dependsOnItself reports whether a stream's priority depends on that stream.
func (p *Parser) dependsOnItself(priority []byte) bool {
	return binary.BigEndian.Uint32(priority)&lastStream == p.Stream
}

// piece consumes the part of the remaining payload and padding that is in
// b[at:].
func (p *Parser) piece(b []byte, at, rest, pad int) (int, error) {
	k := min(rest, len(b)-at)
	if p.Type == SettingsFrame {
		k -= k % settingSize
	}
	skip := 0
	if k == rest {
		skip = min(pad, len(b)-at-k)
	}
	if k+skip == 0 && rest+pad > 0 {
		if p.Type == SettingsFrame {
			return at + settingSize, ErrMore
		}
		return at + 1, ErrMore
	}
	p.Payload = b[at : at+k : at+k]
	if p.Type == SettingsFrame {
		if err := checkSettings(p.Payload); err != nil {
			return 0, err
		}
	}
	p.rest, p.pad = rest-k, pad-skip
	p.Ends = p.rest+p.pad == 0
	p.Counted += uint32(k + skip)
	p.followBlock()
	return at + k + skip, nil
}

// followBlock notes the stream of an incomplete header block. It sets Counted
// to 0 for all types except DATA.
func (p *Parser) followBlock() {
	switch p.Type {
	case Headers, Continuation:
		p.block = p.Stream
		if p.EndHeaders() {
			p.block = 0
		}
		p.Counted = 0
	case Data:
	default:
		p.Counted = 0
	}
}
