package certs

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"log/slog"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// recallLast is the longest pause between two tries to list what storage has:
// each that hangs keeps a slot.
const recallLast = time.Hour

// A recaller finds the certificates of an earlier process for hosts that came
// on demand: they are served, shown and renewed as before, though no route
// names them.
type recaller struct {
	storage *boundedStorage
	choices *choices
	knows   func(host string) bool    // Options.Knows
	wants   func(pattern string) bool // Options.Wants
	// adds a host on demand to the table, unless something serves it
	add   func(host string)
	spawn func(task func()) bool // starts a task of the Manager
	log   *slog.Logger
}

// recall begins to look for the certificates of some issuers until ctx is done,
// each on its own: one that storage does not list keeps none waiting.
func (r *recaller) recall(ctx context.Context, chains iter.Seq[*chain]) {
	for c := range chains {
		for _, a := range c.authorities {
			r.spawn(func() { r.from(ctx, a) })
		}
	}
}

// from is recall for one issuer. It tries until storage lists what it has, and
// at once when storage returns.
func (r *recaller) from(ctx context.Context, a *authority) {
	for wait := storageFirst; ctx.Err() == nil; wait = min(2*wait, recallLast) {
		returning := r.storage.returning()
		keys, err := r.storage.List(ctx, a.prefix, false)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			r.keys(ctx, a.prefix, keys)
			return
		}
		r.log.Debug("certificates in storage are not listed", "issuer", a.key, "cause", err)
		select {
		case <-returning:
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

func (r *recaller) keys(ctx context.Context, prefix string, keys []string) {
	for len(keys) > 0 && ctx.Err() == nil {
		n := min(len(keys), batch)
		r.hosts(prefix, keys[:n])
		keys = keys[n:]
	}
}

// hosts adds the hosts of some storage keys that a route serves and no route
// names.
func (r *recaller) hosts(prefix string, keys []string) {
	for _, key := range keys {
		name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(key, prefix), "/"), "/")
		canonical, err := hostname.Canonical(name)
		if err != nil || canonical != name || isIP(name) || isShort(name) || !r.knows(name) || r.wants(name) {
			continue
		}
		if cert, err := r.choices.demanded(name); cert != nil || err != nil {
			continue // a handshake asks anew
		}
		r.add(name)
	}
}
