package limit

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/netip"
)

// A By says what of a request its count belongs to. The zero By means the
// client's address, which stands in for what a request does not have. At most
// one is set.
type By struct {
	Header string // the first field of that name, in canonical form
	Cookie string
	Host   bool                       // in canonical form
	Func   func(*http.Request) string // needs an http.Request
}

// Set reports whether b is something else than the client's address.
func (b *By) Set() bool { return b.Header != "" || b.Cookie != "" || b.Host || b.Func != nil }

// NeedsRequest reports whether the key of a request can only be told from an
// http.Request. r may be nil.
func (r *Rule) NeedsRequest() bool { return r != nil && r.By.Func != nil }

// A Subject is what a request is counted for.
type Subject struct {
	Client netip.Addr
	Text   string // what By finds in the request; "" means the client
}

// key returns the key of s among those of r. Texts are as good as random: their
// seed is secret, so nobody can choose one with the key of another, or of a
// client.
func (r *Rule) key(s Subject) uint64 {
	if s.Text == "" {
		return Key(s.Client)
	}
	return textKey(r.seed, s.Text)
}

// Digest returns what stands for a text elsewhere: it may be long, and it may
// be a secret.
func Digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
