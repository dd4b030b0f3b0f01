package routes

import (
	"bytes"
	"strings"
)

// Hot path: isNormal is one pass without allocation. Paths that fail it are
// rare, and their readings fit a buffer on the stack unless they are long.

// plain has the bytes that stand for themselves in a path: unreserved,
// sub-delims, ':', '@' and '/' (RFC 3986, 3.3). Read-only.
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

// isNormal reports whether certainly all servers read a path alike. It is
// empty, or begins with a slash and has only plain bytes, no parameters, no
// empty segments, and no segments that begin with a dot.
func isNormal(path string) bool {
	if path != "" && path[0] != '/' {
		return false
	}
	for i := range len(path) {
		if !plain[path[i]] || path[i] == ';' {
			return false
		}
		if path[i] == '/' && i+1 < len(path) && (path[i+1] == '/' || path[i+1] == '.') {
			return false
		}
	}
	return true
}

// A reading is one way in which a server understands a path. Each bit is a step
// that some servers take and others do not. Zero takes the bytes as they are.
type reading uint8

const (
	decodes reading = 1 << iota // decodes escapes once, except those of slashes
	// also decodes escapes of slashes, which then separate segments; only with
	// decodes
	slashes
	backslashes // reads a backslash as a slash
	// drops parameters, from ";" to the next slash, before decoding
	cuts
	strips // drops parameters after decoding
	merges // drops empty segments
	dots   // resolves dot segments

	// the reading in which patterns are written
	plainly = decodes | slashes | backslashes | cuts | strips | merges | dots
)

// readings returns the bits that may change how path is understood, since a
// byte of it gives a reason for them.
func readings(path string) (r reading) {
	for start := true; path != ""; { // start of a segment, in some reading
		raw := path[0]
		var c byte
		c, path = next(path)
		switch {
		case c == '/' && raw == '%':
			r |= slashes
		case c == '\\':
			r |= backslashes
		case c == ';':
			r |= strips
		case c == '.' && start:
			r |= dots
		}
		switch {
		case raw == '%', !plain[c] && c != '\\':
			r |= decodes
		case raw == ';':
			r |= cuts
		}
		if start && (c == '/' || c == '\\' || c == ';') {
			r |= merges
		}
		start = c == '/' || c == '\\'
	}
	if r&(slashes|backslashes) == 0 {
		r &^= cuts // then cuts and strips do the same
	}
	return r
}

// append appends the path to b, which is empty, as the reading understands it.
// If the reading decodes, it writes the path like patterns: plain bytes as they
// are, all others as escapes in upper case. The work is linear.
func (r reading) append(b []byte, path string) []byte {
	b = append(b, '/')
	path = strings.TrimPrefix(path, "/")
	for skips := false; path != ""; {
		raw := path[0]
		c := raw
		if r&decodes != 0 {
			c, path = next(path)
		} else {
			path = path[1:]
		}
		switch {
		case c == '/' && (raw == '/' || r&slashes != 0), c == '\\' && r&backslashes != 0:
			b, skips = r.endSegment(b, "/"), false
		case skips:
		case raw == ';' && r&cuts != 0:
			path = fromSlash(path)
		case c == ';' && r&strips != 0:
			skips = true
		case r&decodes == 0 || plain[c] && c != '/':
			b = append(b, c)
		default:
			const digits = "0123456789ABCDEF"
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	return r.endSegment(b, "")
}

// next returns the first byte of a path, decoded if it is a valid escape, and
// the rest.
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

// fromSlash returns the rest of a path from its first slash on.
func fromSlash(path string) string {
	if i := strings.IndexByte(path, '/'); i >= 0 {
		return path[i:]
	}
	return ""
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

// endSegment ends the last segment of b with end, which is a slash or empty. If
// the segment is empty or a dot segment, the reading may remove it instead.
func (r reading) endSegment(b []byte, end string) []byte {
	start := bytes.LastIndexByte(b, '/') + 1
	switch name := b[start:]; {
	case len(name) == 0 && r&merges != 0:
		return b
	case string(name) == "." && r&dots != 0:
		return b[:start]
	case string(name) == ".." && r&dots != 0:
		return b[:max(1, bytes.LastIndexByte(b[:start-1], '/')+1)]
	}
	return append(b, end...)
}
