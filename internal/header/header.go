// Package header decides which fields cross the proxy, and writes the proxy's
// own fields.
//
// Both lanes use the same table of names: the handler lane for [http.Header],
// the fast lane for byte slices. All functions are pure: they wait for nothing
// and keep nothing.
//
//   - header.go: the table of names
//   - connection.go, trailer.go: hop-by-hop fields and trailers
//   - forwarded.go: the forwarding family and Via
//   - replace.go: fields that replace the peer's own
//   - peer.go, addr.go: trusted peers, and the client behind them
//   - cookie.go: one cookie
package header

import (
	"fmt"
	"net/http"

	"golang.org/x/net/http/httpguts"
)

// Text is a field name or value: a string in the handler lane, a slice of the
// read buffer in the fast lane.
type Text interface{ ~string | ~[]byte }

// Class is all that the proxy has to know about a field, decided by its name.
// Zero means an ordinary field that passes.
type Class uint16

// The first six say what happens to a field. The others identify fields on
// which a lane acts.
const (
	// ends at each connection (RFC 9110, 7.6.1); includes proxy credentials, as
	// in httputil
	HopByHop Class = 1 << iota
	Framing        // Content-Length and Transfer-Encoding: regenerated, never copied
	// Forwarded, X-Real-IP and all fields that begin with X-Forwarded-:
	// accepted only from a trusted peer
	Forwarding
	// the Forwarding fields that [AppendForwarded] writes anew for every peer
	Rewritten
	// a spelling that a CGI-like upstream reads as one of the above
	// (X_Forwarded_For): always dropped
	Alias
	// not allowed in a trailer section; see [ForbiddenTrailer] for the whole
	// rule
	NoTrailer

	Host
	Expect
	Connection
	TE
	Via
	AltSvc
	ForwardedFor   // X-Forwarded-For
	ForwardedProto // X-Forwarded-Proto
	ForwardedHost  // X-Forwarded-Host

	ForwardedPrefix // X-Forwarded-Prefix: written anew for every peer by a Hop with a Prefix
)

// fields is the table of names, in lower case. Read-only.
var fields = [...]struct {
	name  string
	class Class
}{
	{"connection", HopByHop | NoTrailer | Connection},
	// reserved, since "Connection: close" would nominate it (RFC 9112, 9.6)
	{"close", HopByHop | NoTrailer},
	{"keep-alive", HopByHop | NoTrailer},
	{"proxy-connection", HopByHop | NoTrailer},
	{"proxy-authenticate", HopByHop | NoTrailer},
	{"proxy-authorization", HopByHop | NoTrailer},
	{"te", HopByHop | NoTrailer | TE},
	{"trailer", HopByHop | NoTrailer},
	{"transfer-encoding", HopByHop | Framing | NoTrailer},
	{"upgrade", HopByHop | NoTrailer},
	{"http2-settings", HopByHop | NoTrailer},

	{"content-length", Framing | NoTrailer},

	{"forwarded", Forwarding | Rewritten | NoTrailer},
	{"x-forwarded", Forwarding | Rewritten | NoTrailer},
	{"x-forwarded-for", Forwarding | Rewritten | NoTrailer | ForwardedFor},
	{"x-forwarded-proto", Forwarding | Rewritten | NoTrailer | ForwardedProto},
	{"x-forwarded-host", Forwarding | Rewritten | NoTrailer | ForwardedHost},
	{"x-forwarded-prefix", Forwarding | NoTrailer | ForwardedPrefix},
	{"x-real-ip", Forwarding | Rewritten | NoTrailer},

	{"host", NoTrailer | Host},
	{"expect", NoTrailer | Expect},
	{"via", NoTrailer | Via},
	{"alt-svc", NoTrailer | AltSvc},

	// RFC 9110, 6.5.1: request modifiers, authentication, response control; and
	// cookies.
	{"age", NoTrailer},
	{"authorization", NoTrailer},
	{"cache-control", NoTrailer},
	{"cookie", NoTrailer},
	{"date", NoTrailer},
	{"expires", NoTrailer},
	{"location", NoTrailer},
	{"max-forwards", NoTrailer},
	{"pragma", NoTrailer},
	{"range", NoTrailer},
	{"realm", NoTrailer},
	{"retry-after", NoTrailer},
	{"set-cookie", NoTrailer},
	{"set-cookie2", NoTrailer},
	{"vary", NoTrailer},
	{"warning", NoTrailer},
	{"www-authenticate", NoTrailer},
}

// Prefixes of families of names.
const (
	forwardedPrefix = "x-forwarded-"
	contentPrefix   = "content-"
	ifPrefix        = "if-"
)

// index is a hash table of fields with open addressing: 0 for an empty slot,
// otherwise the position plus one. Read-only.
var index = func() (slots [256]uint8) {
	for i := range fields {
		slot := slotOf(fields[i].name)
		for slots[slot] != 0 {
			slot++
		}
		slots[slot] = uint8(i + 1)
	}
	return slots
}()

// fold maps a byte of a name to lower case, and any byte that is neither letter
// nor digit to '-', like CGI. Read-only.
var fold = func() (t [256]byte) {
	for i := range t {
		switch b := byte(i); {
		case 'A' <= b && b <= 'Z':
			t[i] = b | 0x20
		case 'a' <= b && b <= 'z', '0' <= b && b <= '9':
			t[i] = b
		default:
			t[i] = '-'
		}
	}
	return t
}()

// Classify returns the Class of a field name, regardless of case.
//
// Hot path: one probe of a table for most names, no allocation.
func Classify[T Text](name T) Class {
	if len(name) == 0 {
		return 0
	}
	for slot := slotOf(name); index[slot] != 0; slot++ {
		f := &fields[index[slot]-1]
		if len(f.name) != len(name) || !hasPrefix(name, f.name) {
			continue
		}
		if aliased(name) {
			return aliasOf(f.class)
		}
		return f.class
	}
	if !hasPrefix(name, forwardedPrefix) {
		return 0
	}
	if aliased(name) {
		return Alias | NoTrailer
	}
	return Forwarding | NoTrailer
}

// ForbiddenTrailer reports whether a field must not pass in a trailer section,
// in either direction: framing, routing, authentication, cookies, response
// control, conditions (If-*), hop-by-hop and forwarding fields, and Content-*
// fields except Content-Digest, which is made for trailers (RFC 9110, 6.5.1;
// RFC 9530, 6.5).
func ForbiddenTrailer[T Text](name T) bool {
	switch {
	case Classify(name)&NoTrailer != 0, hasPrefix(name, ifPrefix):
		return true
	case hasPrefix(name, contentPrefix):
		return !EqualFold(name, "content-digest")
	}
	return false
}

// ValidName reports whether name may be written as a field name: a token (RFC
// 9110, 5.1), not empty.
func ValidName(name string) bool { return httpguts.ValidHeaderFieldName(name) }

// CheckName returns an error unless k is the name of an end-to-end field, which
// matters only to handlers and targets and not to the proxy. The error begins
// with field.
func CheckName(field, k string) error {
	if !ValidName(k) || Classify(k)&(HopByHop|Framing|Host) != 0 {
		return fmt.Errorf("%s: %q is not allowed: want the name of a header, but not Host and no framing or hop-by-hop header such as Content-Length or Connection", field, k)
	}
	return nil
}

// ValidValue reports whether value may be written as a field value: it has no
// control byte except the tab, so no CR, LF or NUL.
func ValidValue(value string) bool { return httpguts.ValidHeaderFieldValue(value) }

// Drop deletes from h every field that a CGI-like upstream reads as the one of
// that name, regardless of case and separators.
func Drop(h http.Header, name string) {
	for k := range h {
		if SameVariable(k, name) {
			delete(h, k)
		}
	}
}

// SameVariable reports whether two names become the same CGI variable.
func SameVariable[A, B Text](a A, b B) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if fold[a[i]] != fold[b[i]] {
			return false
		}
	}
	return true
}

// slotOf hashes a non-empty name by its length, first and last byte, the same
// for every spelling.
func slotOf[T Text](name T) uint8 {
	first, last := fold[name[0]], fold[name[len(name)-1]]
	return uint8(len(name))*29 + first*7 + last*3
}

// hasPrefix reports whether the folded name begins with prefix, which is folded
// already.
func hasPrefix[T Text](name T, prefix string) bool {
	if len(name) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		if fold[name[i]] != prefix[i] {
			return false
		}
	}
	return true
}

// aliased reports whether name has a separator other than '-'.
func aliased[T Text](name T) bool {
	for i := range len(name) {
		if b := name[i]; b != '-' && fold[b] == '-' {
			return true
		}
	}
	return false
}

// aliasOf returns the class of an alias of a field of class c.
func aliasOf(c Class) Class {
	if c&(HopByHop|Framing|Forwarding) != 0 {
		return Alias | NoTrailer
	}
	return c & NoTrailer
}

// EqualFold reports whether a and b are equal regardless of ASCII case.
func EqualFold[A, B Text](a A, b B) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lowerByte(a[i]) != lowerByte(b[i]) {
			return false
		}
	}
	return true
}

func lowerByte(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b | 0x20
	}
	return b
}
