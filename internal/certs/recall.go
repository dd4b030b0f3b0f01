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

// recallLast is the longest pause between two attempts to list the storage:
// each attempt that hangs keeps a slot.
const recallLast = time.Hour

// A recaller finds certificates that an earlier process obtained for hosts on
// demand: they are served, shown and renewed as before, although no route names
// them.
type recaller struct {
	storage *boundedStorage
	choices *choices
	knows   func(host string) bool    // Options.Knows
	wants   func(pattern string) bool // Options.Wants
	// adds a host on demand to the table, unless it is served already
	add   func(host string)
	spawn func(task func()) bool // starts a task of the Manager
	log   *slog.Logger
}

// recall starts looking for the certificates of some issuers, until ctx is
// done. Each issuer has its own task: one whose listing fails does not delay
// the others.
func (r *recaller) recall(ctx context.Context, chains iter.Seq[*chain]) {
	for c := range chains {
		for _, a := range c.authorities {
			r.spawn(func() { r.from(ctx, a) })
		}
	}
}

// from is recall for one issuer. It retries until storage returns its list, and
// immediately after an outage of storage.
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

// hosts adds the hosts of some storage keys that are served by a route without
// being named by one.
func (r *recaller) hosts(prefix string, keys []string) {
	for _, key := range keys {
		name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(key, prefix), "/"), "/")
		canonical, err := hostname.Canonical(name)
		if err != nil || canonical != name || isIP(name) || isShort(name) || !r.knows(name) || r.wants(name) {
			continue
		}
		if cert, err := r.choices.demanded(name); cert != nil || err != nil {
			continue // the next handshake asks again
		}
		r.add(name)
	}
}
