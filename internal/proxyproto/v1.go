package proxyproto

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"
)

// Parts of a header of version 1: its beginning, its end, and a family.
const (
	prefix  = "PROXY "
	lineEnd = "\r\n"
	unknown = "UNKNOWN"
)

// fields is the number of fields of a TCP line: PROXY, the family, two
// addresses and two ports.
const fields = 6

// missingV1 is Missing for bytes after the whole prefix.
func missingV1(b []byte) (int, error) {
	end := bytes.IndexByte(b, '\r')
	if lf := bytes.IndexByte(b, '\n'); lf >= 0 && lf != end+1 {
		return 0, ErrLine
	}
	n := 0
	switch {
	case end < 0:
		n = leastV1(b)
	case end == len(b)-1:
		n = 1
	case string(b[end:]) != lineEnd:
		return 0, ErrLine
	}
	if len(b)+n > MaxV1 {
		return 0, ErrLong
	}
	return n, nil
}

// leastV1 is missingV1 for a line whose end has not begun.
func leastV1(b []byte) int {
	n := len(lineEnd)
	if b[len(prefix)] != unknown[0] { // anything may follow UNKNOWN
		n += 2 * max(fields-1-bytes.Count(b, []byte{' '}), 0) // a space and at least one byte each
		if b[len(b)-1] == ' ' {
			n++
		}
	}
	return max(n, minLen-len(b))
}

// parseV1 parses a whole line. IPv6 addresses may have any spelling. Everything
// else has only one.
func parseV1(line string) (Header, error) {
	line = strings.TrimSuffix(line, lineEnd)
	if rest, ok := strings.CutPrefix(line, prefix+unknown); ok && (rest == "" || rest[0] == ' ') {
		return Header{}, nil
	}
	part := strings.Split(line, " ")
	if len(part) != fields || part[1] != "TCP4" && part[1] != "TCP6" {
		return Header{}, ErrLine
	}
	v4 := part[1] == "TCP4"
	src, ok1 := parseAddr(part[2], part[4], v4)
	dst, ok2 := parseAddr(part[3], part[5], v4)
	if !ok1 || !ok2 {
		return Header{}, ErrAddress
	}
	return Header{Kind: TCP, Source: src, Destination: dst}, nil
}

func parseAddr(addr, port string, v4 bool) (netip.AddrPort, bool) {
	a, err := netip.ParseAddr(addr)
	n, bad := strconv.ParseUint(port, 10, 16)
	ok := err == nil && bad == nil && a.Is4() == v4 && a.Zone() == "" && port == strconv.FormatUint(n, 10)
	return netip.AddrPortFrom(a, uint16(n)), ok
}

// AppendV1 appends h as a header of version 1. Kinds other than TCP are
// UNKNOWN.
func AppendV1(b []byte, h Header) []byte {
	b = append(b, prefix...)
	switch {
	case h.Kind != TCP:
		return append(b, unknown+lineEnd...)
	case h.Source.Addr().Is4():
		b = append(b, "TCP4 "...)
	default:
		b = append(b, "TCP6 "...)
	}
	b = append(h.Source.Addr().AppendTo(b), ' ')
	b = append(h.Destination.Addr().AppendTo(b), ' ')
	b = append(strconv.AppendUint(b, uint64(h.Source.Port()), 10), ' ')
	return append(strconv.AppendUint(b, uint64(h.Destination.Port()), 10), lineEnd...)
}
