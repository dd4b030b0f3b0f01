// Package storagetest checks your certmagic.Storage: that it does what
// certmagic and hostproxy rely on. This is what the interface documents and,
// where it says nothing, what certmagic.FileStorage does. Import it in a test:
//
//	func TestStorage(t *testing.T) {
//		dir := t.TempDir()
//		storagetest.Run(t, func(*testing.T) certmagic.Storage { return &certmagic.FileStorage{Path: dir} })
//	}
//
// It needs only the standard library and certmagic. Its files:
//
//   - storagetest.go: Run, and what all checks use
//   - values.go: the checks of values, keys and lists
//   - locks.go: the checks of locks
//   - killed.go: RunKilled, the check of the locks of a killed process
package storagetest

import (
	"context"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
)

// How long a check waits for something that must not happen, and for something
// that must.
const (
	glance   = 200 * time.Millisecond
	patience = 15 * time.Second
)

// Run checks the storage that open opens, each property in a subtest. It takes
// about three seconds.
//
// open is called twice for each property. Its results are handles on the same
// storage, like those of two processes. It may be called concurrently, since
// the checks of locks run in parallel. It must close what it opens with
// t.Cleanup.
//
// The storage may hold other keys and locks: Run works in its own directory
// with a random name, and deletes it. For the locks of a killed process, see
// [RunKilled].
func Run(t *testing.T, open func(t *testing.T) certmagic.Storage) {
	t.Helper()
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			if c.waits {
				t.Parallel()
			}
			c.run(newRig(t, open(t), open(t), patience))
		})
	}
}

// checks lists every property. Read-only.
var checks = []struct {
	name  string
	run   func(*rig)
	waits bool // the check mostly waits
}{
	{"what was stored is loaded", (*rig).loadsWhatWasStored, false},
	{"a value can be replaced", (*rig).replaces, false},
	{"values are not shared with the caller", (*rig).copies, false},
	{"what is missing does not exist", (*rig).missing, false},
	{"a deleted key is gone", (*rig).deletes, false},
	{"a deleted directory is gone, its neighbours are not", (*rig).deletesBelow, false},
	{"stat describes files and directories", (*rig).stats, false},
	{"a list names the children of a directory", (*rig).listsChildren, false},
	{"a recursive list names every file below", (*rig).listsBelow, false},
	{"the keys of certmagic are good", (*rig).certmagicKeys, false},
	{"concurrent use tears no value", (*rig).concurrent, false},
	{"a lock excludes", (*rig).lockExcludes, true},
	{"a waiter leaves when its context ends", (*rig).waiterLeaves, true},
	{"a freed lock goes to a waiter", (*rig).lockIsFreed, true},
	{"locks of different names are independent", (*rig).locksAreIndependent, true},
	{"a lock and a key of one name are independent", (*rig).lockIsNoKey, true},
	{"many holders take turns", (*rig).turns, true},
	{"an attempt at a lock does not wait", (*rig).tryLock, true},
}

// A rig is what a check works with: two handles on one storage, and a directory
// of its own.
type rig struct {
	testing.TB
	a, b     certmagic.Storage
	dir      string
	patience time.Duration
}

func newRig(t testing.TB, a, b certmagic.Storage, patience time.Duration) *rig {
	t.Helper()
	r := &rig{TB: t, a: a, b: b, dir: unique(), patience: patience}
	t.Cleanup(func() {
		t.Helper()
		if err := a.Delete(context.WithoutCancel(t.Context()), r.dir); err != nil {
			t.Errorf("storagetest: clean up: %v", err)
		}
	})
	return r
}

// unique returns a name that is used nowhere else, valid as a component of a
// key.
func unique() string { return "storagetest-" + strings.ToLower(rand.Text()) }

// key returns the key of a name in the rig's directory.
func (r *rig) key(name string) string { return r.dir + "/" + name }

// store stores value, or fails the test.
func (r *rig) store(s certmagic.Storage, key, value string) {
	r.Helper()
	if err := s.Store(r.Context(), key, []byte(value)); err != nil {
		r.Fatalf("Store(%q) of %d bytes: %v", key, len(value), err)
	}
}

// holds checks that key has value, through both handles.
func (r *rig) holds(key, value string) {
	r.Helper()
	for _, s := range r.handles() {
		got, err := s.Load(r.Context(), key)
		switch {
		case err != nil:
			r.Fatalf("Load(%q) = %v, want %s", key, err, brief(value))
		case string(got) != value:
			r.Fatalf("Load(%q) = %s, want %s", key, brief(string(got)), brief(value))
		case !s.Exists(r.Context(), key):
			r.Fatalf("Exists(%q) = false, but it loads", key)
		}
	}
}

func (r *rig) handles() []certmagic.Storage { return []certmagic.Storage{r.a, r.b} }
