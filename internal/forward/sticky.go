package forward

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// A Sticky is a cookie by which a client returns to its target. Its value is a
// keyed hash of the target's address: without the key, it cannot be made and
// does not disclose the address.
type Sticky struct {
	Cookie string // name of the cookie
	// must be the same in all processes that serve the same clients; nil means
	// a random key
	Key    []byte
	MaxAge time.Duration // 0 means a session cookie
}

// minStickyKey is the shortest key that cannot be guessed.
const minStickyKey = 16

func (s *Sticky) check() error {
	if s == nil {
		return nil
	}
	var errs []error
	if !h1.ValidToken(s.Cookie) {
		errs = append(errs, fmt.Errorf("Sticky.Cookie is %q: want the name of a cookie, without spaces and separators", s.Cookie))
	}
	if s.Key != nil && len(s.Key) < minStickyKey {
		errs = append(errs, fmt.Errorf("Sticky.Key has %d bytes: want at least %d", len(s.Key), minStickyKey))
	}
	if s.MaxAge < 0 {
		errs = append(errs, errors.New("Sticky.MaxAge is negative: want 0 or more"))
	}
	return errors.Join(errs...)
}

// compile fills in the key.
func (s *Sticky) compile() {
	if s != nil && s.Key == nil {
		s.Key = make([]byte, sha256.Size)
		rand.Read(s.Key) // never fails, see crypto/rand
	}
}

// token returns the value of the cookie for the target with that key.
func (s *Sticky) token(key string) string {
	h := hmac.New(sha256.New, s.Key)
	h.Write([]byte(key))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16])
}

// fields returns the Set-Cookie fields with token, for plain HTTP and for TLS.
func (s *Sticky) fields(token string) [2]h1.Field {
	c := http.Cookie{Name: s.Cookie, Value: token, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: int(s.MaxAge / time.Second)}
	plain := c.String()
	c.Secure = true
	return [2]h1.Field{fieldOf("Set-Cookie", plain), fieldOf("Set-Cookie", c.String())}
}

// stick fills in the tokens of the set's targets. The time of a map lookup does
// not show a client where its guess differs from a token.
func (s *set) stick(c *Sticky) {
	if c == nil {
		return
	}
	s.tokens = make(map[string]int, len(s.targets))
	for i, t := range s.targets {
		s.tokens[t.token] = i
	}
}

// PreferBytes notes the target that the cookie of a.Asked names, in the fast
// lane.
func (a *Attempts) PreferBytes() {
	if set, ok := a.Asked.replaced("Cookie"); ok {
		if set != nil {
			v, _ := header.Cookie(set.Value, a.f.Sticky.Cookie)
			a.preferred, a.known = a.set.tokens[v]
		}
		return
	}
	req := a.Asked.Raw
	for i := range req.Fields {
		fd := &req.Fields[i]
		if !header.EqualFold(fd.Name, "Cookie") {
			continue
		}
		if v, ok := header.Cookie(fd.Value, a.f.Sticky.Cookie); ok {
			a.preferred, a.known = a.set.tokens[string(v)]
			return
		}
	}
}

// PreferOf is PreferBytes in the handler lane.
func (a *Attempts) PreferOf(q *http.Request) {
	for _, line := range q.Header["Cookie"] {
		if v, ok := header.Cookie(line, a.f.Sticky.Cookie); ok {
			a.preferred, a.known = a.set.tokens[v]
			return
		}
	}
}

// back counts the attempt in at the client's preferred target and returns its
// position, or -1 when it is unknown or unavailable.
func (a *Attempts) back(now time.Time) int {
	if !a.known || a.set.endpoints[a.preferred].Weight == 0 && a.set.weighted {
		return -1
	}
	t := a.set.targets[a.preferred]
	if t.node.Suspended(now) || !t.tryAcquire(now) {
		return -1
	}
	return a.preferred
}

// hsts is the field of RFC 6797, which clients obey over TLS only.
const hsts = "Strict-Transport-Security"

// AppendOwn appends the fields that the proxy itself adds to a response: HSTS
// and the sticky cookie.
func (a *Attempts) AppendOwn(dst []h1.Field, scheme string) []h1.Field {
	if a.f.HSTS != "" && scheme == "https" {
		dst = append(dst, fieldOf(hsts, a.f.HSTS))
	}
	if c := a.cookie(scheme); c != nil {
		dst = append(dst, *c)
	}
	return dst
}

// AddOwn is AppendOwn for the handler lane.
func (a *Attempts) AddOwn(h http.Header, scheme string) {
	if a.f.HSTS != "" && scheme == "https" {
		h.Set(hsts, a.f.HSTS)
	}
	if c := a.cookie(scheme); c != nil {
		h.Add("Set-Cookie", string(c.Value))
	}
}

// cookie returns the field that makes the client return to Target, or nil if
// the client has that cookie already.
func (a *Attempts) cookie(scheme string) *h1.Field {
	if a.f.Sticky == nil || a.known && a.set.targets[a.preferred] == a.Target {
		return nil
	}
	if scheme == "https" {
		return &a.Target.cookies[1]
	}
	return &a.Target.cookies[0]
}
