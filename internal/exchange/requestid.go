package exchange

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// maxRequestID is the longest identifier that is accepted from a trusted peer.
const maxRequestID = 128

// A Numbering says how requests get identifiers. The zero value disables them.
type Numbering struct {
	Name  string // of the header, canonical; "" disables identifiers
	Shown bool   // clients get the header too
}

// CheckIDName returns an error if a header of that name cannot carry an
// identifier, because the proxy itself writes or reads it. The error begins
// with field.
func CheckIDName(field, name string) error {
	if err := header.CheckName(field, name); err != nil {
		return err
	}
	if header.ForbiddenTrailer(name) { // exactly the fields with a meaning of their own
		return fmt.Errorf("%s: %q has another meaning in HTTP: want a header such as X-Request-Id", field, name)
	}
	return nil
}

// validID reports whether an identifier from a trusted peer is accepted: a
// token of up to maxRequestID bytes.
func validID[T header.Text](id T) bool { return len(id) <= maxRequestID && h1.ValidToken(id) }

// appendID appends a new identifier: 128 random bits in hexadecimal. The
// runtime's generator keeps a state per thread, so there is no lock.
func appendID(dst []byte) []byte {
	var bits [16]byte
	binary.BigEndian.PutUint64(bits[:8], rand.Uint64())
	binary.BigEndian.PutUint64(bits[8:], rand.Uint64())
	return hex.AppendEncode(dst, bits[:])
}

// idOf returns the identifier of q: the one from a trusted peer, or a new one.
// It returns "" if n disables identifiers.
func (n *Numbering) idOf(q *http.Request, trusted bool) string {
	if n.Name == "" {
		return ""
	}
	if said := q.Header[n.Name]; trusted && len(said) == 1 && validID(said[0]) {
		return said[0]
	}
	return string(appendID(make([]byte, 0, 2*16)))
}

// An Arrival is what is known of a request before its exchange begins, for
// middleware around the Router.
type Arrival struct {
	Client    netip.Addr
	RequestID string

	router any
}

type arrivalKey struct{}

// A Slot is what our server keeps in the context of a request; the context uses
// it in Value. It has room for an Arrival, so that Arrive does not have to copy
// the request. The zero value is empty. The exported fields must not change any
// more.
type Slot struct {
	Client Client          // the request's
	Drain  context.Context // see WithDrain
	Known  *Handover       // from another lane; may be nil
	Names  Names           // names of the fields, as the client sent them

	taken   atomic.Bool // set by the caller that fills it
	room    Arrival
	arrival atomic.Pointer[Arrival] // room, once it is filled
}

// fill stores a in s, and reports whether s was empty.
func (s *Slot) fill(a Arrival) bool {
	if s.taken.Swap(true) {
		return false
	}
	s.room = a
	s.arrival.Store(&s.room)
	return true
}

type slotKey struct{}

// Value implements Value for a context that has the slot. It returns false if
// key is not the slot's.
func (s *Slot) Value(key any) (value any, ok bool) {
	switch key.(type) {
	case slotKey:
		return s, true
	case arrivalKey:
		return s.arrival.Load(), true
	case clientKey:
		return s.Client, true
	case drainKey:
		return s.Drain, true
	case handoverKey:
		return s.Known, true
	case namesKey:
		return &s.Names, true
	}
	return nil, false
}

// Arrive returns q with its Arrival at the router. It returns q itself if its
// context has an empty Slot. router may be any value that is the same for each
// call. trusted and n are the router's.
func Arrive(q *http.Request, router any, trusted []netip.Prefix, n Numbering) *http.Request {
	peer := header.ParsePeer(q.RemoteAddr)
	a := Arrival{router: router, Client: header.ClientIP(peer, trusted, q.Header["X-Forwarded-For"])}
	a.RequestID = n.idOf(q, peer.TrustedBy(trusted))
	AwaitTrailers(q)
	if s, ok := q.Context().Value(slotKey{}).(*Slot); ok && s.fill(a) {
		return q
	}
	outer := a // a itself stays off the heap
	return q.WithContext(context.WithValue(q.Context(), arrivalKey{}, &outer))
}

// ArrivalFrom returns the Arrival that ctx carries, or nil.
func ArrivalFrom(ctx context.Context) *Arrival {
	a, _ := ctx.Value(arrivalKey{}).(*Arrival)
	return a
}

// Identify gives x, the exchange of q at the router, its identifier: from its
// Arrival, from a trusted peer, or a new one. x keeps an identifier that it
// already has.
func (x *Exchange) Identify(q *http.Request, router any, n Numbering) {
	x.Numbering = n
	if n.Name == "" || x.RequestID != "" {
		return
	}
	if a := ArrivalFrom(q.Context()); a != nil && a.router == router && a.RequestID != "" {
		x.RequestID = a.RequestID
		return
	}
	x.RequestID = n.idOf(q, x.Trusted)
}

// Numbered returns q with x's identifier and the headers that the Begin hook
// has set. They replace the client's own headers of these names, in every
// spelling and in trailers too.
func (x *Exchange) Numbered(q *http.Request) *http.Request {
	if len(x.Set) > 0 {
		q = Replace(q, x.Set)
	}
	if x.Numbering.Name == "" {
		return q
	}
	q = Withhold(q, x.Numbering.Name)
	q.Header[x.Numbering.Name] = []string{x.RequestID}
	return q
}

// Show sets the identifier in h, the header of a response, if n.Shown. It
// replaces a target's own.
func (n *Numbering) Show(h http.Header, id string) {
	if n.Shown && n.Name != "" && id != "" {
		header.Drop(h, n.Name)
		h[n.Name] = []string{id}
	}
}

// Tell is Show for the Header of w. It does not call Header unless needed: see
// Relayer.
func (n *Numbering) Tell(w http.ResponseWriter, id string) {
	if n.Shown {
		n.Show(w.Header(), id)
	}
}

// idsAtOnce is how many identifiers of the usual length share one allocation.
const idsAtOnce = 64

// IDs makes identifiers for the fast lane, one after the other. They never
// change. Many share one allocation: a caller that keeps one keeps all of them.
type IDs struct{ room []byte }

// Of returns the identifier of a request: the one in fields, or a new one.
// fields are those of a trusted peer, or nil.
func (s *IDs) Of(fields []h1.Field, name string) string {
	if cap(s.room)-len(s.room) < maxRequestID {
		s.room = make([]byte, 0, idsAtOnce*2*16+maxRequestID)
	}
	start := len(s.room)
	if said := onlyID(fields, name); said != nil {
		s.room = append(s.room, said...)
	} else {
		s.room = appendID(s.room)
	}
	id := s.room[start:]
	return unsafe.String(unsafe.SliceData(id), len(id))
}

// onlyID returns the valid identifier in fields, or nil if there is none or
// more than one.
func onlyID(fields []h1.Field, name string) (id []byte) {
	n := 0
	for i := range fields {
		if fd := &fields[i]; header.EqualFold(fd.Name, name) {
			n, id = n+1, fd.Value
		}
	}
	if n != 1 || !validID(id) {
		return nil
	}
	return id
}
