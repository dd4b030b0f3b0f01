package forward

import (
	"net/http"
	"slices"

	"github.com/hostproxy/hostproxy/internal/header"
)

// LastOf returns the names of the fields that the proxy adds to a request, in
// the order in which AppendRequest writes them. number is the name of the
// request's identifier, or "". The caller must not change the names. Without
// number and sets, LastOf allocates nothing.
func (e *Encoder) LastOf(number string, sets ...[]header.Replacement) []string {
	if number == "" && !slices.ContainsFunc(sets, func(set []header.Replacement) bool { return len(set) > 0 }) {
		return e.RequestHeader.last
	}
	return e.lastOf(number, sets...)
}

func (e *Encoder) lastOf(number string, sets ...[]header.Replacement) []string {
	names := header.AppendNames(make([]string, 0, 16))
	if number != "" {
		names = append(names, http.CanonicalHeaderKey(number))
	}
	for _, set := range sets {
		for i := range set {
			names = append(names, http.CanonicalHeaderKey(set[i].Name))
		}
	}
	return append(names, e.RequestHeader.adds...)
}

// LastOwnOf is LastOf for a response: the names are in the order of
// AppendFields, AppendOwn and AppendAnnounced.
func (e *Encoder) LastOwnOf(number string) []string {
	if number == "" {
		return e.ResponseHeader.last
	}
	return e.lastOwnOf(number)
}

func (e *Encoder) lastOwnOf(number string) (names []string) {
	if number != "" {
		names = append(make([]string, 0, 8), http.CanonicalHeaderKey(number))
	}
	names = append(names, e.ResponseHeader.adds...)
	return append(names, hsts, "Set-Cookie", "Trailer", "Upgrade")
}

// Drops reports whether the edit removes or sets the field of that name.
func (e *Edit) Drops(name string) bool { return header.Matches(e.drops, name) }

// AppendLastOwn appends the names of the fields that the proxy adds to a
// response, in the order of AppendFields, AppendOwn and AppendAnnounced.
func (e *Encoder) AppendLastOwn(dst []string, number string) []string {
	dst = slices.Grow(dst, 8)
	if number != "" {
		dst = append(dst, http.CanonicalHeaderKey(number))
	}
	dst = append(dst, e.ResponseHeader.adds...)
	return append(dst, hsts, "Set-Cookie", "Trailer", "Upgrade")
}
