package certs

import (
	"bytes"
	"maps"
	"strings"
	"sync"
)

const (
	maxKeepsakes    = 64
	maxKeepsakeSize = 64 << 10
)

// keepsakes are the ACME accounts in storage, as last read or written:
// certmagic reads them for each order and does not keep them. The zero value is
// empty. The methods may be called concurrently.
type keepsakes struct {
	mu   sync.Mutex
	kept map[string][]byte
}

// keep remembers a value if its key belongs to an account and there is room.
func (k *keepsakes) keep(key string, value []byte) {
	if !strings.HasPrefix(key, "acme/") || !strings.Contains(key, "/users/") || len(value) > maxKeepsakeSize {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.kept[key]; !ok && len(k.kept) >= maxKeepsakes {
		return
	}
	if k.kept == nil {
		k.kept = make(map[string][]byte)
	}
	k.kept[key] = bytes.Clone(value)
}

// drop forgets key and all keys below it.
func (k *keepsakes) drop(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.kept, func(kept string, _ []byte) bool {
		return kept == key || strings.HasPrefix(kept, key+"/")
	})
}

func (k *keepsakes) all() map[string][]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.kept)
}
