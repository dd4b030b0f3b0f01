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
	// outageLook is the time between two looks at a storage that has failed.
	outageLook = 3 * time.Second
	// outageLookMost is what it grows to where looks succeed and others fail.
	outageLookMost = time.Minute
	// outageApart is the least time between two outages that are two.
	outageApart = 10 * time.Minute

	probeKey = "hostproxy/probe"
)

// An outage notices when storage fails, and when it works again. While storage
// fails a task looks at it every few seconds, so that the end of an outage is
// known without a request. The zero value notices nothing.
type outage struct {
	ctx     context.Context // ends the task
	spawn   func(task func()) bool
	log     *slog.Logger
	storage *boundedStorage

	calls sync.Mutex // held while the functions run
	mu    sync.Mutex // guards the rest
	down  bool
	write bool      // a write has failed
	since time.Time // of the failure
	cause error
	pause time.Duration // between two looks
	ended time.Time     // when the last one did
	lasts time.Duration // that the last one did
	said  time.Time     // when the last one was logged
	after []func()
	ends  chan struct{} // closed at the end of the next one; nil if nothing waits for it
}

// watch starts to notice. spawn runs the task that looks, until ctx is done.
func (s *boundedStorage) watch(ctx context.Context, spawn func(task func()) bool, log *slog.Logger) {
	s.outage.mu.Lock()
	defer s.outage.mu.Unlock()
	s.outage.ctx, s.outage.spawn, s.outage.log, s.outage.storage = ctx, spawn, log, s
}

// onReturn registers f to be called after each outage. The functions run one
// after the other, in the order of their registration, without locks held.
func (s *boundedStorage) onReturn(f func()) {
	s.outage.mu.Lock()
	defer s.outage.mu.Unlock()
	s.outage.after = append(s.outage.after, f)
}

// returning returns what is closed at the end of the next outage, or of the one
// that is.
func (s *boundedStorage) returning() <-chan struct{} {
	s.outage.mu.Lock()
	defer s.outage.mu.Unlock()
	if s.outage.ends == nil {
		s.outage.ends = make(chan struct{})
	}
	return s.outage.ends
}

// outageLasted returns how long the last outage did.
func (s *boundedStorage) outageLasted() time.Duration {
	s.outage.mu.Lock()
	defer s.outage.mu.Unlock()
	return s.outage.lasts
}

// note takes notice of what an operation came to. ctx is its caller's: who has
// left cannot say how storage is.
func (o *outage) note(ctx context.Context, verb string, err error) {
	var write bool
	switch verb {
	case "list", "unlock", "renew the lock":
		return // long by nature, or about one lock
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
		o.down = false // the end of all
		o.mu.Unlock()
	}
}

// begin begins an outage, with its first failure. Outages that follow one
// another at once are about one key that fails among many: to look often would
// not help it. o.mu is held.
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

// say logs an outage that has lasted for a look.
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

// end ends an outage and calls the functions that wait for that.
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

// over reports whether what failed works: a read, or all of it.
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
