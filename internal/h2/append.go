package h2

import "encoding/binary"

// AppendHead appends the head of a frame with a payload of n bytes.
func AppendHead(dst []byte, t Type, flags Flags, stream uint32, n int) []byte {
	return append(dst, byte(n>>16), byte(n>>8), byte(n), byte(t), byte(flags),
		byte(stream>>24), byte(stream>>16), byte(stream>>8), byte(stream))
}

// PutHead writes the head of a frame to the first HeadSize bytes of b.
func PutHead(b []byte, t Type, flags Flags, stream uint32, n int) {
	AppendHead(b[:0:HeadSize], t, flags, stream, n)
}

// AppendSettingsAck appends the acknowledgement of a SETTINGS.
func AppendSettingsAck(dst []byte) []byte { return AppendHead(dst, SettingsFrame, FlagAck, 0, 0) }

// AppendPing appends a PING, which the peer answers with the same data.
func AppendPing(dst []byte, data [8]byte) []byte {
	return append(AppendHead(dst, Ping, 0, 0, len(data)), data[:]...)
}

// AppendPingAck appends the acknowledgement of a PING with that payload.
func AppendPingAck(dst, payload []byte) []byte {
	return append(AppendHead(dst, Ping, FlagAck, 0, len(payload)), payload...)
}

// AppendWindowUpdate appends a WINDOW_UPDATE for a stream, or for the
// connection if stream is 0. The increment is 1 to 2^31-1.
func AppendWindowUpdate(dst []byte, stream, increment uint32) []byte {
	return binary.BigEndian.AppendUint32(AppendHead(dst, WindowUpdate, 0, stream, 4), increment)
}

// AppendRSTStream appends a RST_STREAM.
func AppendRSTStream(dst []byte, stream uint32, code Code) []byte {
	return binary.BigEndian.AppendUint32(AppendHead(dst, RSTStream, 0, stream, 4), uint32(code))
}

// AppendGoAway appends a GOAWAY. last is the last stream that is served, and
// reason is the debug data.
func AppendGoAway(dst []byte, last uint32, code Code, reason string) []byte {
	dst = AppendHead(dst, GoAway, 0, 0, 8+len(reason))
	dst = binary.BigEndian.AppendUint32(dst, last)
	dst = binary.BigEndian.AppendUint32(dst, uint32(code))
	return append(dst, reason...)
}

// OpenHeaders appends room for the head of a HEADERS frame. Append the header
// block to it, and call CloseHeaders with the length that dst had before.
func OpenHeaders(dst []byte) []byte { return AppendHead(dst, Headers, 0, 0, 0) }

// CloseHeaders makes frames of the header block that follows the room at
// dst[start]: HEADERS, and CONTINUATION after the first most bytes. most is the
// peer's SETTINGS_MAX_FRAME_SIZE. The caller may set FlagEndStream only.
func CloseHeaders(dst []byte, start int, stream uint32, flags Flags, most int) []byte {
	size := len(dst) - start - HeadSize
	if size <= most {
		PutHead(dst[start:], Headers, flags|FlagEndHeaders, stream, size)
		return dst
	}
	PutHead(dst[start:], Headers, flags, stream, most)
	more := (size - 1) / most // CONTINUATION frames
	for range more {
		dst = append(dst, make([]byte, HeadSize)...)
	}
	flags = FlagEndHeaders
	for i := more; i > 0; i-- { // the last one is moved first
		from := start + HeadSize + i*most
		n := min(most, size-i*most)
		to := from + i*HeadSize
		copy(dst[to:to+n], dst[from:from+n])
		PutHead(dst[to-HeadSize:], Continuation, flags, stream, n)
		flags = 0
	}
	return dst
}
