package forward

import (
	"net/http"
	"slices"

	"github.com/hostproxy/hostproxy/internal/header"
)

// AppendLast appends the names of what the proxy adds to a request, in the order in which
// AppendRequest writes it. number is the name of the request's identifier, "" without one.
func (e *Encoder) AppendLast(dst []string, number string, sets ...[]header.Replacement) []string {
	dst = header.AppendNames(slices.Grow(dst, 16))
	if number != "" {
		dst = append(dst, http.CanonicalHeaderKey(number))
	}
	for _, set := range sets {
		for i := range set {
			dst = append(dst, http.CanonicalHeaderKey(set[i].Name))
		}
	}
	return append(dst, e.RequestHeader.adds...)
}

// Drops reports whether the edit removes or sets the field of that name.
func (e *Edit) Drops(name string) bool { return header.Matches(e.drops, name) }

// AppendLastOwn appends the names of what the proxy adds to a response, in the order of
// AppendFields, AppendOwn and AppendAnnounced.
func (e *Encoder) AppendLastOwn(dst []string, number string) []string {
	dst = slices.Grow(dst, 8)
	if number != "" {
		dst = append(dst, http.CanonicalHeaderKey(number))
	}
	dst = append(dst, e.ResponseHeader.adds...)
	return append(dst, hsts, "Set-Cookie", "Trailer", "Upgrade")
}
