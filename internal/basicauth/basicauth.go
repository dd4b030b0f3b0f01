// Package basicauth verifies HTTP Basic credentials (RFC 7617).
package basicauth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"

	"github.com/hostproxy/hostproxy/internal/header"
)

// A Verifier checks passwords against bcrypt hashes. It takes the same time for
// an unknown user as for a wrong password. Its methods may be called
// concurrently.
type Verifier struct {
	Next       http.Handler // for the owner: it serves requests with valid credentials
	UserHeader string       // for the owner: it tells Next the user; "" means none

	hashes map[string][]byte
	dummy  []byte        // compared for unknown users
	slots  chan struct{} // one for each running hash computation: a flood must not take all CPUs
	key    []byte        // of the hashes in known

	challenge string

	mu    sync.Mutex
	known map[[sha256.Size]byte]struct{} // keyed hashes of correct pairs
}

// Limits of known, and of a password.
const (
	maxKnown    = 1024
	maxPassword = 72 // bytes that bcrypt reads
)

// New returns a Verifier of users, a map from names to bcrypt hashes of
// passwords. realm is the name of the site that browsers show to users. The
// error joins all faults.
func New(users map[string]string, realm string) (*Verifier, error) {
	b := &Verifier{hashes: make(map[string][]byte, len(users)), slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		key: make([]byte, sha256.Size), known: make(map[[sha256.Size]byte]struct{})}
	rand.Read(b.key) // never fails
	b.challenge = `Basic realm="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(realm) + `", charset="UTF-8"`
	var errs []error
	if !header.ValidValue(realm) {
		errs = append(errs, fmt.Errorf("realm %q: control characters are not allowed", realm))
	}
	dearest := 0
	for name, hash := range users {
		if name == "" || strings.Contains(name, ":") || !header.ValidValue(name) {
			errs = append(errs, fmt.Errorf("user %q: a name must not be empty or contain colons or control characters", name))
		}
		cost, err := bcrypt.Cost([]byte(hash))
		if err != nil {
			errs = append(errs, fmt.Errorf("user %q: the password must be a bcrypt hash, as made by htpasswd -nB: %w", name, err))
			continue
		}
		if cost > dearest {
			dearest, b.dummy = cost, []byte(hash)
		}
		b.hashes[name] = []byte(hash)
	}
	if len(users) == 0 {
		errs = append(errs, errors.New("no users: at least one is required"))
	}
	return b, errors.Join(errs...)
}

// Challenge returns the value of the WWW-Authenticate field that asks for a
// password.
func (b *Verifier) Challenge() string { return b.challenge }

// User returns the user whose correct password q has. ok is false without one,
// and if q has more than one Authorization field: the next reader of q might
// use the other one. The error is that of q's context.
func (b *Verifier) User(q *http.Request) (name string, ok bool, err error) {
	if !Tries(q) {
		return "", false, nil
	}
	name, password, _ := q.BasicAuth()
	ok, err = b.Knows(q.Context(), name, password)
	return name, ok, err
}

// Tries reports whether q has a password, right or wrong, that User checks.
func Tries(q *http.Request) bool {
	_, _, ok := q.BasicAuth()
	return ok && len(q.Header["Authorization"]) == 1
}

// Knows reports whether the password is the user's. A pair that was correct
// once is recognised without computing its hash. Knows returns ctx's error if
// ctx is done first.
func (b *Verifier) Knows(ctx context.Context, user, password string) (bool, error) {
	hash, exists := b.hashes[user]
	if !exists {
		hash = b.dummy
	}
	if len(password) > maxPassword { // bcrypt ignores the bytes after it
		exists, password = false, password[:maxPassword]
	}
	mac := b.mac(user, password)
	if exists && b.recalls(mac) {
		return true, nil
	}
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	right := bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil && exists
	if right {
		b.keep(mac)
	}
	return right, nil
}

func (b *Verifier) recalls(mac [sha256.Size]byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.known[mac]
	return ok
}

func (b *Verifier) keep(mac [sha256.Size]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.known) >= maxKnown {
		clear(b.known)
	}
	b.known[mac] = struct{}{}
}

// mac returns a keyed hash of a pair, so that no password is kept in memory.
func (b *Verifier) mac(user, password string) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, b.key)
	in := binary.AppendUvarint(nil, uint64(len(user)))
	h.Write(append(append(in, user...), password...))
	h.Sum(sum[:0])
	return sum
}
