package certs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/big"
	"slices"
	"time"
)

// The states of a certificate. A host goes from Pending to Valid or Failed, and
// then between those two.
const (
	Pending = "pending" // none yet; an attempt is running, planned, or waits for a handshake
	Valid   = "valid"   // a valid one is served
	Failed  = "failed"  // the last attempt failed; an older certificate may still be served
	Static  = "static"  // the program provides it
)

// A Status describes one host's certificate at one time.
type Status struct {
	Host   string
	State  string
	Issuer string // key of the issuer of the certificate in use; "" if none

	Serial    *big.Int  // of the certificate in use; nil if none
	NotBefore time.Time // of the certificate in use; zero if none
	NotAfter  time.Time
	RenewAt   time.Time // when renewal is due; zero if it is not renewed

	Attempts int   // consecutive failed attempts
	Err      error // of the last attempt, or why none was made; nil if all is well
	// set after a failure or while a CA's limit is in force; zero if only a
	// change of the program helps
	NextTry  time.Time
	OnDemand bool // the host came with a handshake, not with a route

	Waiting int // handshakes waiting for it; not for Observe
	// handshakes refused because too many were waiting; reset a minute or two
	// after the last one; not for Observe
	Refused int
}

// Statuses returns the status of every host that has or wants a certificate,
// sorted by host.
func (m *Manager) Statuses() []Status {
	m.follower.sync()
	brought := append(m.static.Load().statuses(), m.choices.statuses()...)
	m.mu.RLock()
	all := make([]Status, 0, m.table.len()+len(brought)) // there may be a million
	m.mu.RUnlock()
	m.each(func(h *host) { all = append(all, h.status()) })
	crowds := m.lobby.crowds()
	for i := range all {
		c := crowds[all[i].Host]
		all[i].Waiting, all[i].Refused = c.waiting, c.refused
	}
	all = append(all, brought...)
	slices.SortFunc(all, func(a, b Status) int { return cmp.Compare(a.Host, b.Host) })
	return slices.CompactFunc(all, func(a, b Status) bool { return a.Host == b.Host })
}

// Await waits until each host has a certificate, or ctx is done; with no hosts,
// until each host of a route that wants one has it. The error lists the hosts
// without one, and the reasons.
func (m *Manager) Await(ctx context.Context, hosts ...string) error {
	for {
		m.follower.sync()
		ready, moved := m.ready(hosts)
		if ready {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), m.missing(hosts))
		case <-m.ctx.Done():
			return errors.Join(errClosed, m.missing(hosts))
		}
	}
}

// ready reports whether all hosts have certificates. If not, it returns a
// channel that is closed at the next outcome of the first host without one.
func (m *Manager) ready(hosts []string) (bool, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for h, lacking := range m.lacking(hosts) {
		switch {
		case lacking == nil:
		case h != nil:
			return false, h.outcome()
		case m.changed == nil:
			m.changed = make(chan struct{})
		}
		if lacking != nil {
			return false, m.changed
		}
	}
	return true, nil
}

// missing returns an error with each host that lacks a certificate, and the
// reason.
func (m *Manager) missing(hosts []string) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var errs []error
	for _, lacking := range m.lacking(hosts) {
		if lacking != nil {
			errs = append(errs, lacking)
		}
	}
	return errors.Join(errs...)
}

// lacking yields why each of the hosts lacks a certificate, nil if it has one.
// Without hosts, it yields all in the table. m.mu is held for reading.
func (m *Manager) lacking(hosts []string) iter.Seq2[*host, error] {
	return func(yield func(*host, error) bool) {
		if len(hosts) == 0 {
			for i := range m.table.len() {
				h := m.table.at(i)
				if h.unasked() {
					continue
				}
				if !yield(h, h.lack(h.name)) {
					return
				}
			}
		}
		for _, name := range hosts {
			h := m.find(name)
			var err error
			switch {
			case h != nil:
				err = h.lack(name)
			case m.routing.brings(name) || m.routing.mints(name):
			case m.routing.passed(name):
				err = lackError{name, errPassed(name)}
			default:
				err = lackError{name, errors.New("no route requires it")}
			}
			if !yield(h, err) {
				return
			}
		}
	}
}

// lack returns why h has no good certificate, nil if it has one. The manager's
// lock is held.
func (h *host) lack(name string) error {
	var why error
	if h.motion != nil {
		why = h.motion.err
	}
	switch {
	case h.unasked():
		return lackError{name, errLazy}
	case h.summary == nil:
		return lackError{name, why}
	case h.summary.expired(time.Now()):
		return lackError{name, errors.Join(errExpired, why)}
	}
	return nil
}

var (
	errExpired = errors.New("the certificate has expired")
	errLazy    = errors.New("TLS.Lazy waits for the first handshake that needs it")
)

// A lackError says that a host has no certificate. Its text is made only when
// needed: there may be thousands.
type lackError struct {
	host string
	why  error // nil if nothing has failed yet
}

func (e lackError) Unwrap() error { return e.why }

func (e lackError) Error() string {
	if e.why == nil {
		return fmt.Sprintf("no certificate for %q yet", e.host)
	}
	return fmt.Sprintf("no certificate for %q: %v", e.host, e.why)
}

// Status returns the status of the certificate that serves a canonical host,
// and whether there is or will be one.
func (m *Manager) Status(host string) (Status, bool) {
	m.follower.syncHost(host)
	ch, _ := m.choices.exact(host)
	if s, ok := ch.status(host); ok {
		return s, true
	}
	if s, ok := m.static.Load().status(host); ok {
		return s, true
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	h := m.find(host)
	if h == nil {
		h = m.table.get(host) // a pattern
	}
	if h == nil {
		return Status{}, false
	}
	return m.lobby.count(h.status()), true
}
