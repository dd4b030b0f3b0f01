package header

import "net/netip"

// parseNode reads an address with or without a port: "192.0.2.1",
// "192.0.2.1:80", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:80". An IPv6
// zone is dropped.
func parseNode[T Text](s T) (netip.Addr, bool) {
	if len(s) == 0 || len(s) > maxNode {
		return netip.Addr{}, false
	}
	if s[0] == '[' {
		end := indexByte(s, ']')
		if end < 0 || !validPort(s[end+1:]) {
			return netip.Addr{}, false
		}
		return parseIPv6(s[1:end])
	}
	colon := indexByte(s, ':')
	if colon < 0 {
		return parseIPv4(s)
	}
	if indexByte(s[colon+1:], ':') >= 0 {
		return parseIPv6(s)
	}
	if !validPort(s[colon:]) {
		return netip.Addr{}, false
	}
	return parseIPv4(s[:colon])
}

// validPort reports whether s is empty or a colon and a port.
func validPort[T Text](s T) bool {
	if len(s) == 0 {
		return true
	}
	if s[0] != ':' || len(s) < 2 || len(s) > len(":65535") {
		return false
	}
	port := 0
	for i := 1; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		port = port*10 + int(s[i]-'0')
	}
	return port <= 65535
}

// parseIPv4 reads four decimal octets without leading zeros. [netip.ParseAddr]
// does that too, but its error keeps the string, so each call with bytes would
// allocate.
func parseIPv4[T Text](s T) (netip.Addr, bool) {
	var octets [4]byte
	for n := range octets {
		end := 0
		value := 0
		for end < len(s) && end < 3 && '0' <= s[end] && s[end] <= '9' {
			value = value*10 + int(s[end]-'0')
			end++
		}
		if end == 0 || value > 255 || end > 1 && s[0] == '0' {
			return netip.Addr{}, false
		}
		octets[n] = byte(value)
		s = s[end:]
		if n == 3 {
			break
		}
		if len(s) == 0 || s[0] != '.' {
			return netip.Addr{}, false
		}
		s = s[1:]
	}
	if len(s) > 0 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4(octets), true
}

// parseIPv6 reads an IPv6 address (RFC 4291, 2.2), drops its zone, and unmaps
// an IPv4-mapped one.
func parseIPv6[T Text](s T) (netip.Addr, bool) {
	if zone := indexByte(s, '%'); zone >= 0 {
		if zone == len(s)-1 {
			return netip.Addr{}, false
		}
		s = s[:zone]
	}
	var (
		ip   [16]byte
		n    int  // bytes of ip that are set
		gap  = -1 // position of "::" in ip
		tail bool // an IPv4 tail was read
	)
	if len(s) >= 2 && s[0] == ':' && s[1] == ':' {
		gap, s = 0, s[2:]
	}
	for len(s) > 0 && n < len(ip) && !tail {
		var ok bool
		if s, n, tail, ok = parseGroup(s, &ip, n); !ok {
			return netip.Addr{}, false
		}
		if len(s) == 0 {
			break
		}
		if s = s[1:]; len(s) == 0 { // the colon that parseGroup left
			return netip.Addr{}, false
		}
		if s[0] == ':' {
			if gap >= 0 {
				return netip.Addr{}, false
			}
			gap, s = n, s[1:]
		}
	}
	if len(s) > 0 || (gap < 0) != (n == len(ip)) {
		return netip.Addr{}, false
	}
	if gap >= 0 {
		copy(ip[gap+len(ip)-n:], ip[gap:n])
		clear(ip[gap : gap+len(ip)-n])
	}
	return netip.AddrFrom16(ip).Unmap(), true
}

// parseGroup reads one group of hex digits, or an IPv4 tail, into ip at n. The
// rest is empty or begins with a colon.
func parseGroup[T Text](s T, ip *[16]byte, n int) (rest T, next int, tail, ok bool) {
	value, end := 0, 0
	for end < len(s) && end < 4 {
		digit := unhex(s[end])
		if digit < 0 {
			break
		}
		value, end = value<<4|digit, end+1
	}
	if end > 0 && end < len(s) && s[end] == '.' {
		v4, ok := parseIPv4(s)
		if !ok || n > len(ip)-4 {
			return s, n, false, false
		}
		octets := v4.As4()
		copy(ip[n:], octets[:])
		return s[len(s):], n + 4, true, true
	}
	if end == 0 || end < len(s) && s[end] != ':' {
		return s, n, false, false
	}
	ip[n], ip[n+1] = byte(value>>8), byte(value)
	return s[end:], n + 2, false, true
}

// unhex returns the value of a hexadecimal digit, or -1.
func unhex(b byte) int {
	switch {
	case '0' <= b && b <= '9':
		return int(b - '0')
	case 'a' <= b && b <= 'f':
		return int(b-'a') + 10
	case 'A' <= b && b <= 'F':
		return int(b-'A') + 10
	}
	return -1
}

// indexByte returns the position of the first b in s, or -1.
func indexByte[T Text](s T, b byte) int {
	for i := range len(s) {
		if s[i] == b {
			return i
		}
	}
	return -1
}
