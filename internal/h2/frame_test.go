package h2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy/internal/h2"
)

// frame writes a frame of any kind.
func frame(t h2.Type, flags h2.Flags, stream uint32, payload string) []byte {
	return append(h2.AppendHead(nil, t, flags, stream, len(payload)), payload...)
}

// An event is a frame as a connection receives it, reassembled from its pieces.
type event struct {
	Type       h2.Type
	Flags      h2.Flags
	Stream     uint32
	Payload    string
	Counted    uint32
	Increment  uint32
	Code       h2.Code
	LastStream uint32
	ends       bool
	EndStream  bool
	EndHeaders bool
}

// parseAll parses the frames in b, which arrive in reads of at most size bytes.
// It returns the complete frames, and the result of the last Parse.
func parseAll(t testing.TB, p *h2.Parser, b []byte, size int) (events []event, err error) {
	t.Helper()
	have := 0 // b[:have] has arrived
	for at := 0; ; {
		n, err := p.Parse(b[at:have:have])
		if err == h2.ErrMore {
			if n <= have-at || n > 32 {
				t.Fatalf("%d bytes are there, and %d wanted: want more than there are, and that a small buffer is enough", have-at, n)
			}
			if have == len(b) {
				return events, err
			}
			have = min(len(b), have+size)
			continue
		}
		if err != nil {
			return events, err
		}
		at += n
		events = addPiece(t, events, &p.Frame)
	}
}

// addPiece adds a piece to the frames before it. It is called for each byte.
func addPiece(t testing.TB, events []event, f *h2.Frame) []event {
	if f.Begins != (len(events) == 0 || events[len(events)-1].ends) {
		t.Fatalf("a frame begins where the last one has not ended, or the other way round: %+v", f)
	}
	if f.Begins {
		events = append(events, event{Type: f.Type, Flags: f.Flags, Stream: f.Stream, Increment: f.Increment, Code: f.Code, LastStream: f.LastStream})
	}
	e := &events[len(events)-1]
	if e.Type != f.Type || e.Flags != f.Flags || e.Stream != f.Stream {
		t.Fatalf("a piece of another frame: %+v after %+v", f, e)
	}
	e.Payload += string(f.Payload)
	e.Counted += f.Counted
	e.ends, e.EndStream, e.EndHeaders = f.Ends, f.EndStream(), f.EndHeaders()
	return events
}

func TestFramesAreReadAsSent(t *testing.T) {
	for _, tt := range []struct {
		name string
		give []byte
		want event
	}{
		{"DATA", frame(h2.Data, 0, 1, "hello"), event{Type: h2.Data, Stream: 1, Payload: "hello", Counted: 5}},
		{"the last DATA", frame(h2.Data, h2.FlagEndStream, 1, "x"), event{Type: h2.Data, Flags: 1, Stream: 1, Payload: "x", Counted: 1, EndStream: true}},
		{"empty DATA", frame(h2.Data, h2.FlagEndStream, 1, ""), event{Type: h2.Data, Flags: 1, Stream: 1, EndStream: true}},
		{"padded DATA, all of which counts", frame(h2.Data, h2.FlagPadded, 1, "\x03hi\x00\x00\x00"), event{Type: h2.Data, Flags: 8, Stream: 1, Payload: "hi", Counted: 6}},
		{"DATA with only padding", frame(h2.Data, h2.FlagPadded, 1, "\x01\x00"), event{Type: h2.Data, Flags: 8, Stream: 1, Counted: 2}},
		{"HEADERS", frame(h2.Headers, h2.FlagEndHeaders|h2.FlagEndStream, 3, "block"), event{Type: h2.Headers, Flags: 5, Stream: 3, Payload: "block", EndStream: true, EndHeaders: true}},
		{"HEADERS with padding and priority", frame(h2.Headers, h2.FlagEndHeaders|h2.FlagPadded|h2.FlagPriority, 3, "\x02\x80\x00\x00\x01\xffblock\x00\x00"), event{Type: h2.Headers, Flags: 0x2c, Stream: 3, Payload: "block", EndHeaders: true}},
		{"PRIORITY", frame(h2.Priority, 0, 3, "\x00\x00\x00\x01\x10"), event{Type: h2.Priority, Stream: 3}},
		{"RST_STREAM", h2.AppendRSTStream(nil, 3, h2.Cancel), event{Type: h2.RSTStream, Stream: 3, Code: h2.Cancel}},
		{"SETTINGS", frame(h2.SettingsFrame, 0, 0, "\x00\x03\x00\x00\x00\x64"), event{Type: h2.SettingsFrame, Payload: "\x00\x03\x00\x00\x00\x64"}},
		{"empty SETTINGS", frame(h2.SettingsFrame, 0, 0, ""), event{Type: h2.SettingsFrame}},
		{"SETTINGS that are acknowledged", h2.AppendSettingsAck(nil), event{Type: h2.SettingsFrame, Flags: h2.FlagAck}},
		{"PING", h2.AppendPing(nil, [8]byte{1, 2, 3, 4, 5, 6, 7, 8}), event{Type: h2.Ping, Payload: "\x01\x02\x03\x04\x05\x06\x07\x08"}},
		{"the answer to a PING", h2.AppendPingAck(nil, []byte("01234567")), event{Type: h2.Ping, Flags: h2.FlagAck, Payload: "01234567"}},
		{"GOAWAY", h2.AppendGoAway(nil, 7, h2.EnhanceYourCalm, "too much"), event{Type: h2.GoAway, LastStream: 7, Code: h2.EnhanceYourCalm, Payload: "too much"}},
		{"WINDOW_UPDATE", h2.AppendWindowUpdate(nil, 5, 1<<31-1), event{Type: h2.WindowUpdate, Stream: 5, Increment: 1<<31 - 1}},
		{"WINDOW_UPDATE of the connection", h2.AppendWindowUpdate(nil, 0, 1), event{Type: h2.WindowUpdate, Increment: 1}},
		{"PRIORITY_UPDATE", frame(h2.PriorityUpdate, 0, 0, "\x00\x00\x00\x05u=1"), event{Type: h2.PriorityUpdate, Payload: "u=1"}},
		{"an unknown type", frame(0xbe, 0xff, 9, "grease"), event{Type: 0xbe, Flags: 0xff, Stream: 9, Payload: "grease"}},
		{"reserved bits", []byte("\x00\x00\x04\x08\x00\x80\x00\x00\x01\x80\x00\x00\x02"), event{Type: h2.WindowUpdate, Stream: 1, Increment: 2}},
		{"flags that mean nothing here", frame(h2.Ping, 0xfe, 0, "01234567"), event{Type: h2.Ping, Flags: 0xfe, Payload: "01234567"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.ends = true
			for _, size := range []int{1, 3, len(tt.give)} {
				got, err := parseAll(t, new(h2.Parser), tt.give, size)
				assert.ErrorIs(t, err, h2.ErrMore)
				assert.Equal(t, []event{tt.want}, got)
			}
		})
	}
}

func TestAHeaderBlockCanHaveSeveralFrames(t *testing.T) {
	b := frame(h2.Headers, h2.FlagEndStream, 1, "a")
	// a flag that CONTINUATION does not have
	b = append(b, frame(h2.Continuation, h2.FlagEndStream, 1, "b")...)
	b = append(b, frame(h2.Continuation, h2.FlagEndHeaders, 1, "c")...)
	b = append(b, frame(h2.Data, 0, 1, "")...)
	events, err := parseAll(t, new(h2.Parser), b, 4)
	assert.ErrorIs(t, err, h2.ErrMore)
	require.Len(t, events, 4)
	assert.True(t, events[0].EndStream && !events[1].EndStream && !events[2].EndStream)
	assert.True(t, !events[0].EndHeaders && !events[1].EndHeaders && events[2].EndHeaders)
}

func TestBrokenFramesAreFaults(t *testing.T) {
	open := frame(h2.Headers, 0, 1, "")
	for _, tt := range []struct {
		name string
		give []byte
		want h2.Code
	}{
		{"a payload above the limit, before it arrives", h2.AppendHead(nil, h2.Data, 0, 1, 1<<14+1), h2.FrameSizeError},
		{"an unknown frame above the limit", h2.AppendHead(nil, 0xbe, 0, 0, 1<<24-1), h2.FrameSizeError},
		{"DATA without a stream", frame(h2.Data, 0, 0, "x"), h2.ProtocolError},
		{"DATA whose padding is longer", frame(h2.Data, h2.FlagPadded, 1, "\x02x"), h2.ProtocolError},
		{"DATA without the length of its padding", frame(h2.Data, h2.FlagPadded, 1, ""), h2.FrameSizeError},
		{"HEADERS without a stream", frame(h2.Headers, h2.FlagEndHeaders, 0, "x"), h2.ProtocolError},
		{"HEADERS whose padding is longer", frame(h2.Headers, h2.FlagPadded|h2.FlagPriority, 1, "\x02\x00\x00\x00\x03\x01x"), h2.ProtocolError},
		{"HEADERS without the priority", frame(h2.Headers, h2.FlagPriority, 1, "\x00\x00\x00\x03"), h2.FrameSizeError},
		{"HEADERS of a stream that depends on itself", frame(h2.Headers, h2.FlagPriority, 1, "\x80\x00\x00\x01\x01"), h2.ProtocolError},
		{"PRIORITY without a stream", frame(h2.Priority, 0, 0, "\x00\x00\x00\x03\x01"), h2.ProtocolError},
		{"PRIORITY of the wrong length", frame(h2.Priority, 0, 1, "\x00\x00\x00\x03"), h2.FrameSizeError},
		{"PRIORITY of a stream that depends on itself", frame(h2.Priority, 0, 1, "\x00\x00\x00\x01\x01"), h2.ProtocolError},
		{"RST_STREAM without a stream", frame(h2.RSTStream, 0, 0, "\x00\x00\x00\x00"), h2.ProtocolError},
		{"RST_STREAM of the wrong length", frame(h2.RSTStream, 0, 1, "\x00\x00\x00\x00\x00"), h2.FrameSizeError},
		{"SETTINGS with a stream", frame(h2.SettingsFrame, 0, 1, ""), h2.ProtocolError},
		{"SETTINGS of the wrong length", frame(h2.SettingsFrame, 0, 0, "\x00\x01\x00\x00\x00"), h2.FrameSizeError},
		{"acknowledged SETTINGS with settings", frame(h2.SettingsFrame, h2.FlagAck, 0, "\x00\x01\x00\x00\x00\x00"), h2.FrameSizeError},
		{"ENABLE_PUSH of 2", frame(h2.SettingsFrame, 0, 0, "\x00\x02\x00\x00\x00\x02"), h2.ProtocolError},
		{"INITIAL_WINDOW_SIZE of 2^31", frame(h2.SettingsFrame, 0, 0, "\x00\x04\x80\x00\x00\x00"), h2.FlowControlError},
		{"MAX_FRAME_SIZE of 0 (CVE-2026-33814)", frame(h2.SettingsFrame, 0, 0, "\x00\x05\x00\x00\x00\x00"), h2.ProtocolError},
		{"MAX_FRAME_SIZE of 16383", frame(h2.SettingsFrame, 0, 0, "\x00\x05\x00\x00\x3f\xff"), h2.ProtocolError},
		{"MAX_FRAME_SIZE of 2^24", frame(h2.SettingsFrame, 0, 0, "\x00\x05\x01\x00\x00\x00"), h2.ProtocolError},
		{"ENABLE_CONNECT_PROTOCOL of 2", frame(h2.SettingsFrame, 0, 0, "\x00\x08\x00\x00\x00\x02"), h2.ProtocolError},
		{"NO_RFC7540_PRIORITIES of 2", frame(h2.SettingsFrame, 0, 0, "\x00\x09\x00\x00\x00\x02"), h2.ProtocolError},
		{"PUSH_PROMISE", frame(h2.PushPromise, h2.FlagEndHeaders, 1, "\x00\x00\x00\x02"), h2.ProtocolError},
		{"PING with a stream", frame(h2.Ping, 0, 1, "01234567"), h2.ProtocolError},
		{"PING of the wrong length", frame(h2.Ping, 0, 0, "0123456"), h2.FrameSizeError},
		{"GOAWAY with a stream", frame(h2.GoAway, 0, 1, "01234567"), h2.ProtocolError},
		{"GOAWAY without a code", frame(h2.GoAway, 0, 0, "0123"), h2.FrameSizeError},
		{"WINDOW_UPDATE of zero", frame(h2.WindowUpdate, 0, 0, "\x80\x00\x00\x00"), h2.ProtocolError},
		{"WINDOW_UPDATE of zero for a stream", frame(h2.WindowUpdate, 0, 1, "\x00\x00\x00\x00"), h2.ProtocolError},
		{"WINDOW_UPDATE of the wrong length", frame(h2.WindowUpdate, 0, 1, "\x00\x00\x01"), h2.FrameSizeError},
		{"CONTINUATION without HEADERS", frame(h2.Continuation, h2.FlagEndHeaders, 1, ""), h2.ProtocolError},
		{"CONTINUATION after the end of a block", append(frame(h2.Headers, h2.FlagEndHeaders, 1, ""), frame(h2.Continuation, 4, 1, "")...), h2.ProtocolError},
		{"CONTINUATION of another stream", append(open[:9:9], frame(h2.Continuation, h2.FlagEndHeaders, 3, "")...), h2.ProtocolError},
		{"PING inside a header block", append(open[:9:9], h2.AppendPing(nil, [8]byte{})...), h2.ProtocolError},
		{"an unknown frame inside a header block", append(open[:9:9], frame(0xbe, 0, 1, "")...), h2.ProtocolError},
		{"PRIORITY_UPDATE with a stream", frame(h2.PriorityUpdate, 0, 1, "\x00\x00\x00\x01"), h2.ProtocolError},
		{"PRIORITY_UPDATE for no stream", frame(h2.PriorityUpdate, 0, 0, "\x00\x00\x00\x00"), h2.ProtocolError},
		{"PRIORITY_UPDATE of the wrong length", frame(h2.PriorityUpdate, 0, 0, "\x00\x00\x01"), h2.FrameSizeError},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{1, len(tt.give)} {
				_, err := parseAll(t, new(h2.Parser), tt.give, size)
				var fault *h2.Fault
				require.ErrorAs(t, err, &fault)
				assert.Equal(t, tt.want, fault.Code, fault.Reason)
				assert.False(t, fault.Stream, "a broken frame is a connection error")
			}
		})
	}
}

func TestMaxFrameLimitsTheFrameSize(t *testing.T) {
	b := frame(h2.Data, 0, 1, strings.Repeat("x", 20000))
	_, err := parseAll(t, new(h2.Parser), b, len(b))
	assert.IsType(t, (*h2.Fault)(nil), err)
	_, err = parseAll(t, &h2.Parser{MaxFrame: 20000}, b, len(b))
	assert.ErrorIs(t, err, h2.ErrMore)
}

func TestADATAFrameIsParsedInPiecesThatAreCountedSeparately(t *testing.T) {
	b := frame(h2.Data, h2.FlagPadded|h2.FlagEndStream, 1, "\x02abcd\x00\x00")
	var p h2.Parser
	n, err := p.Parse(b[:12])
	require.NoError(t, err)
	assert.Equal(t, 12, n)
	assert.Equal(t, "ab", string(p.Payload))
	assert.EqualValues(t, 3, p.Counted)
	assert.True(t, p.Begins && !p.Ends && !p.EndStream())

	n, err = p.Parse(b[12:15])
	require.NoError(t, err)
	assert.Equal(t, 3, n)
	assert.Equal(t, "cd", string(p.Payload))
	assert.False(t, p.Begins || p.Ends)

	n, err = p.Parse(b[15:])
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	assert.Empty(t, p.Payload)
	assert.True(t, p.Ends && p.EndStream())
	assert.EqualValues(t, 1, p.Counted)
}

func TestHeaderBlocksAreCutIntoFrames(t *testing.T) {
	for _, size := range []int{0, 1, 9, 10, 11, 20, 29, 30, 31, 95} {
		block := strings.Repeat("0123456789", 10)[:size]
		b := append(h2.OpenHeaders([]byte("before")), block...)
		b = h2.CloseHeaders(b, len("before"), 5, h2.FlagEndStream, 10)
		require.Equal(t, "before", string(b[:6]))
		events, err := parseAll(t, &h2.Parser{MaxFrame: 10}, b[6:], len(b))
		require.ErrorIs(t, err, h2.ErrMore)
		require.Len(t, events, max(1, (size+9)/10))
		got := ""
		for i, e := range events {
			got += e.Payload
			assert.Equal(t, i == 0, e.EndStream)
			assert.Equal(t, i == len(events)-1, e.EndHeaders)
			assert.EqualValues(t, 5, e.Stream)
		}
		assert.Equal(t, block, got)
	}
}

// BenchmarkParse parses the frames of a small request.
func BenchmarkParse(b *testing.B) {
	in := frame(h2.Headers, h2.FlagEndHeaders|h2.FlagEndStream, 1, strings.Repeat("x", 60))
	in = append(in, h2.AppendWindowUpdate(nil, 0, 100)...)
	var p h2.Parser
	b.ReportAllocs()
	for b.Loop() {
		for at := 0; at < len(in); {
			n, err := p.Parse(in[at:])
			if err != nil {
				b.Fatal(err)
			}
			at += n
		}
	}
}

// FuzzFrames compares the Parser with x/net's Framer, and reads of any size
// with one read of everything.
func FuzzFrames(f *testing.F) {
	seed := frame(h2.Headers, 0, 1, "abc")
	seed = append(seed, frame(h2.Continuation, h2.FlagEndHeaders, 1, "d")...)
	seed = append(seed, frame(h2.Data, h2.FlagPadded|h2.FlagEndStream, 1, "\x02hi\x00\x00")...)
	f.Add(seed, uint16(5))
	f.Add(h2.AppendGoAway(h2.AppendWindowUpdate(h2.AppendRSTStream(nil, 1, 8), 1, 9), 3, 2, "x"), uint16(1))
	f.Add(frame(h2.SettingsFrame, 0, 0, "\x00\x04\x7f\xff\xff\xff\x00\x05\x00\x00\x40\x00"), uint16(2))
	f.Add(frame(h2.Priority, 0, 3, "\x00\x00\x00\x01\x10"), uint16(3))
	f.Add(frame(h2.Headers, h2.FlagPadded|h2.FlagPriority, 3, "\x02\x80\x00\x00\x01\xffblock\x00\x00"), uint16(4))
	f.Add(frame(0xbe, 0xff, 9, "grease"), uint16(6))
	const most = 1 << 10 // bytes per payload
	// completes each frame; DATA without a stream ends everything
	end := make([]byte, 2*h2.HeadSize+most)
	f.Fuzz(func(t *testing.T, b []byte, size uint16) {
		b = append(b[:len(b):len(b)], end...)
		events, err := parseAll(t, &h2.Parser{MaxFrame: most}, b, len(b))
		var fault *h2.Fault
		require.ErrorAs(t, err, &fault)
		framer := http2.NewFramer(io.Discard, bytes.NewReader(b))
		framer.SetMaxReadFrameSize(most)
		sameAsFramer(t, framer, events, fault)

		again, err := parseAll(t, &h2.Parser{MaxFrame: most}, b, 1+int(size))
		require.Equal(t, fault, err, "reads of %d bytes have another outcome", 1+size)
		require.Equal(t, whole(events), whole(again))
	})
}

// whole returns the complete frames: the pieces before a fault depend on reads.
func whole(events []event) []event {
	if k := len(events); k > 0 && !events[k-1].ends {
		events = events[:k-1]
	}
	return append([]event{}, events...)
}

// sameAsFramer checks that the Framer finds the same frames, and the same fault
// after them.
func sameAsFramer(t *testing.T, framer *http2.Framer, events []event, fault *h2.Fault) {
	for _, e := range events {
		if !e.ends {
			break
		}
		f, err := framer.ReadFrame()
		require.NoError(t, err, "the Framer refuses %+v", e)
		require.Equal(t, fromFramer(f), e)
	}
	f, err := framer.ReadFrame()
	if err == nil {
		require.True(t, stricter(f, fault), "the Framer takes %v, which is %v", f, fault)
		return
	}
	switch got := codeOf(err); {
	case got == fault.Code, fault.Reason == "PUSH_PROMISE is not allowed":
	case errors.Is(err, io.ErrUnexpectedEOF):
		// a padded frame without its padding length or its priority
		require.Equal(t, h2.FrameSizeError, fault.Code)
	default: // two faults in one frame
		require.ElementsMatch(t, []h2.Code{h2.ProtocolError, h2.FrameSizeError}, []h2.Code{got, fault.Code}, "%v", err)
	}
}

// codeOf returns the code of an error of the Framer.
func codeOf(err error) h2.Code {
	var conn http2.ConnectionError
	var stream http2.StreamError
	switch {
	case errors.As(err, &conn):
		return h2.Code(conn)
	case errors.As(err, &stream):
		return h2.Code(stream.Code)
	case errors.Is(err, http2.ErrFrameTooLarge):
		return h2.FrameSizeError
	}
	return h2.NoError
}

// stricter reports whether there is a reason to refuse a frame that the Framer
// accepts.
func stricter(f http2.Frame, fault *h2.Fault) bool {
	switch f := f.(type) {
	case *http2.PushPromiseFrame:
		return fault.Code == h2.ProtocolError
	case *http2.PriorityFrame:
		return f.StreamDep == f.StreamID && fault.Code == h2.ProtocolError
	case *http2.HeadersFrame:
		return f.HasPriority() && f.Priority.StreamDep == f.StreamID && fault.Code == h2.ProtocolError
	case *http2.SettingsFrame:
		for i := range f.NumSettings() {
			if s := f.Setting(i); s.Valid() != nil || s.ID == http2.SettingNoRFC7540Priorities && s.Val > 1 {
				return fault.Code == h2.ProtocolError || fault.Code == h2.FlowControlError
			}
		}
	}
	return false
}

func fromFramer(f http2.Frame) event {
	h := f.Header()
	e := event{Type: h2.Type(h.Type), Flags: h2.Flags(h.Flags), Stream: h.StreamID, ends: true}
	switch f := f.(type) {
	case *http2.DataFrame:
		e.Payload, e.Counted, e.EndStream = string(f.Data()), h.Length, f.StreamEnded()
	case *http2.HeadersFrame:
		e.Payload, e.EndStream, e.EndHeaders = string(f.HeaderBlockFragment()), f.StreamEnded(), f.HeadersEnded()
	case *http2.ContinuationFrame:
		e.Payload, e.EndHeaders = string(f.HeaderBlockFragment()), f.HeadersEnded()
	case *http2.RSTStreamFrame:
		e.Code = h2.Code(f.ErrCode)
	case *http2.SettingsFrame:
		for i := range f.NumSettings() {
			s := f.Setting(i)
			e.Payload += string(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(nil, uint16(s.ID)), s.Val))
		}
	case *http2.PingFrame:
		e.Payload = string(f.Data[:])
	case *http2.GoAwayFrame:
		e.LastStream, e.Code, e.Payload = f.LastStreamID, h2.Code(f.ErrCode), string(f.DebugData())
	case *http2.WindowUpdateFrame:
		e.Increment = f.Increment
	case *http2.PriorityUpdateFrame:
		e.Payload = f.Priority
	case *http2.UnknownFrame:
		e.Payload = string(f.Payload())
	}
	return e
}
