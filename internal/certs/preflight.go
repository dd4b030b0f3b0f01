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
	preflightTime  = 5 * time.Second // for one look-up
	preflightFirst = time.Minute     // pause until the next one; doubles up to preflightLast
	preflightLast  = 10 * time.Minute
	preflightNudge = 10 * time.Second // until the next one after a handshake
	// at most this many consecutive preflights hold back an order only because
	// of this machine's addresses
	preflightLimit  = 6
	maxShownRecords = 3 // in an error
)

// A preflightError says why a CA could not reach this machine under the name of
// a host.
type preflightError struct {
	text string
	sure bool // false if it relies only on this machine's interface addresses
}

func (e *preflightError) Error() string { return e.text }

// An explainedError is a failure together with the finding of a preflight.
type explainedError struct{ err, why error }

func (e *explainedError) Error() string { return fmt.Sprintf("%v; also, %v", e.err, e.why) }
func (e *explainedError) Unwrap() error { return e.err }

// A scout makes preflights: it looks up a host in DNS before an order, so that
// no order goes to a CA that could not reach this machine.
type scout struct {
	disabled bool
	// addresses under which CAs reach this machine; empty means those of its
	// interfaces
	addresses  []netip.Addr
	interfaces func() []netip.Addr
	resolve    func(ctx context.Context, host string) ([]netip.Addr, error)
	log        *slog.Logger
	queue      *queue // hosts waiting for a preflight
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

// checks reports whether orders of c for name have a preflight: they do if each
// issuer for the name is a known public CA that must reach the host.
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
// order can succeed, and nil if one may. A failing resolver proves nothing, and
// neither do records with private addresses, which the CA does not see.
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

// publicOnly returns the addresses of a machine that has only public ones, and
// otherwise nil: a machine with a private address may be behind NAT, and then
// does not know under which address it is reached.
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

// lookUp returns the addresses of name. If name is an address, it is the
// result.
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
	// Strict: an A record that is missing plus a failed AAAA query is not "no
	// record". The trailing dot disables the search list.
	r := net.Resolver{PreferGo: true, StrictErrors: true}
	return r.LookupNetIP(ctx, "ip", name+".")
}

// shown returns the first few addresses as text.
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

// ordering returns the next step when h needs a certificate: an order, or a
// preflight. Preflights have their own workers, so that hosts without records
// do not block orders. A host with a valid certificate has no preflight: a
// short DNS failure must not stop a renewal.
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

// keptBack notes why no order is placed, and schedules another preflight; this
// is not a failed attempt. It returns false if an order must be placed anyway:
// if only this machine's addresses speak against it, a load balancer may
// forward from the address in the records. A handshake for the host then
// indicates that it is reachable, and after several preflights the CA decides.
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

// nudge makes the next preflight of h come soon: a client has reached the host,
// so its records may exist now. The manager's lock is held.
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

// explain adds the finding of a preflight to an error of a CA.
func (h *host) explain(ctx context.Context, err error) error {
	if _, limited := limitedWait(err); limited || !refused(err) {
		return err
	}
	if why := h.manager.scout.check(ctx, h.name, h.chain()); why != nil {
		return &explainedError{err, why}
	}
	return err
}
