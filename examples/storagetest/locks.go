package storagetest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
)

// lock takes a lock that is free or will be soon, or fails the test. It is
// freed at the end of the check if it is still held.
func (r *rig) lock(s certmagic.Storage, name string) (unlock func()) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), r.patience)
	defer cancel()
	if err := s.Lock(ctx, name); err != nil {
		r.Fatalf("Lock(%q), which nobody holds: %v", name, err)
	}
	free := sync.OnceValue(func() error { return s.Unlock(context.WithoutCancel(ctx), name) })
	// if the check called unlock, it has already reported the error
	r.Cleanup(func() { _ = free() })
	return func() {
		r.Helper()
		if err := free(); err != nil {
			r.Fatalf("Unlock(%q): %v", name, err)
		}
	}
}

// isHeld checks that Lock waits, and that it returns when its context ends.
func (r *rig) isHeld(s certmagic.Storage, name string) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), glance)
	defer cancel()
	begin := time.Now()
	switch err := s.Lock(ctx, name); {
	case err == nil:
		_ = s.Unlock(r.Context(), name) // too late to be correct
		r.Fatalf("Lock(%q) succeeds, but it is held", name)
	case !errors.Is(err, context.DeadlineExceeded):
		r.Fatalf("Lock(%q) = %v, want it to wait until its context ends", name, err)
	case time.Since(begin) < glance/2: // a connection may give up just before its deadline
		r.Fatalf("Lock(%q) gives up after %v, want it to wait until its context ends", name, time.Since(begin))
	case time.Since(begin) > glance+r.patience/3:
		r.Fatalf("Lock(%q) outlives its context by %v", name, time.Since(begin)-glance)
	}
}

func (r *rig) lockExcludes() {
	name := unique()
	unlock := r.lock(r.a, name)
	r.isHeld(r.a, name)
	r.isHeld(r.b, name)
	unlock()
	unlock = r.lock(r.b, name)
	r.isHeld(r.a, name)
	unlock()
}

func (r *rig) waiterLeaves() {
	name := unique()
	unlock := r.lock(r.a, name)
	ctx, cancel := context.WithCancel(r.Context())
	left := make(chan error, 1)
	go func() { left <- r.b.Lock(ctx, name) }()
	select {
	case err := <-left:
		r.Fatalf("Lock(%q), which is held, returns with %v", name, err)
	case <-time.After(glance):
	}
	cancel()
	select {
	case err := <-left:
		if !errors.Is(err, context.Canceled) {
			r.Fatalf("Lock(%q) = %v, want context.Canceled", name, err)
		}
	case <-time.After(r.patience):
		r.Fatalf("Lock(%q) waits although its context is cancelled", name)
	}
	unlock()
	r.lock(r.a, name)() // the waiter that gave up did not take it
}

func (r *rig) lockIsFreed() {
	name := unique()
	unlock := r.lock(r.a, name)
	got := make(chan error, 1)
	ctx, cancel := context.WithTimeout(r.Context(), r.patience)
	defer cancel()
	go func() { got <- r.b.Lock(ctx, name) }()
	select {
	case err := <-got:
		r.Fatalf("Lock(%q), which is held, returns with %v", name, err)
	case <-time.After(glance):
	}
	unlock()
	if err := <-got; err != nil {
		r.Fatalf("Lock(%q), freed by its holder: %v", name, err)
	}
	r.isHeld(r.a, name)
	if err := r.b.Unlock(r.Context(), name); err != nil {
		r.Fatalf("Unlock(%q): %v", name, err)
	}
}

func (r *rig) locksAreIndependent() {
	base := unique()
	for _, name := range []string{
		base, base + "_", base + "2",
		"issue_cert_" + base + ".example.com", "issue_cert_*." + base + ".example.com", "issue_cert_" + base + ":1::1",
		"ari_" + base + "AbC-_x.y",
	} {
		defer r.lock(r.a, name)()
	}
	r.isHeld(r.b, "issue_cert_*."+base+".example.com")
}

func (r *rig) lockIsNoKey() {
	name := r.key("both")
	unlock := r.lock(r.a, name)
	r.isGone(name)
	r.store(r.b, name, "value")
	r.holds(name, "value")
	if err := r.b.Delete(r.Context(), r.dir); err != nil {
		r.Fatalf("Delete: %v", err)
	}
	r.isHeld(r.b, name)
	r.store(r.b, name, "value")
	unlock()
	r.holds(name, "value")
}

func (r *rig) turns() {
	name := unique()
	ctx, cancel := context.WithTimeout(r.Context(), 2*r.patience)
	defer cancel()
	var inside atomic.Int32
	var wg sync.WaitGroup
	for _, s := range []certmagic.Storage{r.a, r.b, r.a} {
		wg.Go(func() {
			if err := s.Lock(ctx, name); err != nil {
				r.Errorf("Lock: %v", err)
				return
			}
			if n := inside.Add(1); n != 1 {
				r.Errorf("%d hold one lock", n)
			}
			<-time.After(glance / 10)
			inside.Add(-1)
			if err := s.Unlock(ctx, name); err != nil {
				r.Errorf("Unlock: %v", err)
			}
		})
	}
	wg.Wait()
}

// tryLock checks TryLock if the storage has it: certmagic uses it if it is
// there.
func (r *rig) tryLock() {
	s, ok := r.b.(certmagic.TryLocker)
	if !ok {
		return
	}
	name := unique()
	unlock := r.lock(r.a, name)
	begin := time.Now()
	if got, err := s.TryLock(r.Context(), name); got || err != nil {
		r.Fatalf("TryLock of a lock that is held = %v, %v, want false", got, err)
	}
	if took := time.Since(begin); took > r.patience/3 {
		r.Errorf("TryLock waits for %v", took)
	}
	unlock()
	if got, err := s.TryLock(r.Context(), name); !got || err != nil {
		r.Fatalf("TryLock of a free lock = %v, %v, want true", got, err)
	}
	r.isHeld(r.a, name)
	if err := s.Unlock(r.Context(), name); err != nil {
		r.Fatalf("Unlock after TryLock: %v", err)
	}
}
