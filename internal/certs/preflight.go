package certs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

const (
	maxPreflights  = 16              // look-ups at a time
	preflightTime  = 5 * time.Second // of one
	preflightFirst = time.Minute     // until the next one, doubling from the first to the last
	preflightLast  = 10 * time.Minute
	preflightNudge = 10 * time.Second // until the next one after a handshake
	// in a row that keep an order back for the addresses of this machine alone
	preflightLimit  = 6
	maxShownRecords = 3 // in an error
)

// A preflightError says why a CA would not reach this machine under the name of
// a host.
type preflightError struct {
	text string
	sure bool // false if it rests on the addresses of this machine alone
}

func (e *preflightError) Error() string { return e.text }

// An explainedError is a failure, and what a preflight has to say about it.
type explainedError struct{ err, why error }

func (e *explainedError) Error() string { return fmt.Sprintf("%v; also, %v", e.err, e.why) }
func (e *explainedError) Unwrap() error { return e.err }

// A scout makes preflights: it looks a host up in DNS before an order for it,
// so that no CA is asked that would not reach this machine.
type scout struct {
	disabled bool
	// under which CAs reach this machine; empty means those of its interfaces
	addresses  []netip.Addr
	interfaces func() []netip.Addr
	resolve    func(ctx context.Context, host string) ([]netip.Addr, error)
	log        *slog.Logger
	queue      *queue // of hosts that are about to have a preflight
}

// newScout checks the settings of preflights.
func newScout(o *Options) (*scout, error) {
	s := &scout{
		disabled:   o.DisablePreflight,
		addresses:  o.Addresses,
		interfaces: o.Interfaces,
		resolve:    o.Resolve,
		log:        o.Logger,
		queue:      newQueue(maxPreflights, nil),
	}
	if s.interfaces == nil {
		s.interfaces = interfaces
	}
	if s.resolve == nil {
		s.resolve = resolve
	}
	var errs []error
	for i, a := range s.addresses {
		if !a.IsValid() {
			errs = append(errs, fmt.Errorf("field Addresses[%d] is the zero netip.Addr: want an address", i))
		}
	}
	if len(s.addresses) > 0 && s.disabled {
		errs = append(errs, errors.New("field Addresses requires the preflight, which DisablePreflight disables: set only one of them"))
	}
	return s, errors.Join(errs...)
}

// checks reports whether orders of c for name have a preflight: each issuer
// that is asked is a known public CA, which has to reach the host.
func (s *scout) checks(name string, c *chain) bool {
	if s.disabled || strings.HasPrefix(name, "*") {
		return false
	}
	asked := 0
	for _, a := range c.authorities {
		if a.refuses(name) != nil {
			continue
		}
		t, ok := a.template.(*certmagic.ACMEIssuer)
		if !ok || !isPublic(t) || t.DNS01Solver != nil {
			return false
		}
		asked++
	}
	return asked > 0
}

// check looks name up before an order of c. It returns a *preflightError if no
// order can succeed, and nil if one may: a resolver that fails says nothing,
// nor do records with private addresses, which the CA does not see.
func (s *scout) check(ctx context.Context, name string, c *chain) error {
	if !s.checks(name, c) {
		return nil
	}
	records, err := s.lookUp(ctx, name)
	var no *net.DNSError
	switch {
	case errors.As(err, &no) && no.IsNotFound && !no.IsTemporary && !no.IsTimeout, err == nil && len(records) == 0:
		return &preflightError{sure: true, text: fmt.Sprintf("%s has no A or AAAA record: create one that points at this machine, "+
			"or set TLS.DisablePreflight if this machine cannot see it", name)}
	case err != nil:
		s.log.Debug("preflight inconclusive", "host", name, "cause", err)
		return nil
	}
	return s.leadsHere(name, records)
}

// leadsHere compares the records of name with the addresses of this machine.
func (s *scout) leadsHere(name string, records []netip.Addr) error {
	here, sure := s.addresses, true
	if len(here) == 0 {
		here, sure = publicOnly(s.interfaces()), false
	}
	public := records[:0:0]
	for _, a := range records {
		a = a.Unmap()
		if slices.ContainsFunc(here, func(b netip.Addr) bool { return a == b.Unmap() }) {
			return nil
		}
		if !hostname.IsInternal(a.String()) {
			public = append(public, a)
		}
	}
	if len(public) == 0 || len(here) == 0 {
		return nil
	}
	remedy := "correct its A and AAAA records, or add the address to TLS.Addresses if it leads here"
	if !sure {
		remedy = "correct its A and AAAA records, or set TLS.Addresses if this address leads here"
	}
	return &preflightError{sure: sure, text: fmt.Sprintf("%s points at %s, not at this machine: %s", name, shown(public), remedy)}
}

// publicOnly returns the addresses of a machine that has none but public ones.
// Any other may be behind a translation of addresses: it does not know under
// which it is reached, and nil is returned.
func publicOnly(all []netip.Addr) []netip.Addr {
	var public []netip.Addr
	for _, a := range all {
		a = a.Unmap().WithZone("")
		switch {
		case a.IsLoopback(), a.IsLinkLocalUnicast(), a.IsMulticast():
		case hostname.IsInternal(a.String()):
			return nil
		default:
			public = append(public, a)
		}
	}
	return public
}

// interfaces returns the addresses of this machine.
func interfaces() []netip.Addr {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var addrs []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			addrs = append(addrs, p.Addr())
		}
	}
	return addrs
}

// lookUp returns the addresses of name. That of an address is itself.
func (s *scout) lookUp(ctx context.Context, name string) (addrs []netip.Addr, err error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, preflightTime)
	defer cancel()
	defer rescue("resolver", &err)
	return s.resolve(ctx, name)
}

// resolve looks name up in DNS.
func resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	// Strict: no A record and no answer about AAAA are not "no record". The dot
	// at the end keeps the search list away.
	r := net.Resolver{PreferGo: true, StrictErrors: true}
	return r.LookupNetIP(ctx, "ip", name+".")
}

// shown returns the first of some addresses as text.
func shown(addrs []netip.Addr) string {
	var texts []string
	for _, a := range addrs[:min(len(addrs), maxShownRecords)] {
		texts = append(texts, a.String())
	}
	if more := len(addrs) - len(texts); more > 0 {
		texts = append(texts, fmt.Sprintf("%d more", more))
	}
	return strings.Join(texts, ", ")
}

// ordering returns what comes when h needs a certificate: an order, or a
// preflight, which has workers of its own, so that hosts without records take
// no place among the orders. A host with a certificate that is valid has no
// preflight: DNS that is broken for a moment must not stop a renewal.
func (h *host) ordering() (*queue, step) {
	m := h.manager
	m.mu.RLock()
	renewal := h.summary != nil && !h.summary.expired(time.Now())
	m.mu.RUnlock()
	if c := h.chain(); renewal || !m.scout.checks(h.name, c) {
		return c.queue, issue
	}
	return m.scout.queue, preview
}

// preview makes the preflight of an order.
func (h *host) preview(ctx context.Context) {
	m := h.manager
	err := m.scout.check(ctx, h.name, h.chain())
	if ctx.Err() != nil || err != nil && h.keptBack(err) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o := h.motion
	if err == nil {
		o.kept = 0
	}
	if o.err != nil && o.why == ofPreflight {
		h.state, o.err, o.next = pending, nil, time.Time{} // handshakes wait for it again
		h.settle()
	}
	o.then = plan{h.chain().queue, issue, time.Now()}
}

// keptBack notes why no order is placed, and looks again later; it is no failed
// attempt. It reports false if an order is to be placed all the same: where the
// addresses of this machine are all that speaks against it, a load balancer may
// lead here from the address in the records. Then a handshake for the host says
// more, and after a while the CA is to decide.
func (h *host) keptBack(err error) bool {
	var p *preflightError
	unsure := errors.As(err, &p) && !p.sure
	m := h.manager
	m.mu.RLock()
	kept := h.motion.kept
	m.mu.RUnlock()
	if unsure && (h.marks.Load()&used != 0 || kept >= preflightLimit) {
		return false
	}
	wait := min(preflightFirst<<min(kept, 10), preflightLast)
	h.fail(err, ofPreflight, plan{m.scout.queue, preview, time.Now().Add(wait)})
	return true
}

// nudge makes the next preflight of h come soon: a client has found the host,
// so its records may be there by now. The manager's lock is held.
func (h *host) nudge() {
	o := h.motion
	if o.why != ofPreflight || o.err == nil || o.cancel != nil {
		return
	}
	if soon := o.looked.Add(preflightNudge); o.next.After(soon) {
		o.next = soon
		h.put(h.manager.scout.queue, preview, soon)
	}
}

// explain adds to an error of a CA what a preflight has to say.
func (h *host) explain(ctx context.Context, err error) error {
	if _, limited := limitedWait(err); limited || !refused(err) {
		return err
	}
	if why := h.manager.scout.check(ctx, h.name, h.chain()); why != nil {
		return &explainedError{err, why}
	}
	return err
}
