package limit

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/netip"
)

// A By says by what key a request is counted. The zero By means the client's
// address, which is also used for a request without the key. At most one field
// is set.
type By struct {
	Header string // name in canonical form; the first field counts
	Cookie string
	Host   bool                       // by the host in canonical form
	Func   func(*http.Request) string // requires an http.Request
}

// Set reports whether b is not just the client's address.
func (b *By) Set() bool { return b.Header != "" || b.Cookie != "" || b.Host || b.Func != nil }

// NeedsRequest reports whether r needs an http.Request to find the key. r may
// be nil.
func (r *Rule) NeedsRequest() bool { return r != nil && r.By.Func != nil }

// A Subject is the client or the text for which a request is counted.
type Subject struct {
	Client netip.Addr
	Text   string // the text that By finds in the request; "" means the client
}

// key returns the key of s in r. The key of a text is like a random number: the
// seed is secret, so a client cannot choose a text with the key of another text
// or client.
func (r *Rule) key(s Subject) uint64 {
	if s.Text == "" {
		return Key(s.Client)
	}
	return textKey(r.seed, s.Text)
}

// Digest returns a hash of text, to be used outside of this process, since text
// may be long or a secret.
func Digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
