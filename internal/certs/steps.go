package certs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// A step is the work of a host's job.
type step uint8

const (
	load    step = iota // reads storage and decides what comes next
	issue               // obtains or renews
	replace             // obtains a new one after discarding damaged data
	refresh             // asks the CA for new renewal information
	preview             // looks the host up in DNS before an order
)

const (
	// renewalInfoPause is how long renewal information is used, unless the CA
	// says less.
	renewalInfoPause = 6 * time.Hour

	// unusableReads is how often a stored certificate must be found damaged
	// before it is replaced: certmagic writes its three files one by one, and
	// another process may be doing so.
	unusableReads = 3

	// vouchTime is how long the policy's answer counts for a first order: a
	// limit may delay that for hours.
	vouchTime = time.Minute

	// unknownPause is how long a renewal waits for a policy that cannot tell.
	unknownPause = time.Minute
)

// run does one step, on a goroutine of a queue.
func (h *host) run(ctx context.Context, s step) {
	ctx, ok := h.begin(ctx)
	if !ok {
		return
	}
	defer h.end()
	switch s {
	case load:
		h.load(ctx)
	case issue:
		h.issue(ctx)
	case replace:
		h.replace(ctx)
	case refresh:
		h.refresh(ctx)
	case preview:
		h.preview(ctx)
	}
}

// begin starts a job; its context ends when the host is removed. False means
// that there is nothing to do.
func (h *host) begin(ctx context.Context) (context.Context, bool) {
	m := h.manager
	m.mu.Lock()
	defer m.mu.Unlock()
	// a handshake expedited a job that was about to start
	if h.gone || h.motion != nil && h.motion.cancel != nil {
		return ctx, false
	}
	ctx, h.move().cancel = context.WithCancel(ctx)
	return ctx, true
}

// end ends the job and queues the next step.
func (h *host) end() {
	m := h.manager
	m.mu.Lock()
	defer m.mu.Unlock()
	then := h.motion.then
	h.motion.cancel()
	h.motion.cancel, h.motion.then = nil, plan{}
	switch {
	case h.motion.rushed:
		then = plan{h.chain().queue, issue, time.Now()}
	case then.queue == nil && h.motion.awaited: // by a handshake that came just now
		then = plan{m.loads, load, time.Now()}
	}
	h.motion.rushed = false
	if h.motion.again {
		h.motion.again = false
		then = plan{m.loads, load, time.Now()}
	}
	if then.queue != nil {
		h.put(then.queue, then.step, then.due)
	}
	h.dropMotion()
}

// next sets the step after the running job.
func (h *host) next(q *queue, s step, due time.Time) {
	h.manager.mu.Lock()
	defer h.manager.mu.Unlock()
	h.motion.then = plan{q, s, due}
}

func (h *host) load(ctx context.Context) {
	s, err := h.read(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		h.missing()
	case errors.Is(err, errUnusable) && h.damaged():
		h.manager.log.Warn("certificate in storage is damaged; obtaining a new one", "host", h.name, "cause", err)
		h.next(h.chain().queue, replace, time.Now())
	case errors.Is(err, errUnusable) && !h.loaded():
		h.next(h.manager.loads, load, time.Now().Add(time.Second))
	case err != nil:
		h.fail(err, ofStorage, plan{h.manager.loads, load, time.Time{}})
	default:
		h.follow(ctx, s)
	}
}

// missing decides what to do for a host without a certificate in storage.
func (h *host) missing() {
	m := h.manager
	queue, step := h.ordering()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case h.kind == covered:
		m.remove(h) // the wildcard's certificate suffices
	case h.motion.err != nil && h.motion.why == held && time.Now().Before(h.motion.next):
		h.motion.then = h.heldPlan()
	case h.motion.err != nil:
		h.motion.then = plan{queue, step, h.resumes()}
	case h.kind == onDemand && !h.motion.awaited:
		m.remove(h) // recalled, but its certificate is gone
	case h.kind == lazy && !h.motion.awaited:
		// Nothing comes next: the first handshake puts a job.
	default:
		h.motion.then = plan{queue, step, time.Now()}
	}
}

// follow decides the next step for a certificate in storage.
func (h *host) follow(ctx context.Context, s *stored) {
	switch {
	case s.ari.NeedsRefresh():
		h.install(s)
		h.next(h.manager.infos, refresh, time.Now())
	case time.Now().Before(s.renewAt()) && !h.isForced() && !h.manager.local.orphaned(ctx, s):
		h.keep(s)
	default:
		h.installHeld(s)
		queue, step := h.ordering()
		h.next(queue, step, h.notBefore(s))
	}
}

// notBefore returns when the host may be issued for in place of s: after a
// failure not before its next try, even if a handshake has loaded the
// certificate meanwhile, and not immediately after an order.
func (h *host) notBefore(s *stored) time.Time {
	h.manager.mu.RLock()
	defer h.manager.mu.RUnlock()
	if h.summary == nil { // it is gone
		return h.resumes()
	}
	return latest(h.resumes(), h.rested(s))
}

// resumes returns when the host may be issued for after a failure. The
// manager's lock is held.
func (h *host) resumes() time.Time {
	if o := h.motion; o.err != nil && o.why != ofStorage {
		return latest(o.next, time.Now())
	}
	return time.Now()
}

func (h *host) issue(ctx context.Context) {
	err := h.allowed(ctx)
	if err != nil {
		h.chain().queue.pace.back() // nothing is ordered
	}
	switch {
	case errors.Is(err, errUnasked) && (h.doze() || h.idle()):
		return
	case errors.Is(err, ErrNotAllowed), errors.Is(err, errSpare), errors.Is(err, errUnasked):
		level := slog.LevelInfo
		// clients can make up as many as the policy allows
		if h.kind == onDemand && !h.loaded() {
			level = slog.LevelDebug
		}
		h.manager.log.Log(ctx, level, "certificate no longer managed", "host", h.name, "cause", err)
		h.manager.forget(h)
		return
	case err != nil:
		h.fail(err, ofPolicy, plan{h.chain().queue, issue, time.Now().Add(h.unknown())})
		return
	}
	err = h.chain().issue(ctx, h.order())
	var no *heldError
	switch {
	case errors.As(err, &no):
		h.hold(err, no.until)
	case storageFailed(err):
		// Each try may be an order whose certificate is lost.
		h.fail(&paceError{first: refusedFirst, last: refusedLast, err: err}, ofOrder, plan{h.chain().queue, issue, time.Time{}})
	case err != nil:
		queue, step := h.ordering()
		h.fail(h.explain(ctx, err), ofIssue, plan{queue, step, time.Time{}})
	default:
		h.collect(ctx)
	}
}

// isForced reports whether the program requests a new certificate, due or not.
func (h *host) isForced() bool {
	h.manager.mu.RLock()
	defer h.manager.mu.RUnlock()
	return h.motion.forced
}

// unknown returns how long a renewal waits for a policy that cannot tell; it
// grows with each such answer.
func (h *host) unknown() time.Duration {
	h.manager.mu.Lock()
	defer h.manager.mu.Unlock()
	h.motion.unknown++
	pause := min(unknownPause<<min(h.motion.unknown-1, 6), time.Hour)
	// Up to a fifth more or less, so that hosts that failed together spread
	// out.
	return time.Duration(float64(pause) * (0.8 + 0.4*rand.Float64()))
}

// order returns the order of h for its chain, and clears the mark used.
func (h *host) order() order {
	m := h.manager
	m.mu.Lock()
	defer m.mu.Unlock()
	h.marks.And(^uint32(used))
	o := order{name: h.name, serial: h.summary.number(), force: h.motion.forced, left: h.left()}
	o.due = h.summary != nil && time.Now().Unix() >= h.summary.renewAt
	return o
}

// collect reads what an order has left in storage and keeps it.
func (h *host) collect(ctx context.Context) {
	s, err := h.read(ctx)
	switch {
	case errors.Is(err, errUnusable), errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("the issuer's certificate cannot be used: %w", err)
		h.fail(&paceError{first: refusedFirst, last: refusedLast, err: err}, ofIssue, plan{h.chain().queue, replace, time.Time{}})
	case err != nil:
		h.fail(&paceError{first: refusedFirst, last: refusedLast, err: err}, ofOrder, plan{h.manager.loads, load, time.Time{}})
	default:
		s.ordered = true
		if s.hasty() {
			s.by.sayHasty(h.name, s)
		}
		h.keep(s)
	}
}

func (h *host) replace(ctx context.Context) {
	if err := h.discard(ctx); err != nil {
		h.manager.log.Debug("damaged certificate not deleted", "host", h.name, "cause", err)
	}
	h.issue(ctx)
}

// discard makes a damaged certificate in storage count as absent, unless
// another process has replaced it meanwhile.
func (h *host) discard(ctx context.Context) error {
	return discardDamaged(ctx, h.manager.storage, h.chain().authorities, h.name)
}

func (h *host) refresh(ctx context.Context) {
	s := h.cached(ctx)
	if s == nil {
		var err error
		if s, err = h.read(ctx); err != nil {
			h.next(h.manager.loads, load, time.Now())
			return
		}
	}
	// Another process may have asked the CA already.
	if s.ari.NeedsRefresh() {
		if err := h.fetchRenewalInfo(ctx, s); err != nil {
			h.manager.log.Debug("no renewal information", "host", h.name, "cause", err)
			later := time.Now().Add(time.Hour) // the certificate's own dates remain
			s.ari.RetryAfter = &later
		}
	}
	h.follow(ctx, s)
}

// cached returns the certificate in memory with the renewal information in
// storage, nil if they do not belong together. It costs a tenth of a read, and
// each host needs it four times a day.
func (h *host) cached(ctx context.Context) *stored {
	h.manager.mu.RLock()
	cert, y := h.cert.Load(), h.summary
	h.manager.mu.RUnlock()
	if cert == nil || y == nil {
		return nil
	}
	meta, err := h.manager.storage.Load(ctx, y.by.siteKey(h.name, metaFile))
	if err != nil {
		return nil
	}
	ari, err := readARI(meta)
	id, other := acme.ARIUniqueIdentifier(cert.Leaf)
	if err != nil || other != nil || ari.UniqueIdentifier != id {
		return nil
	}
	return &stored{cert: cert, by: y.by, ari: ari}
}

// fetchRenewalInfo fetches the CA's renewal information for s and stores it.
func (h *host) fetchRenewalInfo(ctx context.Context, s *stored) error {
	info, err := s.by.renewalInfo(ctx, s.cert.Leaf)
	if errors.Is(err, acme.ErrUnsupported) { // for example after a repair of its metadata
		return s.writeARI(ctx, h.manager.storage, h.name, acme.RenewalInfo{})
	}
	if err != nil {
		return err
	}
	if info.SameWindow(s.ari) && !s.ari.SelectedTime.IsZero() {
		info.SelectedTime = s.ari.SelectedTime
	}
	clampARI(&info)
	return s.writeARI(ctx, h.manager.storage, h.name, info)
}

// errSpare means that a host needs no certificate of its own.
var errSpare = errors.New("a wildcard certificate covers it")

// allowed is called before an attempt to issue. It fails if a wildcard's
// certificate suffices now. For an on-demand host, unless the policy allowed it
// a moment ago, it also fails if no handshake has requested the host since the
// last order, or if the policy does not allow it.
func (h *host) allowed(ctx context.Context) error {
	m := h.manager
	m.mu.RLock()
	spare := h.kind == covered && m.wildReady(h.name)
	first := h.summary == nil && h.motion.attempts == 0 // a client waits for it, or did
	fresh := first && time.Since(h.motion.vouched) < vouchTime
	again := h.kind == onDemand && !fresh
	m.mu.RUnlock()
	switch {
	case spare:
		return errSpare
	case !again:
		return nil
	case h.marks.Load()&used == 0 && (!first || h.motion.vouched.IsZero()):
		return errUnasked
	}
	return m.demands.policy(ctx, h.name)
}

func (h *host) loaded() bool {
	h.manager.mu.RLock()
	defer h.manager.mu.RUnlock()
	return h.summary != nil
}

func (h *host) read(ctx context.Context) (*stored, error) {
	m, by := h.manager, h.chain().authorities
	s, err := readStored(ctx, m.storage, by, h.name)
	if errors.Is(err, fs.ErrNotExist) && h.cert.Load() != nil {
		m.witnesses[0].check(ctx) // storage may have lost more than this
		s, err = readStored(ctx, m.storage, by, h.name)
	}
	return s, err
}

// damaged counts a damaged read and reports whether there were enough of them.
func (h *host) damaged() bool {
	h.manager.mu.Lock()
	defer h.manager.mu.Unlock()
	h.motion.unusable++
	return h.motion.unusable >= unusableReads
}
