package certs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"time"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

const (
	ledgerPause   = time.Minute // between two reads of what other processes have stored
	maxEntries    = 100         // maximum per ledger
	maxLedgerSize = 64 << 10    // maximum size that is read
)

// scopeNames are the names of the scopes in storage. Read-only.
var scopeNames = [...]string{hostScope: "host", domainScope: "domain", accountScope: "account", addressScope: "address"}

// A ledger is the stored list of the limits that an account has reached. It
// survives restarts and is shared by a cluster, so each limit is reached only
// once. What cannot be read or written is ignored.
type ledger struct {
	storage *boundedStorage
	key     string

	slot   chan struct{} // held while reading or writing; guards looked
	looked time.Time     // time of the last read
}

// An entry is one limit in a ledger.
type entry struct {
	Scope string    `json:"scope"`
	Name  string    `json:"name,omitempty"` // of the host or domain
	Until time.Time `json:"until"`
}

type entries struct {
	Limits []entry `json:"limits"`
}

// newLedger returns the ledger of an account: hostproxy/limits/<digest>.json.
func newLedger(s *boundedStorage, account ...string) *ledger {
	return &ledger{storage: s, slot: make(chan struct{}, 1), key: path.Join("hostproxy", "limits", digest(account...)+".json")}
}

// read copies the limits that other processes have stored into h, once a
// minute. A nil ledger has none.
func (l *ledger) read(ctx context.Context, h *holds) {
	if l == nil {
		return
	}
	select {
	case l.slot <- struct{}{}: // others wait: they must not run into a known limit
		defer func() { <-l.slot }()
	case <-ctx.Done():
		return
	}
	if time.Since(l.looked) >= ledgerPause {
		l.merge(ctx, h)
	}
}

// merge reads the ledger into h. The slot is held.
func (l *ledger) merge(ctx context.Context, h *holds) {
	l.looked = time.Now()
	ctx, cancel := context.WithTimeout(ctx, historyTimeout)
	defer cancel()
	b, err := l.storage.Load(ctx, l.key)
	var all entries
	if err != nil || len(b) > maxLedgerSize || json.Unmarshal(b, &all) != nil {
		return
	}
	for _, e := range all.Limits[:min(len(all.Limits), maxEntries)] {
		if met, ok := e.limit(); ok {
			h.learn(met)
		}
	}
}

// limit returns the limit of an entry, false if it has ended or is damaged: no
// limit lasts longer than limitedLast.
func (e entry) limit() (limit, bool) {
	index := slices.Index(scopeNames[:], e.Scope)
	if left := time.Until(e.Until); index < 0 || left <= 0 || left > limitedLast+historySkew {
		return limit{}, false
	}
	about := subject{scope(index), e.Name}
	return limit{subject: about, until: inTime(e.Until)}, about.valid()
}

// write adds the limits in force in h to the ledger. It continues after ctx is
// done.
func (l *ledger) write(ctx context.Context, h *holds, log *slog.Logger) {
	if l == nil {
		return
	}
	l.slot <- struct{}{} // each holder takes at most twice historyTimeout
	defer func() { <-l.slot }()
	ctx = context.WithoutCancel(ctx)
	l.merge(ctx, h)
	ctx, cancel := context.WithTimeout(ctx, historyTimeout)
	defer cancel()
	b, err := json.Marshal(entries{h.inForce()})
	if err == nil {
		err = l.storage.Store(ctx, l.key, b)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Debug("limits of a CA not saved", "cause", err)
	}
}

// valid reports whether a limit can apply to s.
func (s subject) valid() bool {
	if s.scope == accountScope || s.scope == addressScope {
		return s.name == ""
	}
	base := s.name
	if s.scope == hostScope && len(base) > 2 && base[:2] == "*." {
		base = base[2:]
	}
	canonical, err := hostname.Canonical(base)
	return err == nil && canonical == base
}

// learn puts a limit of another process in force, unless a longer one is.
func (h *holds) learn(l limit) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if held := h.by[l.subject]; held == nil && len(h.by) < maxHolds || held != nil && held.until.Before(l.until) {
		h.by[l.subject] = &hold{subject: l.subject, until: l.until}
	}
}

// inForce returns the limits in force in the form of a ledger, the widest scope
// first.
func (h *holds) inForce() []entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []*hold
	for _, held := range h.by {
		if time.Now().Before(held.until) {
			all = append(all, held)
		}
	}
	slices.SortFunc(all, func(a, b *hold) int {
		return cmp.Or(cmp.Compare(b.scope, a.scope), b.until.Compare(a.until), cmp.Compare(a.name, b.name))
	})
	limits := make([]entry, 0, min(len(all), maxEntries))
	for _, held := range all[:min(len(all), maxEntries)] {
		limits = append(limits, entry{scopeNames[held.scope], held.name, inTime(held.until).UTC().Round(0)})
	}
	return limits
}
