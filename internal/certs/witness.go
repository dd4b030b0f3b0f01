package certs

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"log/slog"
	"time"
)

// The storage key of a storage's identity, and the lock around that and around
// refilling an emptied storage.
const (
	identityKey  = "hostproxy/id"
	identityLock = "hostproxy_id"
)

const (
	witnessLook     = 5 * time.Minute // between two reads of the identity
	witnessPatience = time.Minute     // for the lock: another member may be refilling
)

// A witness notices when a storage has lost its content, by an identity that
// each storage gets at its first use. It then writes back what this process
// holds. Without it, each host would be ordered again and each member of a
// cluster would make its own root, without any log line.
type witness struct {
	ctx     context.Context // its cancellation ends the work
	log     *slog.Logger
	storage *boundedStorage
	local   *localSigner                    // its root is in storage; nil if there is none
	holds   func() int                      // number of certificates held, the root included
	restore func(ctx context.Context) error // writes them back
	slot    chan struct{}                   // held while checking; guards the rest

	id   string // the storage's identity as last seen; "" until known
	said bool   // the current loss was logged
}

// newWitnesses makes the witness of the Manager's storage, and another one if
// the local CA has a different storage.
func newWitnesses(ctx context.Context, r *restorer) []*witness {
	first := &witness{storage: r.storage, holds: func() int { return len(r.holdings()) }, restore: r.restore}
	all := []*witness{first}
	if l := r.local; l != nil && l.ca.Storage == r.storage {
		first.local = l
	} else if l != nil {
		if s, ok := l.ca.Storage.(*boundedStorage); ok {
			all = append(all, &witness{storage: s, local: l, holds: l.ca.holds, restore: l.writeBack})
		}
	}
	for _, w := range all {
		w.ctx, w.log, w.slot = ctx, r.log, make(chan struct{}, 1)
		w.storage.onReturn(func() { w.inspect(ctx) })
	}
	return all
}

// watch is the task that inspects storage regularly.
func (w *witness) watch() {
	ticker := time.NewTicker(witnessLook)
	defer ticker.Stop()
	for {
		w.inspect(w.ctx)
		select {
		case <-w.ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// inspect checks storage once. It returns when lost content is written back, as
// far as this process holds it. It gives up when ctx is done.
func (w *witness) inspect(ctx context.Context) {
	select {
	case w.slot <- struct{}{}:
		defer func() { <-w.slot }()
	case <-ctx.Done():
		return
	}
	err := w.check(w.ctx)
	if err == nil && w.local != nil {
		err = w.local.follow(w.ctx)
	}
	if err != nil && w.ctx.Err() == nil {
		w.log.Debug("identity of storage not settled", "cause", err)
	}
}

func (w *witness) check(ctx context.Context) error {
	id, err := w.identity(ctx)
	if err != nil || id != "" && id == w.id {
		return err
	}
	if w.id != "" {
		w.say()
	}
	s := w.storage
	patience, cancel := context.WithTimeout(ctx, witnessPatience)
	defer cancel()
	if err := s.Lock(patience, identityLock); err != nil {
		return err
	}
	defer func() { _ = s.Unlock(context.WithoutCancel(ctx), identityLock) }()
	return w.settle(ctx)
}

// settle writes back what storage lacks, if its identity has changed, and makes
// sure that it has one. The identity comes last: after a failure before that,
// everything is repeated. The lock is held.
func (w *witness) settle(ctx context.Context) error {
	id, err := w.identity(ctx)
	if err != nil {
		return err
	}
	if w.id != "" {
		if err := w.restore(ctx); err != nil {
			return err
		}
	}
	if id == "" {
		id = rand.Text()
		if err := w.storage.put(ctx, identityKey, []byte(id)); err != nil {
			return err
		}
	}
	w.id, w.said = id, false
	return nil
}

// identity returns the storage's identity, "" if it has none.
func (w *witness) identity(ctx context.Context) (string, error) {
	b, err := w.storage.Load(ctx, identityKey)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(b), err
}

// say logs a loss, once, if this process holds anything to write back.
func (w *witness) say() {
	held := w.holds()
	if w.said || held == 0 {
		return
	}
	w.said = true
	w.log.Error("storage lost its contents or was replaced; writing back what is in memory",
		"storage", w.storage.String(), "certificates", held)
}
