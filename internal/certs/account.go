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

// An accountID tells accounts apart: issuers with the same one share its limits
// and its pace. It is comparable.
type accountID struct {
	issuer    any // if not ACME: the issuer itself; nil otherwise
	directory string
	email     string
	key       string // PEM, if the program provides one
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

// plain reports whether the e-mail alone identifies the account, as certmagic
// assumes.
func (id accountID) plain() bool { return id.issuer == nil && id.key == "" && id.external == "" }

// digest returns a name for parts in storage that does not reveal them.
func digest(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// An account is the state shared by all authorities that order with it.
type account struct {
	pace  *pacer // nil means no limit
	holds *holds
	met   *ledger // keeps the limits in storage; nil keeps them in memory only

	users     string // where certmagic keeps accounts of the CA; "" if not ACME
	folder    string // where this account is kept
	directory string // of the CA
	own       bool   // the program provides its key
	lock      string // keeps other processes out while the account is created or removed

	known   atomic.Bool // the account exists
	lookMu  sync.Mutex
	looked  time.Time // when storage was last checked for it
	regPath string    // key of its registration in storage, once seen
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
// have created it: storage is checked once a minute.
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

// renounce removes from storage the account that an attempt used, if it is
// still there. The next attempt creates a new one under the same lock: however
// many attempts find out at once, only one new account is created.
func (a *account) renounce(ctx context.Context, s *boundedStorage, used *attempt, log *slog.Logger) error {
	if err := s.Lock(ctx, a.lock); err != nil {
		return fmt.Errorf("lock of the account: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limit)
		defer cancel()
		_ = s.Unlock(ctx, a.lock) // if it fails, the lock is noted as held and freed at the end
	}()
	now, err := s.Load(ctx, used.regKey)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && !bytes.Equal(now, used.reg):
		return nil // another attempt was faster
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

// An attempt is what certmagic does for one order, as seen in its storage and
// its events. It is used by one goroutine.
type attempt struct {
	// called under the lock of the host, before the CA is contacted; an error
	// ends the attempt
	begin func(context.Context) error

	regKey, keyKey string // storage keys of the account
	reg            []byte // the account's registration, as loaded
	stored         bool   // an account was created
	forgotten      bool   // the CA does not know the account
	deactivated    bool   // the account is deactivated at the CA
	held           error  // why no account may be created now
	kept           string // lock of a failed registration, still held
}

type attemptKey struct{}

func (t *attempt) context(ctx context.Context) context.Context {
	return context.WithValue(ctx, attemptKey{}, t)
}

func attemptOf(ctx context.Context) *attempt {
	t, _ := ctx.Value(attemptKey{}).(*attempt)
	return t
}

// lost reports whether the account that was used is no longer usable.
func (t *attempt) lost() bool {
	return (t.forgotten || t.deactivated) && t.reg != nil && t.keyKey != ""
}

// location returns the URL of the account, or "" if its registration has none.
func (t *attempt) location() string {
	var reg struct {
		Location string `json:"location"`
	}
	_ = json.Unmarshal(t.reg, &reg)
	return reg.Location
}

// judge notes what the outcome of an order says about the account. An account
// whose key the program provides cannot be replaced.
func (t *attempt) judge(err error, a *account) { t.deactivated = !a.own && deactivated(err) }

// why returns the reason why an account is lost.
func (t *attempt) why() string {
	if t.deactivated {
		return "it was deactivated at the CA"
	}
	return "the CA no longer knows it"
}

// release frees the lock that the attempt still holds.
func (t *attempt) release(ctx context.Context, s *boundedStorage) {
	if t.kept != "" {
		// if it fails, the lock is noted as held and freed at the end
		_ = s.Unlock(context.WithoutCancel(ctx), t.kept)
		t.kept = ""
	}
}

// An accountStorage is the storage that certmagic sees when it uses one
// account. certmagic tells accounts apart by e-mail only; this gives each one
// its own place and lock. It also keeps certmagic from deleting an account: its
// handling of an account that the CA has forgotten creates two.
type accountStorage struct {
	*boundedStorage
	account *account
}

// at returns the real storage key of a key of certmagic.
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
	if err == nil && s.isAccount(key) && path.Ext(key) == ".key" { // the last key that is written
		s.account.known.Store(true)
	}
	return err
}

// Delete implements certmagic.Storage. An account is not deleted; instead the
// attempt ends.
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

// named returns the real lock for one of certmagic's names. certmagic uses the
// same lock name for registrations at every CA: a CA that hangs would block the
// others.
func (s accountStorage) named(lock string) string {
	if strings.HasPrefix(lock, registrationLock) {
		return s.account.lock
	}
	return lock
}

// Lock implements certmagic.Storage. Locking for a registration fails if,
// meanwhile, the CA has refused the registration of another host because of too
// many accounts.
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

// Unlock implements certmagic.Storage. The lock of a failed registration is
// kept until release, when the cause is known.
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
