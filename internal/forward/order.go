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
func (e *Edit) LastOwnOf(number string) []string {
	if number == "" {
		return e.last
	}
	return e.lastOwnOf(number)
}

func (e *Edit) lastOwnOf(number string) (names []string) {
	if number != "" {
		names = append(make([]string, 0, 8), http.CanonicalHeaderKey(number))
	}
	names = append(names, e.adds...)
	return append(names, hsts, "Set-Cookie", "Trailer", "Upgrade")
}

// Drops reports whether the edit removes or sets the field of that name.
func (e *Edit) Drops(name string) bool { return header.Matches(e.drops, name) }
