package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	mrand "math/rand/v2"
	"net"
	"time"

	"github.com/caddyserver/certmagic"
)

const (
	probeTime   = 2 * time.Minute // for one probe
	probePause  = time.Minute     // maximum extra wait if too many probes are running
	silentPause = 10 * time.Minute
	// consecutive failures after which an order is placed without a probe:
	// staging may fail where production would not
	ordersByProbes = 5
)

// probes reports whether the next order is preceded by a probe.
func (a *authority) probes(r record) bool {
	if a.staging == nil || r.Failures == 0 || r.Failures%ordersByProbes == 0 {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Now().After(a.silent)
}

// probe asks the staging directory whether it can validate the host. Its
// certificate is not kept, and its failures do not count against the CA's
// limits. If staging does not answer, the order is placed.
func (p *placement) probe(ctx context.Context) error {
	now := time.Now()
	if wait := p.staging.account.pace.take(now); wait > 0 {
		// Do not wait here: workers are for hosts that can have a certificate.
		return &heldError{until: now.Add(wait + mrand.N(probePause)), err: errors.New("too many probes of failing hosts are in progress")}
	}
	err := p.staging.try(ctx, p.order.name, p.challenge)
	switch {
	case err == nil:
		return nil
	case failedValidation(err):
		p.note(ctx, func(r *record) { r.Failures++ })
		return &paceError{first: probeFirst, last: probeLast, err: explain(err, p.staging.directory(), p.order.name)}
	case ctx.Err() != nil:
		return err
	}
	p.engine.log.Debug("no response from the staging directory", "host", p.order.name, "ca", p.staging.directory(), "cause", err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = time.Now().Add(silentPause)
	return nil
}

// try orders a certificate for a throwaway key, and discards it.
func (a *authority) try(ctx context.Context, name, challenge string) (err error) {
	cfg, err := a.config(a.variant(name, challenge))
	if err != nil {
		return err
	}
	csr, err := throwaway(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, probeTime, errors.New("the CA did not respond in time"))
	defer cancel()
	defer rescue("issuer", &err)
	lock := "hostproxy_probe_" + digest(a.key, name)
	if err := a.engine.storage.Lock(ctx, lock); err != nil {
		return ended(ctx, err)
	}
	defer a.unlock(ctx, lock)
	iss := cfg.Issuers[0].(*certmagic.ACMEIssuer)
	if err := iss.PreCheck(ctx, []string{name}, false); err != nil {
		return err
	}
	for range 2 {
		t := &attempt{}
		err = a.taste(ctx, t, iss, csr)
		if !t.lost() {
			break
		}
		if err := a.account.renounce(ctx, a.engine.storage, t, a.engine.log); err != nil {
			return err
		}
	}
	return ended(ctx, err)
}

// taste places one order of a probe, like once.
func (a *authority) taste(ctx context.Context, t *attempt, iss *certmagic.ACMEIssuer, csr *x509.CertificateRequest) error {
	defer t.release(ctx, a.engine.storage)
	counter := 1
	_, err := iss.Issue(context.WithValue(t.context(ctx), certmagic.AttemptsCtxKey, &counter), csr)
	t.judge(err, a.account)
	return err
}

// unlock frees a lock, even if ctx is done.
func (a *authority) unlock(ctx context.Context, lock string) {
	if err := a.engine.storage.Unlock(context.WithoutCancel(ctx), lock); err != nil {
		a.engine.log.Debug("lock not released", "lock", lock, "cause", err)
	}
}

// throwaway returns a request for a certificate whose key is discarded.
func throwaway(name string) (*x509.CertificateRequest, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	var csr x509.CertificateRequest
	if ip := net.ParseIP(name); ip != nil {
		csr.IPAddresses = []net.IP{ip}
	} else {
		csr.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &csr, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificateRequest(der)
}
