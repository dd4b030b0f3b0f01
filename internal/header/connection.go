package header

import (
	"net/http"
	"strings"
)

// Options is what the members of a Connection field ask for (RFC 9110, 7.6.1).
type Options uint8

// The members of a Connection field that are not known names of hop-by-hop
// fields come together as OptionField.
const (
	OptionClose     Options = 1 << iota // close: this connection ends after the message
	OptionKeepAlive                     // keep-alive: an HTTP/1.0 peer wants the connection to stay
	OptionUpgrade                       // upgrade: the Upgrade field counts
	// some other field is nominated: ask Nominated about each that is about to
	// pass
	OptionField
	// the value is too long to be asked once per field: leave it to
	// RemoveHopByHop
	OptionExcess
)

// maxNominating bounds a Connection value that [Nominated] is asked about:
// fields times members is a peer's to choose.
const maxNominating = 256

// ConnectionOptions reads one Connection value. The caller ors the options of
// several lines together, and takes several lines with OptionField for
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
// not pass. Host, the framing fields and the forwarding family cannot be
// nominated: a peer must not delete what the proxy regenerates, nor hide who a
// trusted proxy spoke for.
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

// AcceptsTrailers reports whether a TE value holds "trailers", the only member
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

// RemoveHopByHop deletes from h what ends at this connection: the hop-by-hop
// fields and whatever Connection nominates, in any case and on any number of
// lines. It fits requests, responses and 1xx. A TE that holds "trailers" stays
// as exactly that; who writes it to an HTTP/1.1 upstream adds "Connection: TE".
//
// Host, Content-Length and the forwarding family stay even when nominated; see
// [Nominated]. The keys of h are in canonical form, as net/http makes them.
// Call it before adding fields of one's own.
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

// Denominate does what Connection says of fields that would otherwise pass, and
// leaves in Connection only what is about the connection itself: fields that
// are added now cannot be taken out again by what the peer said. It writes to
// the slice that it finds there.
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

// CleanResponse removes from an upstream's answer, final or 1xx, what does not
// cross the proxy: hop-by-hop fields as [RemoveHopByHop] does, TE as a whole,
// and Alt-Svc, which speaks for the upstream's address and not for ours.
func CleanResponse(h http.Header) {
	RemoveHopByHop(h)
	delete(h, "Te")
	delete(h, "Alt-Svc")
}

// UpgradeProtocol returns the protocol that a request asks for or a 101 grants,
// in lower case: the Upgrade field when it is one token and Connection says
// "upgrade". Anything else is "": no upgrade, several protocols, or a version
// (RFC 9110, 7.8).
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

// OmitUserAgent keeps a missing User-Agent missing: net/http's Transport
// invents one unless the field is there and empty.
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

// nominable reports whether a Connection member with the name of a field of
// class c changes what happens to that field.
func nominable(c Class) bool { return c&(HopByHop|Host|Framing|Forwarding) == 0 }

// nextMember returns the first member of a comma-separated list, without white
// space around it, and what follows.
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
