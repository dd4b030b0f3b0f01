package certs

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrNotAllowed is returned by a policy, itself or wrapped, for a host that
// must not have a certificate. Any other error of a policy means that it cannot
// tell.
var ErrNotAllowed = errors.New("host not allowed")

const (
	policyPatience = 10 * time.Second // for one decision
	refusedFor     = time.Minute      // how long a refusal is remembered by default
	unknownFor     = 5 * time.Second  // how long it is remembered that a policy could not tell
)

var (
	errManyDemands = errors.New("too many new hosts are waiting for a decision")
	errManyCalls   = errors.New("too many calls of HostPolicy have not returned")
	errNoAnswer    = errors.New("HostPolicy did not return in time")
	errUnasked     = errors.New("no client has requested it recently")
)

// demands decides about names that come with handshakes. Each name has one
// decision at a time, and few names are decided at once. A name that was
// refused, or that the policy could not decide, is not decided again for a
// while.
type demands struct {
	manager *Manager
	calls   chan struct{} // a slot per running call of the policy, including hanging ones

	mu       sync.Mutex
	open     map[string]*demand
	calling  map[string]bool // names with a running call of the policy
	verdicts map[string]verdict
	failing  bool      // the last decision failed
	failures int       // since the last log line of failed
	said     time.Time // time of that line
}

// A demand is a running decision.
type demand struct {
	done chan struct{} // closed when the rest is set; if refused, all of it is nil
	host *host
	cert *tls.Certificate // provided by the program; host is then nil
	err  error
}

// A verdict is a remembered decision.
type verdict struct {
	until time.Time
	err   error // nil means a refusal
}

func newDemands(m *Manager) *demands {
	return &demands{
		manager:  m,
		calls:    make(chan struct{}, maxOnDemand),
		open:     make(map[string]*demand),
		calling:  make(map[string]bool),
		verdicts: make(map[string]verdict),
	}
}

// join finds or begins the decision about name. It returns nil without an error
// if name is refused, or if no issuer can sign for it. began reports whether
// the decision begins now.
func (d *demands) join(name string) (x *demand, began bool, err error) {
	if d.manager.choices == nil {
		if why := d.manager.routing.refusal(name); why != nil {
			d.manager.notices.unsigned(name, why)
			return nil, false, nil
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if v, ok := d.verdicts[name]; ok {
		if time.Now().Before(v.until) {
			return nil, false, v.err
		}
		delete(d.verdicts, name)
	}
	if x := d.open[name]; x != nil {
		return x, false, nil
	}
	if len(d.open) >= maxOnDemand {
		return nil, false, errManyDemands
	}
	x = &demand{done: make(chan struct{})}
	if !d.manager.spawn(func() { d.decide(name, x) }) {
		return nil, false, errClosed
	}
	d.open[name] = x
	return x, true, nil
}

// decide asks the policy on its own goroutine: the handshake that asked first
// may end before the others. An allowed name stays open until its first
// outcome, which also bounds the number of on-demand issuances. If the policy
// cannot tell, a certificate in storage is served.
func (d *demands) decide(name string, x *demand) {
	m := d.manager
	err := d.policy(m.ctx, name)
	if err != nil && !errors.Is(err, ErrNotAllowed) {
		err = fmt.Errorf("HostPolicy failed for %q: %w", name, err)
	}
	if err == nil {
		x.cert, err = m.choices.demanded(name)
	}
	if err == nil || errors.Is(err, ErrNotAllowed) {
		d.works()
	}
	var moved <-chan struct{}
	switch {
	case err == nil && x.cert != nil:
	case err == nil:
		x.host, moved = m.addOnDemand(name, true)
	case errors.Is(err, ErrNotAllowed):
		m.log.Debug("on-demand certificate refused", "host", name, "cause", err)
		d.remember(name, verdict{until: time.Now().Add(cmp.Or(m.options.PolicyTTL, refusedFor))})
	case d.kept(name):
		d.failed(name, err)
		x.host, moved = m.addOnDemand(name, false)
	default:
		d.failed(name, err)
		x.err = err
		d.remember(name, verdict{until: time.Now().Add(unknownFor), err: x.err})
	}
	close(x.done)
	if moved != nil {
		select {
		case <-moved:
		case <-m.ctx.Done():
		}
	}
	d.mu.Lock()
	delete(d.open, name)
	d.mu.Unlock()
}

// failed logs that a name could not be decided: at the first failure, and then
// once a minute, however many names clients make up.
func (d *demands) failed(name string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failures++
	now := time.Now()
	if d.failing && now.Sub(d.said) < time.Minute || d.manager.ctx.Err() != nil {
		return
	}
	d.said = now
	d.manager.log.Warn("on-demand decision failed; hosts without a certificate are refused", "for_instance", name,
		"failures", d.failures, "cause", err)
	d.failing, d.failures = true, 0
}

// works logs that decisions work again.
func (d *demands) works() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failing {
		d.manager.log.Info("on-demand decisions work again", "failures", d.failures)
		d.failing, d.failures = false, 0
	}
}

// remember stores a verdict. If there are too many, it evicts an expired one,
// or else any.
func (d *demands) remember(name string, v verdict) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if !v.until.After(now) {
		return
	}
	d.verdicts[name] = v
	if len(d.verdicts) <= maxRefused {
		return
	}
	seen, victim := 0, ""
	for other, v := range d.verdicts {
		if other == name {
			continue
		}
		victim = other
		if seen++; now.After(v.until) || seen == 16 {
			break
		}
	}
	delete(d.verdicts, victim)
}

// forget removes the verdict about name.
func (d *demands) forget(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.verdicts, name)
}

// policy asks the program whether name may have a certificate on demand. The
// hook runs on a separate goroutine; a call that hangs keeps that goroutine and
// a slot.
func (d *demands) policy(ctx context.Context, name string) error {
	d.mu.Lock()
	hangs := d.calling[name]
	if !hangs {
		select {
		case d.calls <- struct{}{}:
			d.calling[name] = true
		default:
			d.mu.Unlock()
			return errManyCalls
		}
	}
	d.mu.Unlock()
	if hangs { // a hanging name must not take a second slot
		return errNoAnswer
	}
	ctx, cancel := context.WithTimeoutCause(ctx, policyPatience, errNoAnswer)
	defer cancel()
	answer := make(chan error, 1)
	go d.call(ctx, name, answer)
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (d *demands) call(ctx context.Context, name string, answer chan<- error) {
	defer func() {
		d.mu.Lock()
		delete(d.calling, name)
		d.mu.Unlock()
		<-d.calls
	}()
	answer <- func() (err error) {
		defer rescue("HostPolicy", &err)
		return d.manager.options.Policy(ctx, name)
	}()
}

// kept reports whether storage has a good certificate for name: then the policy
// allowed it to another process.
func (d *demands) kept(name string) bool {
	m := d.manager
	if cert, err := m.choices.demanded(name); cert != nil || err != nil {
		return false
	}
	s, err := findStored(m.ctx, m.storage, m.routing.chainOf(name).authorities, name)
	return err == nil && fresh(s.cert)
}
