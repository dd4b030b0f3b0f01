package header

import (
	"net/http"
	"net/netip"
	"slices"
)

// A Hop describes the connection of a request for the forwarding fields.
type Hop struct {
	Peer    Peer
	Client  netip.Addr // from ClientIP; invalid if unknown
	Scheme  string     // of the peer's connection: "http" or "https"
	Version string     // of the peer's HTTP, for Via: "1.1", "2.0"
	Name    string     // the proxy's name in Via; "" means no Via
	Trusted bool       // Peer.TrustedBy: the peer's forwarding fields are kept
	RFC7239 bool       // add Forwarded too
	ID      RequestID  // replaces the peer's own
	// part of the path that the upstream does not see; "" if it sees the whole
	// path
	Prefix string

	Set []Replacement // replace the peer's own
}

// A RequestID is a header with the identifier of a request. The zero value
// means none.
type RequestID struct{ Name, Value string }

// Received has the values of a peer's forwarding fields. The zero value is
// empty. For and Prefix keep their memory across Reset.
type Received[T Text] struct {
	For    []T // the X-Forwarded-For values, in order
	Prefix []T // the X-Forwarded-Prefix values, in order

	proto, host   T
	protos, hosts int
}

// Note keeps the value of a field of class c if it is a forwarding field that
// the proxy uses.
//
// Hot path: no allocation once For and Prefix have room.
func (r *Received[T]) Note(c Class, value T) {
	switch {
	case c&ForwardedFor != 0:
		r.For = append(r.For, value)
	case c&ForwardedProto != 0:
		r.proto = value
		r.protos++
	case c&ForwardedHost != 0:
		r.host = value
		r.hosts++
	case c&ForwardedPrefix != 0:
		r.Prefix = append(r.Prefix, value)
	}
}

// Reset removes all values, but keeps the memory.
func (r *Received[T]) Reset() {
	clear(r.For)
	clear(r.Prefix)
	*r = Received[T]{For: r.For[:0], Prefix: r.Prefix[:0]}
}

// Scheme returns the client's scheme that a trusted peer has sent, "https" or
// "http", or otherwise scheme.
func (r *Received[T]) Scheme(scheme string) string {
	switch r.saidProto() {
	case "https", "wss":
		return "https"
	case "http", "ws":
		return "http"
	}
	return scheme
}

// Host returns the client's host that a trusted peer has sent, or otherwise
// host.
func (r *Received[T]) Host(host T) T {
	if r.hosts == 1 {
		if said := trim(r.host); plausibleHost(said) {
			return said
		}
	}
	return host
}

// saidProto returns the X-Forwarded-Proto if it is a single valid one, or "".
func (r *Received[T]) saidProto() string {
	if r.protos == 1 {
		said := trim(r.proto)
		for _, scheme := range [...]string{"https", "http", "wss", "ws"} {
			if EqualFold(said, scheme) {
				return scheme
			}
		}
	}
	return ""
}

// Drops reports whether a request field of class c is not copied to the
// upstream: hop-by-hop and framing fields, aliases, all forwarding fields of an
// untrusted peer, and those of a trusted peer that [AppendForwarded] writes
// anew.
func (p *Hop) Drops(c Class) bool {
	switch {
	case c&(HopByHop|Framing|Alias) != 0:
		return true
	case c&Forwarding == 0:
		return false
	}
	return !p.Trusted || c&Rewritten != 0 || c&ForwardedPrefix != 0 && p.Prefix != ""
}

// SetForwarded replaces the forwarding fields of an outgoing request by the
// proxy's. It drops the peer's fields, including aliases and unknown
// X-Forwarded-* fields; a trusted peer's unknown ones stay. Then it sets, where
// known:
//
//   - X-Forwarded-For: a trusted peer's list, then the peer;
//   - X-Forwarded-Proto, X-Forwarded-Host: a trusted peer's single valid value,
//     otherwise the hop's scheme and host;
//   - X-Forwarded-Prefix, with p.Prefix: a trusted peer's list, then that
//     prefix;
//   - X-Real-Ip: the client;
//   - Forwarded (RFC 7239), with p.RFC7239: the client with that host and
//     proto, then the peer. An incoming Forwarded is never used, so that the
//     two families cannot disagree;
//   - Via, appended to existing values.
//
// host is the request's Host as received; it is left out if it has bytes that
// no host has. SetForwarded replaces values in h, but does not write to the
// slices in it.
func SetForwarded(h http.Header, p *Hop, host string) {
	var received Received[string]
	for name, values := range h {
		c := Classify(name)
		for _, value := range values {
			if p.Trusted {
				received.Note(c, value)
			}
		}
		if c&(Forwarding|Alias) != 0 && p.Drops(c) {
			delete(h, name)
		}
	}
	var scratch [256]byte
	f := forwarded[string]{hop: p, host: host, received: &received}
	all, ends := scratch[:0], [fieldCount]int{}
	for i := range ourFields {
		all = f.appendValue(all, ourField(i))
		ends[i] = len(all)
	}
	text, start, lines := string(all), 0, make([]string, fieldCount)
	for i, end := range ends {
		if start == end {
			continue
		}
		name := ourFields[i]
		if lines[i] = text[start:end]; ourField(i) == ourVia && len(h[name]) > 0 {
			h[name] = append(slices.Clip(h[name]), lines[i])
		} else {
			h[name] = lines[i : i+1 : i+1]
		}
		start = end
	}
}

// AppendForwarded appends the fields that [SetForwarded] sets as header lines,
// each with its CRLF. received has the values that the caller noted from the
// request, and may be nil; it is used only from a trusted peer. No line has a
// control byte from the peer.
//
// Hot path: no allocation once dst has room.
func AppendForwarded[T Text](dst []byte, p *Hop, host T, received *Received[T]) []byte {
	if received == nil {
		received = new(Received[T])
	}
	f := forwarded[T]{hop: p, host: host, received: received}
	for i := range ourFields { // by index: by value, range would copy the array
		before := len(dst)
		dst = append(append(dst, ourFields[i]...), ": "...)
		value := len(dst)
		if dst = f.appendValue(dst, ourField(i)); len(dst) == value {
			dst = dst[:before]
			continue
		}
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// AppendNames appends the names of the fields that [AppendForwarded] may write,
// in its order.
func AppendNames(dst []string) []string { return append(dst, ourFields[:]...) }

// Passes returns how many members of a Via value name the proxy (RFC 9110,
// 7.6.3). A member is a protocol, a name, and maybe a comment. Passes allocates
// nothing.
func Passes[T Text](value T, name string) int {
	n := 0
	for len(value) > 0 {
		end := 0
		for end < len(value) && value[end] != ',' {
			end++
		}
		if isNamed(value[:end], name) {
			n++
		}
		value = value[min(end+1, len(value)):]
	}
	return n
}

// isNamed reports whether the second word of a member of Via is name.
func isNamed[T Text](member T, name string) bool {
	_, rest := word(member)
	second, _ := word(rest)
	return name != "" && string(second) == name
}

// word cuts the first word off s.
func word[T Text](s T) (first, rest T) {
	start := 0
	for start < len(s) && isSpace(s[start]) {
		start++
	}
	end := start
	for end < len(s) && !isSpace(s[end]) {
		end++
	}
	return s[start:end], s[end:]
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' }

// An ourField is one of the fields that the proxy adds to a request.
type ourField uint8

const (
	ourFor ourField = iota
	ourProto
	ourHost
	ourPrefix
	ourRealIP
	ourForwarded
	ourVia
	fieldCount
)

// ourFields has the canonical names. Read-only.
var ourFields = [fieldCount]string{
	ourFor: "X-Forwarded-For", ourProto: "X-Forwarded-Proto", ourHost: "X-Forwarded-Host",
	ourPrefix: "X-Forwarded-Prefix", ourRealIP: "X-Real-Ip", ourForwarded: "Forwarded", ourVia: "Via",
}

// forwarded computes the values of our fields, in one place for both lanes.
type forwarded[T Text] struct {
	hop      *Hop
	host     T
	received *Received[T]
}

// appendValue appends the value of a field. It appends nothing if the field is
// not sent.
func (f *forwarded[T]) appendValue(dst []byte, field ourField) []byte {
	switch field {
	case ourFor:
		return f.appendFor(dst)
	case ourProto:
		return append(dst, f.proto()...)
	case ourHost:
		return append(dst, f.effectiveHost()...)
	case ourPrefix:
		return f.appendPrefix(dst)
	case ourRealIP:
		return appendAddr(dst, f.hop.Client)
	case ourForwarded:
		if f.hop.RFC7239 {
			return f.appendRFC7239(dst)
		}
	case ourVia:
		if f.hop.Name != "" {
			return append(append(append(dst, f.hop.Version...), ' '), f.hop.Name...)
		}
	}
	return dst
}

// appendFor appends a trusted peer's list, and the peer, on one line, because
// many upstreams read only the first line.
func (f *forwarded[T]) appendFor(dst []byte) []byte {
	start := len(dst)
	if f.hop.Trusted {
		dst = appendLines(dst, f.received.For)
	}
	if f.hop.Peer.Addr.IsValid() {
		dst = appendAddr(appendComma(dst, start), f.hop.Peer.Addr)
	}
	return dst
}

// appendPrefix appends a trusted peer's list, and the prefix that this proxy
// has removed, on one line. An upstream joins them from left to right.
func (f *forwarded[T]) appendPrefix(dst []byte) []byte {
	if f.hop.Prefix == "" {
		return dst
	}
	start := len(dst)
	if f.hop.Trusted {
		dst = appendLines(dst, f.received.Prefix)
	}
	return append(appendComma(dst, start), f.hop.Prefix...)
}

// appendLines appends the values of a field as one list.
func appendLines[T Text](dst []byte, lines []T) []byte {
	start := len(dst)
	for _, line := range lines {
		if line = trim(line); len(line) > 0 && printable(line) {
			dst = append(appendComma(dst, start), line...)
		}
	}
	return dst
}

// proto returns the client's scheme, as far as known.
func (f *forwarded[T]) proto() string {
	if f.hop.Trusted {
		if said := f.received.saidProto(); said != "" {
			return said
		}
	}
	return f.hop.Scheme
}

// effectiveHost returns the host that the client asked for, as far as known, or
// nothing.
func (f *forwarded[T]) effectiveHost() T {
	host := f.host
	if f.hop.Trusted {
		host = f.received.Host(host)
	}
	if plausibleHost(host) {
		return host
	}
	return host[:0]
}

// appendRFC7239 appends the elements for the client and, if it is not the
// client itself, the peer.
func (f *forwarded[T]) appendRFC7239(dst []byte) []byte {
	dst = appendNode(append(dst, "for="...), f.hop.Client)
	if host := f.effectiveHost(); len(host) > 0 {
		dst = append(dst, ";host="...)
		dst = appendQuoted(dst, host)
	}
	if proto := f.proto(); proto != "" {
		dst = append(append(dst, ";proto="...), proto...)
	}
	if f.hop.Peer.Addr != f.hop.Client {
		dst = appendNode(append(dst, ", for="...), f.hop.Peer.Addr)
	}
	return dst
}

// appendNode appends an address in the form of RFC 7239, 6.
func appendNode(dst []byte, addr netip.Addr) []byte {
	switch {
	case !addr.IsValid():
		return append(dst, "unknown"...)
	case addr.Is4():
		return addr.AppendTo(dst)
	}
	return append(addr.AppendTo(append(dst, `"[`...)), `]"`...)
}

// appendQuoted appends a plausible host as a token or, with a port or brackets,
// as a quoted string.
func appendQuoted[T Text](dst []byte, host T) []byte {
	for _, b := range [...]byte{':', '[', ']'} {
		if indexByte(host, b) >= 0 {
			return append(append(append(dst, '"'), host...), '"')
		}
	}
	return append(dst, host...)
}

// appendAddr appends an address, or nothing if it is not valid.
func appendAddr(dst []byte, addr netip.Addr) []byte {
	if !addr.IsValid() {
		return dst
	}
	return addr.AppendTo(dst)
}

// appendComma appends a separator, unless the list that begins at start is
// empty.
func appendComma(dst []byte, start int) []byte {
	if len(dst) == start {
		return dst
	}
	return append(dst, ", "...)
}

// maxHost limits a host with its port: a name of 253 bytes with a trailing dot,
// a colon and five digits.
const maxHost = 260

// plausibleHost reports whether s has only bytes of a host name, an IP address
// or a port. It prevents injection; the router decides whether s is a host.
func plausibleHost[T Text](s T) bool {
	if len(s) == 0 || len(s) > maxHost {
		return false
	}
	for i := range len(s) {
		switch b := s[i]; {
		case fold[b] != '-': // letter or digit
		case b == '-', b == '.', b == '_', b == ':', b == '[', b == ']':
		default:
			return false
		}
	}
	return true
}

// printable reports whether s has no control byte.
func printable[T Text](s T) bool {
	for i := range len(s) {
		if b := s[i]; b < ' ' && b != '\t' || b == 0x7f {
			return false
		}
	}
	return true
}
