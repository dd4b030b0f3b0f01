package h1

import "strconv"

// bytesOrString is the type of arguments to append.
type bytesOrString interface{ ~string | ~[]byte }

// AppendRequestLine appends "method target HTTP/1.1". Bytes that a target must
// not contain are percent-encoded. Bytes that a method must not contain become
// "?", which every server refuses.
func AppendRequestLine[M, T bytesOrString](dst []byte, method M, target T) []byte {
	for i := range len(method) {
		dst = append(dst, pick(class[method[i]]&tokenByte != 0, method[i], '?'))
	}
	dst = append(dst, ' ')
	const hex = "0123456789ABCDEF"
	for i := range len(target) {
		if c := target[i]; class[c]&targetByte != 0 {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		}
	}
	return append(dst, " HTTP/1.1\r\n"...)
}

// AppendStatusLine appends "HTTP/1.1 status reason". Control bytes in the
// reason become spaces.
func AppendStatusLine[R bytesOrString](dst []byte, status int, reason R) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, ' ')
	dst = appendValue(dst, reason)
	return append(dst, "\r\n"...)
}

// AppendField appends the line "name: value". Control bytes in the value except
// HTAB become spaces. If the name is not a token, nothing is appended.
func AppendField[N, V bytesOrString](dst []byte, name N, value V) []byte {
	if !ValidToken(name) {
		return dst
	}
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = appendValue(dst, value)
	return append(dst, "\r\n"...)
}

// AppendFields appends the lines of fields that are known to be valid.
func AppendFields(dst []byte, fields []Field) []byte {
	for i := range fields {
		dst = append(dst, fields[i].Name...)
		dst = append(dst, ": "...)
		dst = append(dst, fields[i].Value...)
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// AppendContentLength appends a Content-Length line.
func AppendContentLength(dst []byte, n int64) []byte {
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, "\r\n"...)
}

// AppendChunkHeader appends the line before n bytes of data, which "\r\n" must
// follow. n must be positive: zero would end the body.
func AppendChunkHeader(dst []byte, n int) []byte {
	dst = strconv.AppendUint(dst, uint64(n), 16)
	return append(dst, "\r\n"...)
}

// AppendLastChunk appends the end of a chunked body with its trailers, if any.
func AppendLastChunk(dst []byte, trailers []Field) []byte {
	dst = append(dst, "0\r\n"...)
	for _, f := range trailers {
		dst = AppendField(dst, f.Name, f.Value)
	}
	return append(dst, "\r\n"...)
}

func appendValue[V bytesOrString](dst []byte, v V) []byte {
	start := len(dst)
	dst = append(dst, v...)
	if tail := dst[start:]; !validValue(tail) {
		for i, c := range tail {
			tail[i] = pick(!badValueByte(c), c, ' ')
		}
	}
	return dst
}

func pick(ok bool, c, instead byte) byte {
	if ok {
		return c
	}
	return instead
}
