package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

// clockSkew is how much the storage's clock may differ from ours.
const clockSkew = time.Minute

func (r *rig) loadsWhatWasStored() {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	for name, value := range map[string]string{
		"text":   "-----BEGIN CERTIFICATE-----\n",
		"binary": string(every),
		"zeros":  "\x00\x00",
		"empty":  "",
		"large":  strings.Repeat(string(every), 4096), // 1 MiB
	} {
		r.store(r.a, r.key(name), value)
		r.holds(r.key(name), value)
	}
}

func (r *rig) replaces() {
	key := r.key("d/file")
	for _, value := range []string{"first", "a second that is longer", "3", ""} {
		r.store(r.b, key, value)
		r.holds(key, value)
	}
}

func (r *rig) copies() {
	value := []byte("value")
	if err := r.a.Store(r.Context(), r.key("file"), value); err != nil {
		r.Fatalf("Store: %v", err)
	}
	copy(value, "stale")
	r.holds(r.key("file"), "value")
	if loaded, err := r.a.Load(r.Context(), r.key("file")); err == nil {
		copy(loaded, "stale")
	}
	r.holds(r.key("file"), "value")
}

func (r *rig) missing() {
	r.store(r.a, r.key("d/file"), "value")
	for _, key := range []string{unique(), r.key("none"), r.key("d/none"), r.key("d/fil"), r.key("d/file2"), r.key("none/file")} {
		r.isGone(key)
		if keys, err := r.a.List(r.Context(), key, false); !errors.Is(err, fs.ErrNotExist) {
			r.Errorf("List(%q) = %q, %v, want fs.ErrNotExist", key, keys, err)
		}
		if err := r.a.Delete(r.Context(), key); err != nil {
			r.Errorf("Delete(%q) = %v, want nil for a key that is missing", key, err)
		}
	}
	if value, err := r.a.Load(r.Context(), r.key("d")); err == nil {
		r.Errorf("Load of a directory = %q, want an error", value)
	}
	r.holds(r.key("d/file"), "value")
}

// isGone checks that key is neither a file nor a directory, through both
// handles.
func (r *rig) isGone(key string) {
	r.Helper()
	for _, s := range r.handles() {
		if value, err := s.Load(r.Context(), key); !errors.Is(err, fs.ErrNotExist) {
			r.Errorf("Load(%q) = %s, %v, want fs.ErrNotExist", key, brief(string(value)), err)
		}
		if info, err := s.Stat(r.Context(), key); !errors.Is(err, fs.ErrNotExist) {
			r.Errorf("Stat(%q) = %+v, %v, want fs.ErrNotExist", key, info, err)
		}
		if s.Exists(r.Context(), key) {
			r.Errorf("Exists(%q) = true, want false", key)
		}
	}
}

func (r *rig) deletes() {
	r.store(r.a, r.key("d/one"), "1")
	r.store(r.a, r.key("d/two"), "2")
	for range 2 { // the second time there is nothing to delete
		if err := r.b.Delete(r.Context(), r.key("d/one")); err != nil {
			r.Fatalf("Delete: %v", err)
		}
		r.isGone(r.key("d/one"))
	}
	r.holds(r.key("d/two"), "2")
	r.store(r.a, r.key("d/one"), "again")
	r.holds(r.key("d/one"), "again")
}

// neighbours returns keys that begin with the name of directory d/x, and sort
// before and after the keys below it.
func (r *rig) neighbours() []string {
	return []string{r.key("d/x-1"), r.key("d/x.1"), r.key("d/x0"), r.key("d/xx"), r.key("d/y/x")}
}

func (r *rig) deletesBelow() {
	inside := []string{r.key("d/x/1"), r.key("d/x/y/2"), r.key("d/x/y/z/3")}
	for _, key := range append(r.neighbours(), inside...) {
		r.store(r.a, key, key)
	}
	if err := r.b.Delete(r.Context(), r.key("d/x")); err != nil {
		r.Fatalf("Delete of a directory: %v", err)
	}
	for _, key := range append(inside, r.key("d/x"), r.key("d/x/y")) {
		r.isGone(key)
	}
	for _, key := range r.neighbours() {
		r.holds(key, key)
	}
}

func (r *rig) stats() {
	for _, size := range []int{5, 70_000, 3, 0} {
		before := time.Now().Add(-clockSkew)
		r.store(r.a, r.key("d/file"), strings.Repeat("x", size))
		info, err := r.b.Stat(r.Context(), r.key("d/file"))
		switch {
		case err != nil:
			r.Fatalf("Stat: %v", err)
		case info.Key != r.key("d/file"):
			r.Errorf("Stat says key %q, want %q", info.Key, r.key("d/file"))
		case !info.IsTerminal:
			r.Errorf("Stat says that a file is not terminal")
		case info.Size != int64(size) && info.Size != 0: // it may be unknown
			r.Errorf("Stat says %d bytes, want %d", info.Size, size)
		case !info.Modified.IsZero() && (info.Modified.Before(before) || info.Modified.After(time.Now().Add(clockSkew))):
			r.Errorf("Stat says modified at %v, it was just now, %v", info.Modified, time.Now())
		}
	}
	info, err := r.b.Stat(r.Context(), r.key("d"))
	if err != nil || info.IsTerminal || info.Key != r.key("d") {
		r.Errorf("Stat of a directory = %+v, %v, want its key and not terminal", info, err)
	}
	if !r.b.Exists(r.Context(), r.key("d")) {
		r.Errorf("Exists of a directory = false, want true")
	}
}

// tree stores a tree below d/x and its neighbours, and returns the tree's
// files.
func (r *rig) tree() []string {
	files := []string{r.key("d/x/a"), r.key("d/x/b/1"), r.key("d/x/b/2"), r.key("d/x/b-c"), r.key("d/x/c/d/e/f"), r.key("d/x/c/g")}
	for _, key := range append(r.neighbours(), files...) {
		r.store(r.a, key, "value")
	}
	return files
}

func (r *rig) listsChildren() {
	r.tree()
	r.lists(r.key("d/x"), r.key("d/x/a"), r.key("d/x/b"), r.key("d/x/b-c"), r.key("d/x/c"))
	r.lists(r.key("d/x/c"), r.key("d/x/c/d"), r.key("d/x/c/g"))
	r.lists(r.dir, r.key("d"))
	keys, err := r.b.List(r.Context(), "", false)
	if err != nil || !slices.Contains(keys, r.dir) {
		r.Errorf("List(\"\") = %q, %v, want %q among them", keys, err, r.dir)
	}
}

// lists checks that a directory has exactly these children, in any order.
func (r *rig) lists(dir string, want ...string) {
	r.Helper()
	keys, err := r.b.List(r.Context(), dir, false)
	slices.Sort(keys)
	slices.Sort(want)
	if err != nil || !slices.Equal(keys, want) {
		r.Errorf("List(%q) = %q, %v, want %q", dir, keys, err, want)
	}
}

// listsBelow allows a recursive list to contain directories, as that of
// certmagic.FileStorage does.
func (r *rig) listsBelow() {
	files := r.tree()
	keys, err := r.b.List(r.Context(), r.key("d/x"), true)
	if err != nil {
		r.Fatalf("List: %v", err)
	}
	for i, key := range keys {
		info, err := r.b.Stat(r.Context(), key)
		switch {
		case err != nil:
			r.Errorf("a recursive List names %q, of which Stat says: %v", key, err)
		case !strings.HasPrefix(key, r.key("d/x/")):
			r.Errorf("a recursive List of %q names %q", r.key("d/x"), key)
		case info.IsTerminal && !slices.Contains(files, key):
			r.Errorf("a recursive List names %q, which is no file of the tree", key)
		case slices.Contains(keys[:i], key):
			r.Errorf("a recursive List names %q twice", key)
		}
	}
	for _, key := range files {
		if !slices.Contains(keys, key) {
			r.Errorf("a recursive List misses %q: %q", key, keys)
		}
	}
}

func (r *rig) certmagicKeys() {
	const issuer = "acme-v02.api.letsencrypt.org-directory"
	keys := []string{
		r.key("acme/" + issuer + "/users/someone+hosts@example.com/someone.json"),
		r.key("acme/" + issuer + "/challenge_tokens/example.com.json"),
		r.key(certmagic.StorageKeys.CertsSitePrefix(issuer, "an.example") + "/an.example.key.compromised"),
		r.key("ocsp/example.com-0f3a92cd"),
		r.key("last_clean.json"),
	}
	for _, host := range []string{"example.com", "*.example.com", "xn--bcher-kva.example", "_a.example.com", "192.0.2.1", "2001:db8::1", "::1"} {
		keys = append(keys, r.key(certmagic.StorageKeys.SiteCert(issuer, host)), r.key(certmagic.StorageKeys.SitePrivateKey(issuer, host)))
	}
	for _, key := range keys {
		r.store(r.a, key, key)
	}
	for _, key := range keys {
		r.holds(key, key)
	}
	site := r.key(certmagic.StorageKeys.CertsSitePrefix(issuer, "*.example.com"))
	r.lists(site, site+"/wildcard_.example.com.crt", site+"/wildcard_.example.com.key")
}

// concurrent lets workers replace one shared value, each with its own kind, and
// use a key of their own.
func (r *rig) concurrent() {
	var wg sync.WaitGroup
	r.store(r.a, r.key("shared"), kind(0))
	for i := range 4 {
		wg.Go(func() {
			s := r.handles()[i%2]
			for range 20 {
				if err := r.round(s, i); err != nil {
					r.Errorf("worker %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// kind returns the value that worker i stores. It is not a part of another
// worker's value.
func kind(i int) string { return strings.Repeat(string(rune('a'+i)), 1+5000*i) }

func (r *rig) round(s certmagic.Storage, i int) error {
	own := r.key(fmt.Sprintf("own/%d", i))
	for key, value := range map[string]string{r.key("shared"): kind(i), own: own} {
		if err := s.Store(r.Context(), key, []byte(value)); err != nil {
			return err
		}
	}
	shared, err := s.Load(r.Context(), r.key("shared"))
	if err != nil {
		return err
	}
	if len(shared) == 0 || !bytes.Equal(shared, []byte(kind(int(shared[0]-'a')))) {
		return fmt.Errorf("a value that nobody stored: %s", brief(string(shared)))
	}
	if value, err := s.Load(r.Context(), own); err != nil || string(value) != own {
		return fmt.Errorf("its own key has %s, %w", brief(string(value)), err)
	}
	if err := s.Delete(r.Context(), own); err != nil {
		return err
	}
	if _, err := s.Load(r.Context(), own); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("its own key, deleted, loads with %w", err)
	}
	return nil
}

// brief quotes the beginning of a value.
func brief(value string) string {
	if len(value) <= 40 {
		return fmt.Sprintf("%q", value)
	}
	return fmt.Sprintf("%q... (%d bytes)", value[:40], len(value))
}
