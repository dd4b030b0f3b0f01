package certs

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"time"
)

// Where a storage says which one it is, and the lock around that, and around
// the filling of one that came back empty.
const (
	identityKey  = "hostproxy/id"
	identityLock = "hostproxy_id"
)

const (
	witnessLook     = 5 * time.Minute // between two looks at the identity
	witnessPatience = time.Minute     // for the lock: another member may be filling
)

// A witness notices when a storage has lost what was in it, by an identity that
// each storage gets at its first use, and has written back what this process
// holds. Without it, each host would be ordered anew and each member of a
// cluster make a root of its own, without a word.
type witness struct {
	manager *Manager
	storage *boundedStorage
	holds   func() int                      // how many certificates, the root included
	restore func(ctx context.Context) error // writes them back
	slot    chan struct{}                   // held by who looks; guards the rest

	id   string // of the storage as this process knows it; "" until known
	said bool   // the loss that is being repaired was logged
}

// newWitnesses makes the witness of the Manager's storage, and that of its
// local CA's if that is another.
func (m *Manager) newWitnesses() {
	m.witness(m.storage, func() int { return len(m.holdings()) }, m.writeBack)
	if m.local == nil || m.local.Storage == m.storage {
		return
	}
	if s, ok := m.local.Storage.(*boundedStorage); ok {
		m.witness(s, m.local.holds, m.writeBackRoot)
	}
}

func (m *Manager) witness(s *boundedStorage, holds func() int, restore func(context.Context) error) {
	w := &witness{manager: m, storage: s, holds: holds, restore: restore, slot: make(chan struct{}, 1)}
	m.witnesses = append(m.witnesses, w)
	s.onReturn(func() { w.inspect(m.ctx) })
}

// watch is the task that looks from time to time.
func (w *witness) watch() {
	ticker := time.NewTicker(witnessLook)
	defer ticker.Stop()
	for {
		w.inspect(w.manager.ctx)
		select {
		case <-w.manager.ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// inspect looks at storage once, and returns when what was lost is written back,
// as far as this process can. It gives up when ctx is done.
func (w *witness) inspect(ctx context.Context) {
	select {
	case w.slot <- struct{}{}:
		defer func() { <-w.slot }()
	case <-ctx.Done():
		return
	}
	m := w.manager
	err := w.check(m.ctx)
	if err == nil && m.local != nil && m.local.Storage == w.storage {
		err = m.followRoot(m.ctx)
	}
	if err != nil && m.ctx.Err() == nil {
		m.log.Debug("identity of storage not settled", "cause", err)
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

// settle writes back what storage lacks, if it is not the one that it was, and
// makes sure that it has an identity. The identity comes last: whoever fails
// before starts again. The lock is held.
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

// say logs a loss, once, if this process holds anything that was lost.
func (w *witness) say() {
	held := w.holds()
	if w.said || held == 0 {
		return
	}
	w.said = true
	w.manager.log.Error("storage lost its contents or was replaced; writing back what is in memory",
		"storage", w.storage.String(), "certificates", held)
}
