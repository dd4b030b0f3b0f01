package header

import (
	"net/http"
	"strings"
)

// Options are the options in a Connection field (RFC 9110, 7.6.1).
type Options uint8

// Each member of a Connection field that nominates a field which would
// otherwise pass sets OptionField.
const (
	OptionClose     Options = 1 << iota // close: the connection ends after the message
	OptionKeepAlive                     // keep-alive: an HTTP/1.0 peer wants to keep the connection
	OptionUpgrade                       // upgrade: the Upgrade field is valid
	// another field is nominated: call Nominated for each field that would pass
	OptionField
	// the value is too long for a call of Nominated per field: use
	// RemoveHopByHop
	OptionExcess
)

// maxNominating limits a Connection value for [Nominated], since the peer
// chooses the number of fields times members.
const maxNominating = 256

// ConnectionOptions reads one Connection value. The caller ors the options of
// several lines together. It must treat several lines with OptionField as
// OptionExcess.
//
// Hot path: one pass over the value, no allocation.
func ConnectionOptions[T Text](value T) (o Options) {
	for rest := value; len(rest) > 0; {
		var member T
		member, rest = nextMember(rest)
		switch {
		case len(member) == 0:
		case EqualFold(member, "close"):
			o |= OptionClose
		case EqualFold(member, "keep-alive"):
			o |= OptionKeepAlive
		case EqualFold(member, "upgrade"):
			o |= OptionUpgrade
		case nominable(Classify(member)):
			o |= OptionField
		}
	}
	if o&OptionField != 0 && len(value) > maxNominating {
		o |= OptionExcess
	}
	return o
}

// Nominated reports whether a Connection value names a field, which then must
// not pass. Host, framing and forwarding fields cannot be nominated: a peer
// must not delete fields that the proxy regenerates, nor hide the client of a
// trusted proxy.
//
// Hot path: one pass over the value, no allocation.
func Nominated[V, N Text](value V, name N) bool {
	if len(name) == 0 || Classify(name)&(Host|Framing|Forwarding) != 0 {
		return false
	}
	for rest := value; len(rest) > 0; {
		var member V
		member, rest = nextMember(rest)
		if EqualFold(member, name) {
			return true
		}
	}
	return false
}

// AcceptsTrailers reports whether a TE value has "trailers", the only member
// that crosses the proxy.
func AcceptsTrailers[T Text](value T) bool {
	for rest := value; len(rest) > 0; {
		var member T
		if member, rest = nextMember(rest); EqualFold(member, "trailers") {
			return true
		}
	}
	return false
}

// RemoveHopByHop deletes from h the hop-by-hop fields, and the fields that
// Connection nominates, in any case and on any number of lines. It works for
// requests, responses and 1xx. A TE with "trailers" becomes exactly "trailers";
// when it is written to an HTTP/1.1 upstream, the caller adds "Connection: TE".
//
// Host, Content-Length and forwarding fields stay even when nominated; see
// [Nominated]. The keys of h must be in the canonical form of net/http. Call
// RemoveHopByHop before you add fields.
func RemoveHopByHop(h http.Header) {
	trailers := false
	for _, value := range h["Te"] {
		trailers = trailers || AcceptsTrailers(value)
	}
	for _, value := range h["Connection"] {
		removeNominated(h, value)
	}
	for name := range h {
		if Classify(name)&HopByHop != 0 {
			delete(h, name)
		}
	}
	if trailers {
		h["Te"] = []string{"trailers"}
	}
}

// Denominate deletes the fields that Connection nominates, and keeps only the
// other members of Connection. So the peer's nominations cannot delete fields
// that are added later. It writes to the slice of values in h.
func Denominate(h http.Header) {
	for i, value := range h["Connection"] {
		removeNominated(h, value)
		var kept []string
		for rest := value; len(rest) > 0; {
			var member string
			if member, rest = nextMember(rest); len(member) > 0 && !nominable(Classify(member)) {
				kept = append(kept, member)
			}
		}
		h["Connection"][i] = strings.Join(kept, ", ")
	}
}

// CleanResponse removes from an upstream's response, final or 1xx, the fields
// that do not cross the proxy: hop-by-hop fields like [RemoveHopByHop], all of
// TE, and Alt-Svc, which describes the upstream's address and not the proxy's.
func CleanResponse(h http.Header) {
	RemoveHopByHop(h)
	delete(h, "Te")
	delete(h, "Alt-Svc")
}

// UpgradeProtocol returns the protocol that a request asks for or a 101 grants,
// in lower case: the value of Upgrade if it is one token and Connection has
// "upgrade". It returns "" for no upgrade, several protocols, or a protocol
// with a version (RFC 9110, 7.8).
func UpgradeProtocol(h http.Header) string {
	var options Options
	for _, value := range h["Connection"] {
		options |= ConnectionOptions(value)
	}
	values := h["Upgrade"]
	if options&OptionUpgrade == 0 || len(values) != 1 {
		return ""
	}
	protocol := trim(values[0])
	if !ValidName(protocol) { // the same grammar: a token
		return ""
	}
	return strings.ToLower(protocol)
}

// OmitUserAgent keeps a missing User-Agent missing: net/http's Transport adds
// its own unless the field is there and empty.
func OmitUserAgent(h http.Header) {
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = []string{""}
	}
}

// removeNominated deletes from h the fields that a Connection value names.
func removeNominated(h http.Header, value string) {
	for rest := value; len(rest) > 0; {
		var member string
		if member, rest = nextMember(rest); len(member) > 0 && nominable(Classify(member)) {
			h.Del(member)
		}
	}
}

// nominable reports whether Connection can nominate a field of class c.
func nominable(c Class) bool { return c&(HopByHop|Host|Framing|Forwarding) == 0 }

// nextMember returns the first member of a comma-separated list, without white
// space around it, and the rest of the list.
func nextMember[T Text](list T) (member, rest T) {
	for i := range len(list) {
		if list[i] == ',' {
			return trim(list[:i]), list[i+1:]
		}
	}
	return trim(list), list[len(list):]
}

// trim removes spaces and tabs at both ends.
func trim[T Text](s T) T {
	for len(s) > 0 && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for len(s) > 0 && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}
