package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// A Choice is the TLS settings of one host pattern. The zero value means
// Options.
type Choice struct {
	// Issuer issues for the pattern in place of Public and Internal. ACME
	// issuers are templates, as there; several for one CA may differ in
	// anything.
	Issuer certmagic.Issuer

	// Own requests a certificate for this host alone, even if a wildcard's
	// certificate covers it.
	Own bool

	// ClientAuth asks the host's clients for certificates. Hosts with the same
	// pointer, or with equal settings, share a realm.
	ClientAuth *ClientAuth

	// Certificate is served instead of a managed one. It must cover the host.
	Certificate *tls.Certificate

	// Files hold such a certificate. They are read again when they change.
	Files KeyPair

	// None means no certificate at all: handshakes for the host are refused.
	None bool
}

// A choice is a Choice that has been checked. It is immutable, and hosts
// without special settings share one.
type choice struct {
	chain *chain           // nil means the issuers of Options
	realm *realm           // nil means the client authentication of Options
	cert  *tls.Certificate // nil means a managed one
	none  bool
	own   bool

	pattern  string // if it is of a wildcard: the wildcard; otherwise ""
	demanded bool   // the host has no route of its own; zero settings are its pattern's
	wild     string // if demanded: the wildcard above the host, "" if there can be none
}

// check reports settings that exclude each other, or that mean nothing for a
// pattern.
func (c *Choice) check(pattern string) error {
	var errs []error
	brought := c.Certificate != nil || c.Files != KeyPair{}
	if c.None && (brought || c.Own || c.Issuer != nil || c.ClientAuth != nil) {
		errs = append(errs, errors.New("HostTLS.NoCertificate cannot be combined with other settings: set nothing else"))
	}
	if brought && (c.Own || c.Issuer != nil) {
		errs = append(errs, errors.New("HostTLS.Certificate and Files cannot be combined with Issuer and OwnCertificate: set only one kind"))
	}
	if c.Certificate != nil && c.Files != (KeyPair{}) {
		errs = append(errs, errors.New("HostTLS.Certificate cannot be combined with Files: set only one of them"))
	}
	if c.Files != (KeyPair{}) {
		errs = append(errs, wrap("HostTLS.Files", c.Files.check()))
	}
	if c.Own && isPattern(pattern) {
		errs = append(errs, fmt.Errorf("HostTLS.OwnCertificate is only for single hosts, not for %q: set it to false", pattern))
	}
	return errors.Join(errs...)
}

// compile checks the program's settings for a pattern. It may read files.
func (c *choices) compile(pattern string, a answer) (*choice, *pairFile, error) {
	given := a.given
	if err := given.check(pattern); err != nil {
		return nil, nil, err
	}
	if given == (Choice{}) {
		return c.plain, nil, nil
	}
	ch := &choice{none: given.None, own: given.Own}
	var file *pairFile
	var err error
	errs := []error{wrap("issuer", a.fault)}
	if a.issuer != nil {
		ch.chain = c.manager.chainFor(a.issuer)
	}
	if given.ClientAuth != nil {
		ch.realm, err = c.realmFor(*given.ClientAuth)
		errs = append(errs, wrap("client authentication", err))
	}
	if given.Files != (KeyPair{}) {
		if file, err = readPair(given.Files); err == nil {
			given.Certificate = &file.cert
		}
		errs = append(errs, err)
	}
	if given.Certificate != nil {
		ch.cert, err = ownCertificate(given.Certificate, pattern)
		errs = append(errs, err)
	}
	return ch, file, errors.Join(errs...)
}

// count adds n to the numbers of users of the chain and the realm of a choice.
// The choices' lock is held. c may be nil.
func (c *choice) count(n int) {
	if c == nil {
		return
	}
	if c.chain != nil {
		c.chain.users += n
	}
	if c.realm != nil {
		c.realm.users += n
	}
}

// fields names the settings that are not zero, as the program spells them.
func (c *Choice) fields() []string {
	var names []string
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"Issuer", c.Issuer != nil}, {"OwnCertificate", c.Own}, {"ClientAuth", c.ClientAuth != nil},
		{"Certificate", c.Certificate != nil}, {"Files", c.Files != KeyPair{}}, {"NoCertificate", c.None},
	} {
		if f.set {
			names = append(names, f.name)
		}
	}
	return names
}

// onDemand returns the choice of a host without a route of its own.
func (c choice) onDemand(host string) *choice {
	c.demanded, c.wild = true, wildcardOf(host)
	return &c
}

// ofWildcard returns the choice of a wildcard.
func (c choice) ofWildcard(pattern string) *choice {
	c.pattern = pattern
	return &c
}

func canonicalPattern(pattern string) (string, error) {
	if pattern == "*" {
		return pattern, nil
	}
	base, wild := strings.CutPrefix(pattern, "*.")
	host, err := hostname.Canonical(base)
	if err != nil {
		return "", err
	}
	if wild {
		host = "*." + host
	}
	return host, nil
}

func wrap(what string, err error) error {
	if err != nil {
		err = fmt.Errorf("%s: %w", what, err)
	}
	return err
}

// ownCertificate returns a copy of a certificate of the program with its Leaf.
// It fails if the certificate does not cover the pattern or cannot be served.
func ownCertificate(given *tls.Certificate, pattern string) (*tls.Certificate, error) {
	if len(given.Certificate) == 0 || given.PrivateKey == nil {
		return nil, errors.New("the certificate has no chain or no private key: set both")
	}
	cert := *given
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	cert.Leaf = leaf
	if !coversPattern(leaf, pattern) {
		return nil, fmt.Errorf("the certificate does not cover %q: it is for %q", pattern, leaf.DNSNames)
	}
	return &cert, nil
}

// coversPattern reports whether a certificate is valid for all hosts of a
// pattern; for "*" that cannot be known, and it returns true.
func coversPattern(leaf *x509.Certificate, pattern string) bool {
	if isPattern(pattern) {
		return pattern == "*" || slices.ContainsFunc(leaf.DNSNames, func(name string) bool { return strings.EqualFold(name, pattern) })
	}
	return leaf.VerifyHostname(pattern) == nil
}

// status describes the certificate that the program provides, and reports
// whether there is one. c may be nil.
func (c *choice) status(host string) (Status, bool) {
	if c == nil || c.cert == nil {
		return Status{}, false
	}
	return staticStatus(host, c.cert.Leaf), true
}

// undecided returns the error of a handshake for a host whose TLS settings the
// program has not returned yet.
func undecided(pattern string, err error) error {
	if err == nil {
		return fmt.Errorf("TLS.Host has not answered for %q yet", pattern)
	}
	return fmt.Errorf("no TLS settings for %q from TLS.Host: %w", pattern, err)
}

// switched makes h follow a change of its issuer: at its next renewal, or
// immediately if it has no good certificate or renewal is due. The manager's
// lock is held.
func (h *host) switched() {
	o := h.move()
	good := h.summary != nil && time.Now().Unix() < h.summary.renewAt
	if good && h.state == valid {
		return
	}
	h.begun()
	if o.cancel != nil {
		o.again = true
		o.cancel()
		return
	}
	h.put(h.manager.loads, load, time.Now())
}

// begun forgets earlier failures. The manager's lock is held.
func (h *host) begun() {
	o := h.move()
	o.undecided = false
	o.attempts, o.stalls, o.told = 0, 0, 0
	o.err, o.next = nil, time.Time{}
	if h.summary == nil {
		h.state = pending
	}
}

// none reports whether the program wants no certificate for a host. c may be
// nil.
func (c *choices) none(host string) bool {
	ch, _, _ := c.of(host)
	return ch != nil && ch.none
}

// statuses describes the certificates that the program provides for some hosts.
// c may be nil.
func (c *choices) statuses() []Status {
	if c == nil {
		return nil
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	var all []Status
	for name, ch := range c.known {
		if s, ok := ch.status(name); ok {
			all = append(all, s)
		}
	}
	return all
}

// demanded asks the program about a host that comes on demand, and returns the
// certificate that the program provides. ErrNotAllowed means that the host must
// not or cannot have a certificate. c may be nil.
func (c *choices) demanded(name string) (*tls.Certificate, error) {
	if c == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeoutCause(c.manager.ctx, choiceTime, errNoChoice)
	defer cancel()
	c.demand(name)
	if err := c.await(ctx, &waiter{}, name); err != nil {
		c.drop(name)
		return nil, err
	}
	ch, _ := c.exact(name)
	switch {
	case ch == nil:
		return nil, undecided(name, nil)
	case ch.cert != nil:
		return ch.cert, nil
	case ch.none:
		c.drop(name)
		return nil, fmt.Errorf("TLS.Host set NoCertificate: %w", ErrNotAllowed)
	}
	if err := c.manager.routing.refusal(name); err != nil {
		c.manager.notices.unsigned(name, err)
		c.drop(name)
		return nil, errors.Join(err, ErrNotAllowed)
	}
	return nil, nil
}

// rereadFiles reads certificate files again if they have changed. c may be nil.
func (c *choices) rereadFiles() {
	if c == nil {
		return
	}
	c.mu.RLock()
	files := maps.Clone(c.files)
	c.mu.RUnlock()
	for name, f := range files {
		if f.changed() {
			c.rereadFile(name, f)
		} else {
			f.fault.end()
		}
	}
}

func (c *choices) rereadFile(name string, f *pairFile) {
	log := c.manager.log
	next, err := readPair(f.KeyPair)
	var cert *tls.Certificate
	if err == nil {
		cert, err = ownCertificate(&next.cert, name)
	}
	if err != nil {
		log.Log(c.manager.ctx, f.fault.level(err), "certificate files cannot be read; keeping the previous certificate", "host", name, "cause", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files[name] == f {
		changed := *c.known[name]
		changed.cert = cert
		c.publish(name, &changed, next)
		log.Info("certificate files read", "file", f.CertFile, "not_after", cert.Leaf.NotAfter)
	}
}

// rereadRealms reads the CA files of client authentication again if they have
// changed. c may be nil.
func (c *choices) rereadRealms() {
	for _, r := range c.allRealms() {
		log := c.manager.log
		changed, err := r.reread()
		if err != nil {
			log.Log(c.manager.ctx, r.fault.level(err), "CA files for client authentication cannot be read; keeping the previous CAs", "cause", err)
			continue
		}
		r.fault.end()
		if changed {
			log.Info("CA files for client authentication read", "files", r.given.CAFiles)
		}
	}
}
