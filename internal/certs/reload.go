package certs

import (
	"errors"
	"fmt"
	"io/fs"
	"time"
)

const (
	maxReloads   = 16   // concurrent reads of certificates evicted from memory
	maxReloading = 1024 // such reads, including waiting ones
	reloadPause  = storageFirst
)

var errManyReloads = errors.New("too many certificates are being read from storage")

// reload loads an evicted certificate again, for a handshake that waits. It
// uses neither a queue nor the host's job: thousands of renewals, or one that
// hangs, must not keep handshakes from a good certificate. An error means that
// waiting is useless. The manager's lock is held.
func (h *host) reload() error {
	m, o := h.manager, h.move()
	switch {
	case o.reloading:
		return nil
	case o.unread != nil && time.Since(o.unreadAt) < reloadPause:
		return fmt.Errorf("no certificate for %q: %w", h.name, o.unread)
	case m.reloading >= maxReloading:
		return errManyReloads
	case !m.spawn(h.readAgain):
		return errClosed
	}
	o.reloading = true
	m.reloading++
	return nil
}

// readAgain is the task that loads the certificate in use again.
func (h *host) readAgain() {
	m := h.manager
	s, err := h.readInUse()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reloading--
	o := h.motion
	o.reloading, o.unread, o.unreadAt = false, nil, time.Now()
	switch {
	case h.gone || !h.evicted():
	case err == nil:
		o.awaited = true
		h.serve(s)
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, errUnusable):
		o.lost = true
	default:
		o.unread = err
	}
	h.settle()
	h.dropMotion()
}

// readInUse reads the certificate in use from where it is stored.
func (h *host) readInUse() (*stored, error) {
	m := h.manager
	select {
	case m.reloads <- struct{}{}:
		defer func() { <-m.reloads }()
	case <-m.ctx.Done():
		return nil, errClosed
	}
	m.mu.RLock()
	y := h.summary
	m.mu.RUnlock()
	s, err := readFrom(m.ctx, m.storage, y.by, h.name)
	if err == nil && !fresh(s.cert) {
		err = fmt.Errorf("%w: it has expired", errUnusable)
	}
	return s, err
}
