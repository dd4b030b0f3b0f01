package certs

import (
	"context"
	"path"
	"regexp"
	"strings"

	"github.com/caddyserver/certmagic"
)

// A file name has at most 255 bytes. Names that fit stay unchanged: up to 239
// bytes before the suffix of a file, and 250 before ".lock".
const (
	maxFileName = 239
	maxLockName = 250
	keptOfName  = 150 // kept of a name that is too long; a digest follows
)

// shortName matches what short returns.
var shortName = regexp.MustCompile(`^.{150}-[0-9a-f]{16}$`) // read-only

// fileNames is a FileStorage for hosts of up to 253 bytes, the limit of DNS.
// For some of them certmagic makes file names that are longer than file systems
// allow, so that neither lock nor certificate could be stored. Here, names that
// are too long get a digest in place of their end.
type fileNames struct{ *certmagic.FileStorage }

// withFileNames returns s, wrapped so that each host's names fit.
func withFileNames(s certmagic.Storage) certmagic.Storage {
	if files, ok := s.(*certmagic.FileStorage); ok && files != nil {
		return fileNames{files}
	}
	return s
}

// at returns the key under which a value is stored.
func (fileNames) at(key string) string {
	if len(key) <= maxFileName {
		return key
	}
	parts := strings.Split(key, "/")
	for i, part := range parts {
		base, suffix := part, ""
		switch ext := path.Ext(part); ext {
		case certFile, keyFile, metaFile:
			base, suffix = strings.TrimSuffix(part, ext), ext
		}
		parts[i] = short(base, maxFileName) + suffix
	}
	return strings.Join(parts, "/")
}

// lock returns the file name of the lock called name.
func (fileNames) lock(name string) string {
	return short(certmagic.StorageKeys.Safe(name), maxLockName)
}

// short returns the name itself if it fits, and otherwise a shortened one.
func short(name string, most int) string {
	if len(name) <= most {
		return name
	}
	return name[:keptOfName] + "-" + digest(name)
}

// isShort reports whether a name may come from short.
func isShort(name string) bool { return shortName.MatchString(name) }

// Store implements certmagic.Storage.
func (f fileNames) Store(ctx context.Context, key string, value []byte) error {
	return f.FileStorage.Store(ctx, f.at(key), value)
}

// Load implements certmagic.Storage.
func (f fileNames) Load(ctx context.Context, key string) ([]byte, error) {
	return f.FileStorage.Load(ctx, f.at(key))
}

// Delete implements certmagic.Storage.
func (f fileNames) Delete(ctx context.Context, key string) error {
	return f.FileStorage.Delete(ctx, f.at(key))
}

// Exists implements certmagic.Storage.
func (f fileNames) Exists(ctx context.Context, key string) bool {
	return f.FileStorage.Exists(ctx, f.at(key))
}

// List implements certmagic.Storage. Names that were too long appear as short
// returns them.
func (f fileNames) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	return f.FileStorage.List(ctx, f.at(prefix), recursive)
}

// Stat implements certmagic.Storage.
func (f fileNames) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	info, err := f.FileStorage.Stat(ctx, f.at(key))
	if err == nil {
		info.Key = key
	}
	return info, err
}

// Lock implements certmagic.Storage.
func (f fileNames) Lock(ctx context.Context, name string) error {
	return f.FileStorage.Lock(ctx, f.lock(name))
}

// Unlock implements certmagic.Storage.
func (f fileNames) Unlock(ctx context.Context, name string) error {
	return f.FileStorage.Unlock(ctx, f.lock(name))
}
