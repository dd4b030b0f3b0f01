package certs

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
)

// registrationLock begins the name of the lock under which certmagic registers
// an account. The rest of the name is the e-mail, not the CA.
const registrationLock = "register_acme_account"

// errForgotten ends an attempt whose account the CA does not know.
var errForgotten = errors.New("the CA no longer knows the account")

// An accountID tells accounts apart: who has the same one shares its limits and
// its pace. It is comparable.
type accountID struct {
	issuer    any // what is not ACME: the issuer itself; nil otherwise
	directory string
	email     string
	key       string // PEM, if the program brought one
	external  string // key ID of the external account
}

// accountOf returns the account of an ACME template.
func accountOf(t *certmagic.ACMEIssuer) accountID {
	id := accountID{directory: t.CA, email: strings.ToLower(strings.TrimSpace(t.Email)), key: strings.TrimSpace(t.AccountKeyPEM)}
	if t.ExternalAccount != nil {
		id.external = t.ExternalAccount.KeyID
	}
	return id
}

// plain reports whether the e-mail says all about the account, as certmagic
// assumes.
func (id accountID) plain() bool { return id.issuer == nil && id.key == "" && id.external == "" }

// digest names parts in storage without showing them.
func digest(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// An account is what all authorities share that order with it.
type account struct {
	pace  *pacer // nil means no limit
	holds *holds
	met   *ledger // keeps the limits in storage; nil keeps them in memory only

	users     string // where certmagic keeps accounts of the CA; "" if not ACME
	folder    string // where this one is kept
	directory string // of the CA
	own       bool   // the program has brought its key
	lock      string // excludes other processes while it is made or removed

	known   atomic.Bool // it exists
	lookMu  sync.Mutex
	looked  time.Time // when storage was last asked for it
	regPath string    // of its registration in storage, once seen
}

func newAccount(id accountID, issuerKey string) *account {
	a := &account{holds: newHolds(), pace: newPacer(orders, ordersWindow)}
	if id.issuer != nil {
		a.known.Store(true)
		if _, ok := id.issuer.(*LocalCA); ok {
			a.pace = nil
		}
		return a
	}
	a.users = path.Join("acme", certmagic.StorageKeys.Safe(issuerKey), "users")
	a.folder, a.own, a.directory = a.users, id.key != "", id.directory
	if !id.plain() {
		a.folder += "-" + digest(id.key, id.external)
	}
	a.lock = "hostproxy_account_" + digest(id.directory, id.email, id.key, id.external)
	return a
}

// exists reports whether the account is known to exist. Another process may
// have made it: storage is asked once a minute.
func (a *account) exists(ctx context.Context, s certmagic.Storage) bool {
	if a.known.Load() {
		return true
	}
	a.lookMu.Lock()
	defer a.lookMu.Unlock()
	if a.regPath == "" || time.Since(a.looked) < time.Minute {
		return false
	}
	a.looked = time.Now()
	if s.Exists(ctx, a.regPath) {
		a.known.Store(true)
	}
	return a.known.Load()
}

func (a *account) seenAt(key string) {
	a.lookMu.Lock()
	defer a.lookMu.Unlock()
	a.regPath = key
}

// renounce removes the account that an attempt used from storage, if it is
// still there. Whoever needs an account then makes one, under the same lock:
// however many attempts find out at once, there is one new account.
func (a *account) renounce(ctx context.Context, s *boundedStorage, used *attempt, log *slog.Logger) error {
	if err := s.Lock(ctx, a.lock); err != nil {
		return fmt.Errorf("lock of the account: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limit)
		defer cancel()
		_ = s.Unlock(ctx, a.lock) // it is noted as held, and freed at the end
	}()
	now, err := s.Load(ctx, used.regKey)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && !bytes.Equal(now, used.reg):
		return nil // somebody was faster
	case err != nil:
		return err
	}
	a.known.Store(false)
	err = s.Delete(ctx, used.regKey)
	if err = cmp.Or(err, s.Delete(ctx, used.keyKey)); err == nil {
		log.Warn("ACME account is no longer usable; creating a new one", "ca", a.directory, "account", used.location(),
			"cause", used.why())
	}
	return err
}

// An attempt is what certmagic does for one order, as far as its storage and
// its events tell. It is used by one goroutine.
type attempt struct {
	// called under the lock of the host, before a CA is asked; an error is the
	// outcome
	begin func(context.Context) error

	regKey, keyKey string // of the account in storage
	reg            []byte // its registration, as loaded
	stored         bool   // an account was made
	forgotten      bool   // the CA does not know it
	deactivated    bool   // the CA knows that it is not to be used any more
	held           error  // why it may not be made now
	kept           string // the lock for a registration that failed
}

type attemptKey struct{}

func (t *attempt) context(ctx context.Context) context.Context {
	return context.WithValue(ctx, attemptKey{}, t)
}

func attemptOf(ctx context.Context) *attempt {
	t, _ := ctx.Value(attemptKey{}).(*attempt)
	return t
}

// lost reports whether the account that was used is of no use any more.
func (t *attempt) lost() bool {
	return (t.forgotten || t.deactivated) && t.reg != nil && t.keyKey != ""
}

// location returns the URL of the account, "" if its registration does not say.
func (t *attempt) location() string {
	var reg struct {
		Location string `json:"location"`
	}
	_ = json.Unmarshal(t.reg, &reg)
	return reg.Location
}

// judge notes what the outcome of an order says about the account. One whose
// key the program has brought cannot be replaced.
func (t *attempt) judge(err error, a *account) { t.deactivated = !a.own && deactivated(err) }

// why says what has become of a lost account.
func (t *attempt) why() string {
	if t.deactivated {
		return "it was deactivated at the CA"
	}
	return "the CA no longer knows it"
}

// release frees what the attempt has kept.
func (t *attempt) release(ctx context.Context, s *boundedStorage) {
	if t.kept != "" {
		// it is noted as held, and freed at the end
		_ = s.Unlock(context.WithoutCancel(ctx), t.kept)
		t.kept = ""
	}
}

// An accountStorage is the storage that certmagic sees when it uses one
// account. It gives each account a place and a lock of its own, where certmagic
// knows them by e-mail only, and does not let certmagic delete one: its way
// with an account that the CA has forgotten makes two.
type accountStorage struct {
	*boundedStorage
	account *account
}

// at returns where a key really is.
func (s accountStorage) at(key string) string {
	if rest, ok := strings.CutPrefix(key, s.account.users); ok && (rest == "" || rest[0] == '/') {
		return s.account.folder + rest
	}
	return key
}

func (s accountStorage) isAccount(key string) bool {
	return strings.HasPrefix(key, s.account.users+"/")
}

// Load implements certmagic.Storage.
func (s accountStorage) Load(ctx context.Context, key string) ([]byte, error) {
	b, err := s.boundedStorage.Load(ctx, s.at(key))
	if !s.isAccount(key) {
		return b, err
	}
	if path.Ext(key) == ".json" {
		s.account.seenAt(s.at(key))
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			s.account.known.Store(err == nil)
		}
	}
	if t := attemptOf(ctx); t != nil && err == nil {
		t.note(s.at(key), b)
	}
	return b, err
}

func (t *attempt) note(key string, b []byte) {
	if path.Ext(key) == ".json" {
		t.regKey, t.reg = key, b
		return
	}
	t.keyKey = key
}

// Store implements certmagic.Storage.
func (s accountStorage) Store(ctx context.Context, key string, value []byte) error {
	if s.isAccount(key) {
		if t := attemptOf(ctx); t != nil {
			t.stored = true
		}
	}
	err := s.boundedStorage.Store(ctx, s.at(key), value)
	if err == nil && s.isAccount(key) && path.Ext(key) == ".key" { // the last that is written
		s.account.known.Store(true)
	}
	return err
}

// Delete implements certmagic.Storage. An account stays, and the attempt ends.
func (s accountStorage) Delete(ctx context.Context, key string) error {
	if s.isAccount(key) {
		if t := attemptOf(ctx); t != nil && !t.stored {
			t.forgotten = true
			return errForgotten
		}
	}
	return s.boundedStorage.Delete(ctx, s.at(key))
}

// Exists implements certmagic.Storage.
func (s accountStorage) Exists(ctx context.Context, key string) bool {
	return s.boundedStorage.Exists(ctx, s.at(key))
}

// List implements certmagic.Storage.
func (s accountStorage) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	at := s.at(prefix)
	keys, err := s.boundedStorage.List(ctx, at, recursive)
	if at == prefix {
		return keys, err
	}
	for i, key := range keys {
		keys[i] = s.account.users + strings.TrimPrefix(key, s.account.folder)
	}
	return keys, err
}

// Stat implements certmagic.Storage.
func (s accountStorage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	info, err := s.boundedStorage.Stat(ctx, s.at(key))
	if err == nil {
		info.Key = key
	}
	return info, err
}

// named returns the lock for one of certmagic's names. That of registrations is
// the same for every CA: one that hangs would keep the others from theirs.
func (s accountStorage) named(lock string) string {
	if strings.HasPrefix(lock, registrationLock) {
		return s.account.lock
	}
	return lock
}

// Lock implements certmagic.Storage. The lock for a registration comes with an
// error if the CA has meanwhile refused that of another host for their number.
func (s accountStorage) Lock(ctx context.Context, name string) error {
	err := s.boundedStorage.Lock(ctx, s.named(name))
	t := attemptOf(ctx)
	if err != nil || t == nil || s.named(name) == name || s.account.known.Load() {
		return err
	}
	until := s.account.holds.until(subject{scope: addressScope})
	if until.IsZero() {
		return nil
	}
	t.held = &heldError{until: until, err: errors.New("the CA temporarily accepts no more accounts from this address")}
	return errors.Join(t.held, s.boundedStorage.Unlock(ctx, s.named(name)))
}

// Unlock implements certmagic.Storage. The lock for a registration that has
// failed is kept until release, when it is known why.
func (s accountStorage) Unlock(ctx context.Context, name string) error {
	if t := attemptOf(ctx); t != nil && s.named(name) != name && !t.stored && !s.account.known.Load() {
		t.kept = s.named(name)
		return nil
	}
	return s.boundedStorage.Unlock(ctx, s.named(name))
}

// RenewLockLease implements certmagic.LockLeaseRenewer.
func (s accountStorage) RenewLockLease(ctx context.Context, name string, lease time.Duration) error {
	return s.boundedStorage.RenewLockLease(ctx, s.named(name), lease)
}
