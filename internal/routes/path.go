package routes

import "bytes"

// Hot path: isNormal is one pass without allocation. A path that fails it is rare, and its normal form fits a buffer on
// the stack unless somebody makes it long.

// plain tells the bytes that stand for themselves in a path: unreserved, sub-delims, ':', '@' and '/' (RFC 3986, 3.3).
// Read-only.
var plain = [256]bool{
	'!': true, '$': true, '&': true, '\'': true, '(': true, ')': true, '*': true, '+': true, ',': true, '-': true, '.': true, '/': true,
	'0': true, '1': true, '2': true, '3': true, '4': true, '5': true, '6': true, '7': true, '8': true, '9': true, ':': true, ';': true,
	'=': true, '@': true, '_': true, '~': true,
	'A': true, 'B': true, 'C': true, 'D': true, 'E': true, 'F': true, 'G': true, 'H': true, 'I': true, 'J': true, 'K': true, 'L': true,
	'M': true, 'N': true, 'O': true, 'P': true, 'Q': true, 'R': true, 'S': true, 'T': true, 'U': true, 'V': true, 'W': true, 'X': true,
	'Y': true, 'Z': true,
	'a': true, 'b': true, 'c': true, 'd': true, 'e': true, 'f': true, 'g': true, 'h': true, 'i': true, 'j': true, 'k': true, 'l': true,
	'm': true, 'n': true, 'o': true, 'p': true, 'q': true, 'r': true, 's': true, 't': true, 'u': true, 'v': true, 'w': true, 'x': true,
	'y': true, 'z': true,
}

// isNormal reports whether a path is certainly its own normal form: only plain bytes, no empty segment, none that
// begins with a dot, a slash at the start. The empty path is, too.
func isNormal(path string) bool {
	if path != "" && path[0] != '/' {
		return false
	}
	for i := range len(path) {
		if !plain[path[i]] {
			return false
		}
		if path[i] == '/' && i+1 < len(path) && (path[i+1] == '/' || path[i+1] == '.') {
			return false
		}
	}
	return true
}

// appendNormal appends to b, which is empty, the path as an upstream may understand it that decodes escapes once, takes
// a backslash for a slash, merges slashes and resolves dot segments, those with parameters included ("..;x"). It is
// spelled as patterns are: plain bytes as they are, all others as escapes in upper case. The work is linear.
func appendNormal(b []byte, path string) []byte {
	b = append(b, '/')
	for path != "" {
		var c byte
		c, path = next(path)
		switch {
		case c == '/' || c == '\\':
			b = endSegment(b, "/")
		case plain[c]:
			b = append(b, c)
		default:
			const digits = "0123456789ABCDEF"
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	return endSegment(b, "")
}

// next returns the first byte of a path, decoded if it is a valid escape, and what follows.
func next(path string) (byte, string) {
	if len(path) > 2 && path[0] == '%' {
		high, ok := unhex(path[1])
		low, ok2 := unhex(path[2])
		if ok && ok2 {
			return high<<4 | low, path[3:]
		}
	}
	return path[0], path[1:]
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

// endSegment ends the last segment of b with a slash or with nothing, or removes what it resolves to.
func endSegment(b []byte, end string) []byte {
	start := bytes.LastIndexByte(b, '/') + 1
	name, _, _ := bytes.Cut(b[start:], []byte{';'})
	switch string(name) {
	case "":
		if len(b) == start {
			return b
		}
	case ".":
		return b[:start]
	case "..":
		return b[:max(1, bytes.LastIndexByte(b[:start-1], '/')+1)]
	}
	return append(b, end...)
}
