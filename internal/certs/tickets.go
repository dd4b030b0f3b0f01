package certs

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"
)

// The storage key of the session ticket keys, and the lock around their
// rotation.
const (
	ticketsKey  = "tickets/keys.json"
	ticketsLock = "ticket_keys"
)

const (
	ticketCheck  = 10 * time.Minute // between two reads of storage
	ticketRotate = 24 * time.Hour   // between two keys
	ticketWarmUp = time.Hour        // until a new key is used; by then all instances know it
	ticketLife   = 3 * 24 * time.Hour
	maxTickets   = 16 // maximum in storage; with more, the value is not ours
)

// tickets are the session ticket keys that instances with the same storage
// share: a client can resume its session on any of them, and after a restart.
type tickets struct {
	manager *Manager

	mu      sync.Mutex
	keys    []ticketKey
	configs []*tls.Config // that use the keys
}

// A ticketKey is a key as stored. Lists have the newest first.
type ticketKey struct {
	Born   time.Time `json:"born"`
	Secret []byte    `json:"secret"`
}

// applyTo makes c use the keys, now and later.
func (t *tickets) applyTo(c *tls.Config) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.configs = append(t.configs, c)
	t.apply()
}

// watch is the task that follows the keys in storage and rotates them, at
// intervals and after an outage of storage. While storage fails, the known keys
// stay in use. Without a known key, crypto/tls uses keys of its own.
func (t *tickets) watch() {
	ticker := time.NewTicker(ticketCheck)
	defer ticker.Stop()
	again := make(chan struct{}, 1)
	t.manager.storage.onReturn(func() {
		select {
		case again <- struct{}{}:
		default:
		}
	})
	for {
		if err := t.refresh(t.manager.ctx); err != nil && t.manager.ctx.Err() == nil {
			t.manager.log.Warn("session ticket keys cannot be shared", "cause", err)
		}
		select {
		case <-again:
		case <-t.manager.ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// refresh reads the keys, and makes a new one if it is due.
func (t *tickets) refresh(ctx context.Context) error {
	keys, err := t.read(ctx)
	if err == nil && !due(keys) {
		t.set(keys)
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s := t.manager.storage
	if err := s.Lock(ctx, ticketsLock); err != nil {
		return err
	}
	defer func() { _ = s.Unlock(context.WithoutCancel(ctx), ticketsLock) }()
	if keys, err = t.read(ctx); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if due(keys) { // no other process was faster
		keys = rotate(keys)
		b, err := json.Marshal(keys)
		if err != nil {
			return err
		}
		if err := s.Store(ctx, ticketsKey, b); err != nil {
			return err
		}
	}
	t.set(keys)
	return nil
}

// writeBack adds the known keys to a storage that has lost them, and keeps
// those that other instances have made since: sessions with either kind can be
// resumed.
func (t *tickets) writeBack(ctx context.Context) error {
	t.mu.Lock()
	held := slices.Clone(t.keys)
	t.mu.Unlock()
	if len(held) == 0 {
		return nil
	}
	s := t.manager.storage
	if err := s.Lock(ctx, ticketsLock); err != nil {
		return err
	}
	defer func() { _ = s.Unlock(context.WithoutCancel(ctx), ticketsLock) }()
	keys, err := t.read(ctx)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	merged := merge(keys, held)
	if len(merged) > len(keys) {
		b, err := json.Marshal(merged)
		if err != nil {
			return err
		}
		if err := s.put(ctx, ticketsKey, b); err != nil {
			return err
		}
	}
	t.set(merged)
	return nil
}

// merge returns the keys of both, newest first, at most maxTickets.
func merge(a, b []ticketKey) []ticketKey {
	all := slices.Clone(a)
	for _, k := range b {
		if !slices.ContainsFunc(a, func(other ticketKey) bool { return bytes.Equal(other.Secret, k.Secret) }) {
			all = append(all, k)
		}
	}
	slices.SortStableFunc(all, func(x, y ticketKey) int { return y.Born.Compare(x.Born) })
	return all[:min(len(all), maxTickets)]
}

func (t *tickets) read(ctx context.Context) ([]ticketKey, error) {
	b, err := t.manager.storage.Load(ctx, ticketsKey)
	if err != nil {
		return nil, err
	}
	var keys []ticketKey
	if err := json.Unmarshal(b, &keys); err != nil || len(keys) > maxTickets {
		return nil, fmt.Errorf("%q in storage is damaged: delete it", ticketsKey)
	}
	for _, k := range keys {
		if len(k.Secret) != 32 {
			return nil, fmt.Errorf("%q in storage is damaged: delete it", ticketsKey)
		}
	}
	return keys, nil
}

// due reports whether a new key is due. A key from the far future was made by a
// wrong clock.
func due(keys []ticketKey) bool {
	return len(keys) == 0 || keys[0].age() >= ticketRotate || keys[0].age() < -ticketRotate
}

func (k ticketKey) age() time.Duration { return time.Since(k.Born) }

// rotate puts a new key first and drops those that are too old.
func rotate(keys []ticketKey) []ticketKey {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	fresh := []ticketKey{{Born: time.Now().UTC(), Secret: secret}}
	for _, k := range keys {
		if k.age() < ticketLife && k.age() >= -ticketRotate {
			fresh = append(fresh, k)
		}
	}
	return fresh
}

func (t *tickets) set(keys []ticketKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keys = keys
	t.apply()
}

// apply sets the keys of the configs: the first encrypts, all decrypt. A key
// encrypts once every instance has had time to learn it. t.mu is held.
func (t *tickets) apply() {
	var sealing, opening [][32]byte
	for _, k := range t.keys {
		if len(sealing) == 0 && (k.age() >= ticketWarmUp || len(t.keys) == 1) {
			sealing = append(sealing, [32]byte(k.Secret))
			continue
		}
		opening = append(opening, [32]byte(k.Secret))
	}
	all := append(sealing, opening...)
	if len(all) == 0 {
		return
	}
	for _, c := range t.configs {
		c.SetSessionTicketKeys(all)
	}
}
