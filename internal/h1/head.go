package h1

import "bytes"

// A Head is the common part of request and response heads. Its slices point
// into the parsed buffer and are valid as long as that is unchanged.
type Head struct {
	MaxHead int // bytes a head may have; 0 means DefaultMaxHead. Parse never changes it.

	Fields        []Field // all fields, in order; the next Parse reuses the slice
	Minor         int     // minor version: 0, or 1 for any later one
	ContentLength int64   // -1 if there is none
	Chunked       bool    // Transfer-Encoding: chunked
	Close         bool    // Connection names close
	KeepAlive     bool    // Connection names keep-alive
	Nominates     bool    // Connection names other options: fields to drop, or upgrade

	digits  int  // number of digits of the Content-Length
	codings int  // number of transfer codings
	garbled bool // Transfer-Encoding is not a list with chunked once, at the end
	scanned int  // bytes of an incomplete head in which the end was already searched
}

// Value returns the value of the first field with that name, which must be in
// lower case, and whether there is one.
func (h *Head) Value(name string) ([]byte, bool) {
	for i := range h.Fields {
		if equalFold(h.Fields[i].Name, name) {
			return h.Fields[i].Value, true
		}
	}
	return nil, false
}

// Reset prepares for another message. It is needed only if a Parse that
// returned ErrMore is not continued. It keeps MaxHead and the memory of Fields.
func (h *Head) Reset() { h.scanned = 0; h.clear() }

func (h *Head) clear() {
	*h = Head{MaxHead: h.MaxHead, Fields: h.Fields[:0], ContentLength: -1, scanned: h.scanned}
}

func (h *Head) max() int {
	if h.MaxHead > 0 {
		return h.MaxHead
	}
	return DefaultMaxHead
}

// ripe reports whether b is worth parsing. It is false only for a head that was
// incomplete and still is. It searches each byte once, so a head that arrives
// byte by byte costs linear time.
func (h *Head) ripe(b []byte) bool {
	if h.scanned == 0 || h.scanned > len(b) || len(b) >= h.max() {
		return true
	}
	for i := h.scanned; ; i++ {
		j := bytes.IndexByte(b[i:], '\n')
		if j < 0 {
			h.scanned = len(b)
			return false
		}
		i += j
		if i == 0 || b[i-1] != '\r' || i >= 3 && b[i-2] == '\n' {
			return true
		}
	}
}

// done notes the outcome of a parse for ripe.
func (h *Head) done(b []byte, err error) {
	h.scanned = 0
	if err == ErrMore {
		h.scanned = len(b)
	}
}

// line returns the line that starts at b[i], without its CRLF, and the index
// after it.
func (h *Head) line(b []byte, i int) ([]byte, int, error) {
	j := bytes.IndexByte(b[i:], '\n')
	switch {
	case j < 0 && len(b) >= h.max(), i+j >= h.max():
		return nil, 0, errHeadSize
	case j < 0:
		return nil, 0, ErrMore
	case j == 0 || b[i+j-1] != '\r':
		return nil, 0, errBareLF
	}
	return b[i : i+j-1], i + j + 1, nil
}

// version parses "HTTP/1.0" to "HTTP/1.9". Unknown minor versions are processed
// as HTTP/1.1 (RFC 9110, 2.5).
func (h *Head) version(v []byte) bool {
	const major = "HTTP/1."
	if len(v) != len(major)+1 || string(v[:len(major)]) != major || v[len(major)]-'0' > 9 {
		return false
	}
	h.Minor = 1
	if v[len(major)] == '0' {
		h.Minor = 0
	}
	return true
}

// parseField splits one field line.
func parseField(line []byte) (Field, error) {
	k := 0
	for k < len(line) && class[line[k]]&tokenByte != 0 {
		k++
	}
	if k == 0 || k == len(line) || line[k] != ':' {
		return Field{}, fieldFault(line, k)
	}
	f := Field{Name: line[:k:k], Value: trim(line[k+1:])}
	if !validValue(f.Value) {
		return Field{}, errValue
	}
	return f, nil
}

// fieldFault returns the fault of a line whose name ends at k.
func fieldFault(line []byte, k int) error {
	switch space := k < len(line) && (line[k] == ' ' || line[k] == '\t'); {
	case space && k == 0:
		return errFold
	case space:
		return errColonSpace
	default:
		return errName
	}
}

// contentLength notes a Content-Length line. The caller decides whether lines
// may repeat the same value.
func (h *Head) contentLength(v []byte) error {
	n, ok := parseSize(v)
	if !ok {
		return errLength
	}
	if h.ContentLength >= 0 && (h.ContentLength != n || h.digits != len(v)) { // 05 repeats no 5
		return errLengths
	}
	h.ContentLength, h.digits = n, len(v)
	return nil
}

// transferEncoding notes a Transfer-Encoding line. framingFault judges all
// lines together.
func (h *Head) transferEncoding(v []byte) {
	for more := true; more; h.codings++ {
		coding := v
		i := bytes.IndexByte(v, ',')
		if more = i >= 0; more {
			coding, v = v[:i], v[i+1:]
		}
		coding = trim(coding)
		h.garbled = h.garbled || h.Chunked || !ValidToken(coding)
		h.Chunked = equalFold(coding, "chunked")
	}
}

// connection notes a Connection line.
func (h *Head) connection(v []byte) {
	for len(v) > 0 {
		token := v
		if i := bytes.IndexByte(v, ','); i >= 0 {
			token, v = v[:i], v[i+1:]
		} else {
			v = nil
		}
		switch token = trim(token); {
		case len(token) == 0:
		case equalFold(token, "close"):
			h.Close = true
		case equalFold(token, "keep-alive"):
			h.KeepAlive = true
		default:
			h.Nominates = true
		}
	}
}

// framingFault returns a fault if two readers might disagree on where the
// message ends (RFC 9112, 6.1 and 11.2), or if a coding is unknown.
func (h *Head) framingFault() error {
	switch {
	case h.codings > 0 && h.ContentLength >= 0:
		return errLengthCoded
	case h.codings > 0 && h.Minor == 0:
		return errCoding10
	case h.codings > 0 && (h.garbled || !h.Chunked):
		return errCoding
	case h.codings > 1:
		return errCodings
	}
	return nil
}

// persistent reports whether the sender of the head keeps its connection open
// (RFC 9112, 9.3).
func (h *Head) persistent() bool {
	return !h.Close && (h.Minor == 1 || h.KeepAlive)
}
