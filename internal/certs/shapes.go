package certs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

// shapesPrefix is where storage describes the chains of each issuer.
const shapesPrefix = "hostproxy/chains"

// shapePause is how long a shape from storage is trusted although it makes a
// chain count as damaged: another process may have learned more.
const shapePause = 5 * time.Second

// A shape describes the chains that one issuer issues.
type shape struct {
	// Shortest is the number of certificates in the shortest chain.
	Shortest int `json:"shortest"`
	// Flaws are the flaws that the issuer's own chains have.
	Flaws []flaw `json:"flaws,omitempty"`

	guessed bool // no chain was seen yet
}

func shapeKey(folder string) string { return path.Join(shapesPrefix, folder+".json") }

// shapes tell damage in a chain from a habit of its issuer: they see each new
// certificate on its way into storage, and store its peculiarities for later
// and for other processes. So a certificate is never ordered again for a flaw
// that every new one would have.
type shapes struct {
	storage *boundedStorage

	mu    sync.Mutex
	known map[string]shape     // by the issuer's folder in storage
	read  map[string]time.Time // when storage was last read
}

func newShapes(s *boundedStorage) *shapes {
	return &shapes{storage: s, known: make(map[string]shape), read: make(map[string]time.Time)}
}

// check returns nil if the chain in text looks as a issues them, errUnusable if
// it is damaged, and another error if storage fails to tell.
func (x *shapes) check(ctx context.Context, a *authority, text []byte) error {
	b, err := readBundle(text)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnusable, err)
	}
	folder := certmagic.StorageKeys.Safe(a.key)
	x.mu.Lock()
	known, ok := x.known[folder]
	fresh := time.Since(x.read[folder]) < shapePause
	x.mu.Unlock()
	if err := b.fits(known); ok && (err == nil || fresh) {
		return err
	}
	known, err = x.load(ctx, folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		known = a.usual()
	case err != nil:
		return err
	}
	x.set(folder, known)
	return b.fits(known)
}

// usual returns the assumed shape until the issuer shows another. A public CA
// signs with an intermediate certificate; other issuers may not.
func (a *authority) usual() shape {
	if _, ok := a.template.(*certmagic.ACMEIssuer); ok {
		return shape{Shortest: 2, guessed: true}
	}
	return shape{Shortest: 1, guessed: true}
}

// fits returns errUnusable, with the reason, if b differs from s.
func (b *bundle) fits(s shape) error {
	for _, f := range b.flaws {
		if !slices.Contains(s.Flaws, f) {
			return fmt.Errorf("%w: %s", errUnusable, f.reason())
		}
	}
	if len(b.certs) < s.Shortest && !b.whole() {
		return fmt.Errorf("%w: the length of its chain is %d, the issuer sends %d", errUnusable, len(b.certs), s.Shortest)
	}
	return nil
}

func (f flaw) reason() string {
	switch f {
	case flawLinks:
		return "a certificate of its chain is not signed by the next one"
	case flawDates:
		return "the issuing certificate in its chain has expired"
	}
	return "it contains other data, or a certificate is truncated"
}

// load reads the stored shape of an issuer. A damaged one counts as absent: it
// is learned again.
func (x *shapes) load(ctx context.Context, folder string) (shape, error) {
	var s shape
	text, err := x.storage.Load(ctx, shapeKey(folder))
	if err == nil && json.Unmarshal(text, &s) != nil {
		err = fs.ErrNotExist
	}
	return s, err
}

// get returns the known shape of an issuer, or one that is longer than any
// chain.
func (x *shapes) get(folder string) shape {
	x.mu.Lock()
	defer x.mu.Unlock()
	if s, ok := x.known[folder]; ok {
		return s
	}
	return shape{Shortest: maxBundle + 1}
}

func (x *shapes) set(folder string, s shape) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.known[folder], x.read[folder] = s, time.Now()
}

// learn reads what certmagic is about to store. A new certificate shows what
// its issuer's chains look like.
func (x *shapes) learn(ctx context.Context, key string, value []byte) {
	folder, ok := issuerFolder(key)
	if !ok {
		return
	}
	b, err := readBundle(value)
	if err != nil {
		return
	}
	s, err := x.load(ctx, folder)
	if err != nil {
		s = x.get(folder)
	}
	next, changed := s.with(b)
	x.set(folder, next)
	if !changed {
		return
	}
	text, err := json.Marshal(next)
	if err == nil {
		_ = x.storage.put(ctx, shapeKey(folder), text) // a later write may succeed
	}
}

// with returns the shape that also fits b, and whether it differs.
func (s shape) with(b *bundle) (_ shape, changed bool) {
	s.Flaws, s.guessed = slices.Clone(s.Flaws), false
	if n := len(b.certs); n < s.Shortest {
		s.Shortest, changed = n, true
	}
	for _, f := range b.flaws {
		if !slices.Contains(s.Flaws, f) {
			s.Flaws, changed = append(s.Flaws, f), true
		}
	}
	return s, changed
}

// issuerFolder returns the issuer's part in the storage key of a certificate.
func issuerFolder(key string) (string, bool) {
	parts := strings.Split(key, "/")
	if len(parts) != 4 || parts[0] != "certificates" || !strings.HasSuffix(key, ".crt") {
		return "", false
	}
	return parts[1], true
}
