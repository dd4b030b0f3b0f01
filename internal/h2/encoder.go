package h2

import (
	"strconv"

	"github.com/hostproxy/hostproxy/internal/h1"
)

// text is the type of names and values.
type text interface{ ~string | ~[]byte }

// An Encoder encodes the header blocks for one connection. The zero value is
// ready for use. Blocks must be sent in the order in which they were begun.
//
// It uses no dynamic table, and so is valid for any SETTINGS_HEADER_TABLE_SIZE
// of the peer, and no Huffman code: both cost time, and neither made a
// measurable difference. Names of the static table take one byte.
type Encoder struct{ begun bool }

// AppendResponse begins the header block of a response, with its status and
// valid fields. AppendField can append more.
//
// Names are sent in lower case. Connection-specific fields are left out.
func (e *Encoder) AppendResponse(dst []byte, status int, fields []h1.Field) []byte {
	return appendFields(appendStatus(e.begin(dst), status), fields)
}

// AppendTrailers appends the header block of a trailer section.
func (e *Encoder) AppendTrailers(dst []byte, fields []h1.Field) []byte {
	return appendFields(e.begin(dst), fields)
}

// begin begins a header block. The first block of a connection sets the table
// size to 0. Then no change of the peer's setting requires another update (RFC
// 9113, 4.3.1).
func (e *Encoder) begin(dst []byte) []byte {
	if e.begun {
		return dst
	}
	e.begun = true
	return append(dst, 0x20)
}

func appendStatus(dst []byte, status int) []byte {
	for i := indexStatus; statics[i].name == ":status"; i++ {
		if v := statics[i].value; int(v[0]-'0')*100+int(v[1]-'0')*10+int(v[2]-'0') == status {
			return append(dst, 0x80|byte(i))
		}
	}
	return append(dst, indexStatus, 3, '0'+byte(status/100), '0'+byte(status/10%10), '0'+byte(status%10))
}

func appendFields(dst []byte, fields []h1.Field) []byte {
	for i := range fields {
		dst = AppendField(dst, fields[i].Name, fields[i].Value)
	}
	return dst
}

// AppendField appends a field to a header block. Name and value must be valid.
// Blanks around the value are dropped, and so are connection-specific fields.
func AppendField[N, V text](dst []byte, name N, value V) []byte {
	if len(name) == 0 {
		return dst
	}
	class := classify(name)
	if class&unsendable != 0 {
		return dst
	}
	first := byte(0) // literal without indexing (RFC 7541, 6.2.2)
	if class&secret != 0 {
		first = 0x10 // literal never indexed
	}
	dst = appendInteger(dst, first, 4, int(class&indexMask))
	if class&indexMask == 0 {
		dst = appendInteger(dst, 0, 7, len(name))
		for i := range len(name) {
			dst = append(dst, lower(name[i]))
		}
	}
	for len(value) > 0 && blank(value[0]) {
		value = value[1:]
	}
	for len(value) > 0 && blank(value[len(value)-1]) {
		value = value[:len(value)-1]
	}
	return append(appendInteger(dst, 0, 7, len(value)), value...)
}

// AppendContentLength appends a Content-Length field to a header block.
func AppendContentLength(dst []byte, n int64) []byte {
	dst = appendInteger(dst, 0, 4, indexContentLength)
	at := len(dst)
	dst = strconv.AppendInt(append(dst, 0), n, 10) // at most 19 digits
	dst[at] = byte(len(dst) - at - 1)
	return dst
}

// AppendDate appends a Date field to a header block.
func AppendDate[V text](dst []byte, date V) []byte {
	dst = appendInteger(dst, 0, 4, indexDate)
	return append(appendInteger(dst, 0, 7, len(date)), date...)
}

// appendInteger appends n after the bits of first above prefix (RFC 7541, 5.1).
func appendInteger(dst []byte, first byte, prefix uint8, n int) []byte {
	mask := 1<<prefix - 1
	if n < mask {
		return append(dst, first|byte(n))
	}
	dst = append(dst, first|byte(mask))
	for n -= mask; n >= 0x80; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(dst, byte(n))
}

func blank(c byte) bool { return c == ' ' || c == '\t' }
