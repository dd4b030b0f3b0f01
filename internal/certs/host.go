package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
)

// renewalInfoPause is how long renewal information is good for if the CA does
// not say.
const renewalInfoPause = 6 * time.Hour

// unusableReads is how often a certificate in storage is found damaged before
// it is replaced: certmagic writes its three files one by one, and another
// process may be at it.
const unusableReads = 3

// A host is a name with a managed certificate, and its way through life: load
// from storage, issue if there is none or it is due, keep, and load again when
// the next renewal is. It has at most one job, so its methods never run twice
// at a time.
type host struct {
	manager  *Manager
	name     string
	chain    *chain // nil if nobody can issue
	onDemand bool

	cert   atomic.Pointer[tls.Certificate] // what handshakes get; nil if not in memory
	used   atomic.Bool                     // by a handshake, since the last attempt to issue
	recent atomic.Bool                     // by a handshake, since the memory's hand went by

	// The manager's lock guards the rest.
	job      job
	queue    *queue             // where job was put last
	cancel   context.CancelFunc // ends the job under way; nil if none is
	then     step               // after that
	gone     bool               // no longer wanted
	awaited  bool               // a handshake waits
	slot     int                // in the manager's memory, while cert is set
	unusable int                // damaged reads in a row
	status   Status
	moved    chan struct{} // closed at the next outcome
}

func (m *Manager) newHost(name string, c *chain) *host {
	return &host{
		manager: m,
		name:    name,
		chain:   c,
		status:  Status{Host: name, State: Pending},
		moved:   make(chan struct{}),
	}
}

// load is the job that looks into storage and decides what comes next.
func (h *host) load(ctx context.Context) {
	ctx, end := h.begin(ctx)
	if end == nil {
		return
	}
	defer end()
	s, err := h.read(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		h.next(h.chain.queue, h.issue, time.Now())
	case errors.Is(err, errUnusable) && h.damaged():
		h.manager.log.Warn("certificate in storage is damaged, a new one is made", "host", h.name, "cause", err)
		h.next(h.chain.queue, h.replace, time.Now())
	case errors.Is(err, errUnusable) && !h.loaded():
		h.next(h.manager.loads, h.load, time.Now().Add(time.Second))
	case err != nil:
		h.fail(err, h.manager.loads, h.load)
	default:
		h.follow(s)
	}
}

// follow does what a certificate in storage asks for.
func (h *host) follow(s *stored) {
	switch {
	case s.ari.NeedsRefresh():
		h.install(s)
		h.next(h.manager.infos, h.refresh, time.Now())
	case time.Now().Before(s.renewAt()):
		h.keep(s)
	default:
		h.install(s)
		h.next(h.chain.queue, h.issue, time.Now())
	}
}

// issue is the job that obtains or renews.
func (h *host) issue(ctx context.Context) {
	ctx, end := h.begin(ctx)
	if end == nil {
		return
	}
	defer end()
	if err := h.allowed(ctx); err != nil {
		h.manager.log.Info("certificate given up", "host", h.name, "cause", err)
		h.manager.forget(h)
		return
	}
	h.used.Store(false)
	if err := h.chain.issue(ctx, h.name); err != nil {
		h.fail(err, h.chain.queue, h.issue)
		return
	}
	s, err := h.read(ctx)
	if err != nil {
		h.fail(err, h.manager.loads, h.load)
		return
	}
	h.keep(s)
}

// replace is the job that obtains where something damaged is in the way.
func (h *host) replace(ctx context.Context) {
	if err := h.discard(ctx); err != nil {
		h.manager.log.Debug("damaged certificate stays", "host", h.name, "cause", err)
	}
	h.issue(ctx)
}

// discard makes what is in storage count as absent: that takes no more than
// the metadata.
func (h *host) discard(ctx context.Context) error {
	var errs []error
	for _, a := range h.chain.authorities {
		errs = append(errs, h.manager.storage.Delete(ctx, certmagic.StorageKeys.SiteMeta(a.key, h.name)))
	}
	return errors.Join(errs...)
}

// refresh is the job that asks the CA for new renewal information.
func (h *host) refresh(ctx context.Context) {
	ctx, end := h.begin(ctx)
	if end == nil {
		return
	}
	defer end()
	s, err := h.read(ctx)
	if err != nil {
		h.next(h.manager.loads, h.load, time.Now())
		return
	}
	// Another process may have asked already.
	if s.ari.NeedsRefresh() {
		if err := h.ask(ctx, s); err != nil {
			h.manager.log.Debug("no renewal information", "host", h.name, "cause", err)
			again := time.Now().Add(time.Hour) // the certificate's own dates remain
			s.ari.RetryAfter = &again
		}
	}
	h.follow(s)
}

// ask gets the CA's renewal information for s and stores it.
func (h *host) ask(ctx context.Context, s *stored) error {
	info, err := s.by.renewalInfo(ctx, s.cert.Leaf)
	if err != nil {
		return err
	}
	if info.SameWindow(s.ari) && !s.ari.SelectedTime.IsZero() {
		info.SelectedTime = s.ari.SelectedTime
	}
	if info.RetryAfter == nil || !info.RetryAfter.After(time.Now()) {
		again := time.Now().Add(renewalInfoPause)
		info.RetryAfter = &again
	}
	return s.writeARI(ctx, h.manager.storage, h.name, info)
}

// allowed asks again before anything but the first attempt to issue on demand:
// whether a handshake has wanted the host meanwhile, and the policy.
func (h *host) allowed(ctx context.Context) error {
	h.manager.mu.RLock()
	again := h.onDemand && (h.status.Serial != nil || h.status.Attempts > 0)
	h.manager.mu.RUnlock()
	switch {
	case !again:
		return nil
	case !h.used.Load():
		return errors.New("nobody asks for it")
	}
	return h.manager.policy(ctx, h.name)
}

func (h *host) loaded() bool {
	h.manager.mu.RLock()
	defer h.manager.mu.RUnlock()
	return h.status.Serial != nil
}

func (h *host) read(ctx context.Context) (*stored, error) {
	return readStored(ctx, h.manager.storage, h.chain.authorities, h.name)
}

// damaged counts a damaged read and reports whether there were enough.
func (h *host) damaged() bool {
	h.manager.mu.Lock()
	defer h.manager.mu.Unlock()
	h.unusable++
	return h.unusable >= unusableReads
}

// begin starts a job: its context ends when the host goes. A nil end means
// that there is nothing to do. end is to be called when the job is over; it
// queues what next was told.
func (h *host) begin(ctx context.Context) (_ context.Context, end func()) {
	m := h.manager
	m.mu.Lock()
	defer m.mu.Unlock()
	if h.gone || h.cancel != nil { // cancel: a handshake hurried a job that was about to start
		return ctx, nil
	}
	ctx, h.cancel = context.WithCancel(ctx)
	return ctx, h.end
}

func (h *host) end() {
	m := h.manager
	m.mu.Lock()
	defer m.mu.Unlock()
	h.cancel()
	h.cancel = nil
	if then := h.then; then.queue != nil {
		h.then = step{}
		h.put(then.queue, then.run, then.due)
	}
}

// A step is a job to come.
type step struct {
	queue *queue
	run   func(context.Context)
	due   time.Time
}

// next says what comes after the job under way.
func (h *host) next(q *queue, run func(context.Context), due time.Time) {
	h.manager.mu.Lock()
	defer h.manager.mu.Unlock()
	h.then = step{q, run, due}
}

// put puts the host's job into q. A host that has gone gets none: that is the
// tombstone which keeps a certificate from coming back. The manager's lock is
// held.
func (h *host) put(q *queue, run func(context.Context), due time.Time) {
	if h.gone {
		return
	}
	if h.queue != nil && h.queue != q {
		h.queue.drop(&h.job)
	}
	h.queue = q
	q.put(&h.job, run, due, h.urgency())
}

// urgency orders hosts. One that failed has had its turn: however many of them
// there are, those that have not go first. The manager's lock is held.
func (h *host) urgency() urgency {
	life := h.status.NotAfter.Sub(h.status.NotBefore)
	switch {
	case h.status.Attempts > 0:
		return retry
	case h.status.Serial != nil && time.Until(h.status.NotAfter) < life/6:
		return critical
	case h.awaited:
		return awaited
	case h.status.Serial != nil:
		return renewal
	}
	return first
}

// install makes s what handshakes get.
func (h *host) install(s *stored) {
	h.manager.mu.Lock()
	defer h.manager.mu.Unlock()
	h.serve(s)
}

// serve is install, and reports whether s is new to handshakes. The manager's lock
// is held.
func (h *host) serve(s *stored) (changed bool) {
	m := h.manager
	leaf := s.cert.Leaf
	if h.gone {
		return false
	}
	changed = h.status.Serial == nil || h.status.Serial.Cmp(leaf.SerialNumber) != 0
	h.status.Issuer, h.status.Serial = s.by.key, leaf.SerialNumber
	h.status.NotBefore, h.status.NotAfter, h.status.RenewAt = leaf.NotBefore, leaf.NotAfter, s.renewAt()
	m.memory.put(h, s.cert)
	if fresh(s.cert) {
		h.awaited = false
	}
	m.move(h) // an expired one will do for those who wait
	return changed
}

// keep installs a good certificate and waits for its next date.
func (h *host) keep(s *stored) {
	m := h.manager
	m.mu.Lock() // until all of it is true: serve wakes those who wait
	changed, recovered := h.serve(s), h.status.State != Valid
	h.status.State, h.status.Attempts, h.status.Err, h.status.NextTry = Valid, 0, nil, time.Time{}
	h.unusable = 0
	status, gone := h.status, h.gone
	now := time.Now()
	// A CA may issue what is due at once: not a reason to spin.
	due, queue, run := latest(s.renewAt(), now.Add(s.pause())), m.loads, h.load
	if t := s.refreshAt(); !t.IsZero() && t.Before(due) {
		due, queue, run = latest(t, now.Add(s.pause())), m.infos, h.refresh
	}
	h.then = step{queue, run, due}
	m.mu.Unlock()
	if gone || !changed && !recovered {
		return
	}
	m.log.Info("certificate ready", "host", h.name, "issuer", status.Issuer, "not_after", status.NotAfter)
	m.observe(status)
}

// fail notes err and tries again later, with run in q.
func (h *host) fail(err error, q *queue, run func(context.Context)) {
	m := h.manager
	m.mu.Lock()
	if h.gone || m.ctx.Err() != nil {
		m.mu.Unlock()
		return
	}
	h.status.Attempts++
	wait := backoff(h.status.Attempts, err, max(0, time.Until(h.status.NotAfter)))
	h.status.State, h.status.Err, h.status.NextTry = Failed, err, time.Now().Add(wait)
	h.awaited = false
	status := h.status
	h.then = step{q, run, status.NextTry}
	m.move(h)
	m.mu.Unlock()
	m.log.Warn("certificate failed", "host", h.name, "attempts", status.Attempts,
		"next_try", status.NextTry, "not_after", status.NotAfter, "cause", err)
	m.observe(status)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
