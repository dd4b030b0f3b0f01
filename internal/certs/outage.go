package certs

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	// outageLook is the time between two tests of a storage that has failed.
	outageLook = 3 * time.Second
	// outageLookMost is its maximum, if tests succeed while other operations
	// fail.
	outageLookMost = time.Minute
	// outageApart is the time after which an outage counts as a new one.
	outageApart = 10 * time.Minute

	probeKey = "hostproxy/probe"
)

// An outage notices when storage fails, and when it works again. While storage
// fails, a task tests it every few seconds, so the end of an outage is noticed
// without any request. The zero value notices nothing.
type outage struct {
	ctx     context.Context // its cancellation ends the task
	spawn   func(task func()) bool
	log     *slog.Logger
	storage *boundedStorage

	calls sync.Mutex // held while the functions run
	mu    sync.Mutex // guards the rest
	down  bool
	write bool      // a write failed
	since time.Time // time of the failure
	cause error
	pause time.Duration // between two tests
	ended time.Time     // end of the last outage
	lasts time.Duration // duration of the last outage
	said  time.Time     // when the last outage was logged
	after []func()
	ends  chan struct{} // closed at the end of the next outage; nil if nothing waits
}

// watch enables the outage. spawn runs the task that tests, until ctx is done.
func (s *boundedStorage) watch(ctx context.Context, spawn func(task func()) bool, log *slog.Logger) {
	s.outage.mu.Lock()
	defer s.outage.mu.Unlock()
	s.outage.ctx, s.outage.spawn, s.outage.log, s.outage.storage = ctx, spawn, log, s
}

// onReturn registers f to be called after each outage. The functions run one
// after another, in the order of their registration, without locks held.
func (s *boundedStorage) onReturn(f func()) {
	s.outage.mu.Lock()
	defer s.outage.mu.Unlock()
	s.outage.after = append(s.outage.after, f)
}

// returning returns a channel that is closed at the end of the current or next
// outage.
func (s *boundedStorage) returning() <-chan struct{} {
	s.outage.mu.Lock()
	defer s.outage.mu.Unlock()
	if s.outage.ends == nil {
		s.outage.ends = make(chan struct{})
	}
	return s.outage.ends
}

// outageLasted returns the duration of the last outage.
func (s *boundedStorage) outageLasted() time.Duration {
	s.outage.mu.Lock()
	defer s.outage.mu.Unlock()
	return s.outage.lasts
}

// note records the result of an operation. ctx is its caller's: if that is
// done, the result says nothing about the storage.
func (o *outage) note(ctx context.Context, verb string, err error) {
	var write bool
	switch verb {
	case "list", "unlock", "renew the lock":
		return // naturally long, or about a single lock
	case "store", "delete", "lock":
		write = true
	}
	if err == nil || ctx.Err() != nil || !write && errors.Is(err, fs.ErrNotExist) {
		return
	}
	o.mu.Lock()
	o.write = o.write || write
	begun := !o.down && o.spawn != nil
	if begun {
		o.begin(err)
	}
	o.mu.Unlock()
	if begun && !o.spawn(o.awaitEnd) {
		o.mu.Lock()
		o.down = false // the Manager is closing
		o.mu.Unlock()
	}
}

// begin begins an outage, with its first failure. Outages in quick succession
// usually mean that one key among many fails, so testing often would not help.
// o.mu is held.
func (o *outage) begin(cause error) {
	now := time.Now()
	if o.pause == 0 || now.Sub(o.ended) > outageApart {
		o.pause = outageLook
	} else {
		o.pause = min(2*o.pause, outageLookMost)
	}
	o.down, o.since, o.cause = true, now, cause
}

// awaitEnd is the task that waits for the end of an outage.
func (o *outage) awaitEnd() {
	o.mu.Lock()
	ticker := time.NewTicker(o.pause)
	o.mu.Unlock()
	defer ticker.Stop()
	for looks := 0; ; looks++ {
		select {
		case <-o.ctx.Done():
			return
		case <-ticker.C:
		}
		if o.over() {
			o.end()
			return
		}
		if looks == 0 {
			o.say()
		}
	}
}

// say logs an outage that is not over at the first test.
func (o *outage) say() {
	o.mu.Lock()
	loud, cause := o.said.IsZero() || time.Since(o.said) > outageApart, o.cause
	if loud {
		o.said = time.Now()
	}
	o.mu.Unlock()
	if loud {
		o.log.Warn("storage is failing", "cause", cause)
	}
}

// end ends an outage and calls the registered functions.
func (o *outage) end() {
	o.mu.Lock()
	loud := o.said.After(o.since)
	lasted, after := time.Since(o.since), slices.Clone(o.after)
	o.down, o.write, o.cause, o.ended, o.lasts = false, false, nil, time.Now(), lasted
	if o.ends != nil {
		close(o.ends)
		o.ends = nil
	}
	o.mu.Unlock()
	if loud {
		o.log.Info("storage works again", "after", lasted.Round(time.Second))
	}
	o.calls.Lock()
	defer o.calls.Unlock()
	for _, f := range after {
		o.call(f)
	}
}

// over reports whether storage works again: a read and, if a write failed, a
// write and a deletion.
func (o *outage) over() bool {
	o.mu.Lock()
	write := o.write
	o.mu.Unlock()
	if _, err := o.storage.Load(o.ctx, probeKey); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if !write {
		return true
	}
	return o.storage.put(o.ctx, probeKey, []byte("probe")) == nil && o.storage.Delete(o.ctx, probeKey) == nil
}

func (o *outage) call(f func()) {
	var err error
	defer func() {
		if err != nil {
			o.log.Error("work after a storage outage failed", "cause", err)
		}
	}()
	defer rescue("work after a storage outage", &err)
	f()
}
