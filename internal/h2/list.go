package h2

import (
	"slices"

	"github.com/hostproxy/hostproxy/internal/h1"
)

// Limits of the fields of a header block, besides List.MaxSize.
const (
	maxPseudo = 5 // pseudo-headers that a request can have
	// cookie fields: browsers keep up to 180 cookies for a host, and may send
	// each in its own field
	maxCrumbs = 200
	hugeness  = 4 // a header block above hugeness times MaxSize is a connection error
)

// Responses to a header block above a limit. Its connection remains usable.
var (
	errListSize  = &h1.Refusal{Status: 431, Reason: "head too large"}          // RFC 6585, 5
	errListCount = &h1.Refusal{Status: 431, Reason: "too many headers"}        // RFC 6585, 5
	errPathSize  = &h1.Refusal{Status: 414, Reason: "request target too long"} // RFC 9110, 15.5.15
)

// A List holds the fields of a header block, with their text in one piece. The
// zero value is ready for use. A List can be reused for the next block.
type List struct {
	MaxSize   int  // limit of names, values and 32 bytes per field; 0 means h1.DefaultMaxHead
	EndStream bool // neither a body nor trailers follow

	Scheme []byte // of a request, after Request

	text    []byte
	spans   []span
	fields  []h1.Field // made from spans
	size    int        // limited by MaxSize
	plain   int        // fields other than cookie
	crumbs  int        // fields named cookie
	refusal error      // why fields were dropped; nil if none were
}

// A span is the position of a field's text: its name, then its value.
type span struct{ start, name, value int }

// Text returns the text of all fields. Fields that List returns are slices of
// it.
func (l *List) Text() []byte { return l.text }

// Fields returns all fields as sent, including pseudo-headers. They are valid
// until the next Decode.
func (l *List) Fields() []h1.Field {
	text := l.text
	fields := slices.Grow(l.fields[:0], len(l.spans))[:len(l.spans)]
	for i, s := range l.spans {
		value := s.start + s.name
		end := value + s.value
		fields[i].Name, fields[i].Value = text[s.start:value:value], text[value:end:end]
	}
	l.fields = fields
	return fields
}

// Trim frees the memory of an unusually large header block. Its fields must not
// be used afterwards.
func (l *List) Trim() {
	if cap(l.text) > h1.DefaultMaxHead {
		l.text = nil
	}
}

// clear prepares l for another header block.
func (l *List) clear() {
	*l = List{MaxSize: l.MaxSize, EndStream: l.EndStream, text: l.text[:0], spans: l.spans[:0], fields: l.fields[:0]}
}

// note adds the field whose text begins at text[start], or drops it if it
// exceeds a limit. It returns an error if the block decodes to far more than
// the limits.
func (l *List) note(start, name int) error {
	n := len(l.text) - start
	l.size += n + entryCost
	if string(l.text[start:start+name]) == "cookie" {
		l.crumbs++
	} else {
		l.plain++
	}
	most := l.MaxSize
	if most <= 0 {
		most = h1.DefaultMaxHead
	}
	switch {
	case l.size > hugeness*most:
		return errListHuge
	case l.refusal != nil:
	case l.size > most && string(l.text[start:start+name]) == ":path":
		l.refusal = errPathSize
	case l.size > most:
		l.refusal = errListSize
	case l.plain > h1.MaxFields+maxPseudo, l.crumbs > maxCrumbs:
		l.refusal = errListCount
	default:
		l.spans = append(l.spans, span{start, name, n - name})
		return nil
	}
	l.text = l.text[:start]
	return nil
}

// joinCrumbs joins several cookie fields into one (RFC 9113, 8.2.3), at the
// position of the first.
func (l *List) joinCrumbs() {
	if l.crumbs < 2 {
		return
	}
	l.crumbs = 1
	start, first, kept := len(l.text), -1, 0
	for _, s := range l.spans {
		value := l.text[s.start+s.name : s.start+s.name+s.value]
		switch {
		case string(l.text[s.start:s.start+s.name]) != "cookie":
			l.spans[kept] = s
			kept++
			continue
		case first < 0:
			first = kept
			kept++
			l.text = append(l.text, "cookie"...)
		default:
			l.text = append(l.text, "; "...)
		}
		l.text = append(l.text, value...)
	}
	l.spans = l.spans[:kept]
	if first >= 0 {
		name := len("cookie")
		l.spans[first] = span{start, name, len(l.text) - start - name}
	}
}
