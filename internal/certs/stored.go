package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
)

// errUnusable means that the data in storage is not a usable certificate.
var errUnusable = errors.New("the certificate in storage is damaged")

// renewalRatio is the last part of a certificate's life, in which it is
// renewed. It is the same as in certmagic, which must agree that renewal is
// due.
const renewalRatio = 1.0 / 3

// A stored is a certificate from storage, decoded.
type stored struct {
	cert *tls.Certificate // with Leaf
	by   *authority       // the authority under which it is stored
	ari  acme.RenewalInfo // renewal information (RFC 9773); zero if none
	bare bool             // its metadata is missing or damaged

	ordered bool    // ordered just now, for this host
	spare   *stored // an older one of another issuer that expires later; nil if none
}

// readStored returns the newest certificate for name that any of by has in
// storage. The error is fs.ErrNotExist if there is none, and errUnusable if the
// stored data must not be served: a key of another certificate, a truncated or
// inconsistent chain, or another host's certificate. Damaged metadata is no
// error: it is written again.
func readStored(ctx context.Context, s *boundedStorage, by []*authority, name string) (*stored, error) {
	c, err := findStored(ctx, s, by, name)
	if err != nil || !c.bare {
		return c, err
	}
	if err := c.repair(ctx, s, name); err != nil {
		c.by.engine.log.Debug("metadata of a certificate not repaired", "host", name, "cause", err)
	}
	return c, nil
}

// findStored is readStored without the repair.
func findStored(ctx context.Context, s *boundedStorage, by []*authority, name string) (*stored, error) {
	var newest *stored
	var all []*stored
	var failure error
	for _, a := range by {
		c, err := readFrom(ctx, s, a, name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			failure = err
		default:
			all = append(all, c)
			if newest == nil || c.better(newest) {
				newest = c
			}
		}
	}
	switch {
	case newest != nil:
		newest.spare = newest.spareOf(all)
		return newest, nil
	case failure != nil:
		return nil, failure
	}
	return nil, fmt.Errorf("no certificate for %q in storage: %w", name, fs.ErrNotExist)
}

// better reports whether c should be served rather than d: unexpired first,
// then newer.
func (c *stored) better(d *stored) bool {
	if one, other := fresh(c.cert), fresh(d.cert); one != other {
		return one
	}
	return c.cert.Leaf.NotBefore.After(d.cert.Leaf.NotBefore)
}

// spareOf returns the certificate in all that expires last, nil if none expires
// after c.
func (c *stored) spareOf(all []*stored) (spare *stored) {
	last := c
	for _, d := range all {
		if d.cert.Leaf.NotAfter.After(last.cert.Leaf.NotAfter) {
			spare, last = d, d
		}
	}
	return spare
}

func readFrom(ctx context.Context, s *boundedStorage, a *authority, name string) (*stored, error) {
	certPEM, err := s.Load(ctx, a.siteKey(name, certFile))
	if err != nil {
		return nil, err
	}
	keyPEM, err := s.Load(ctx, a.siteKey(name, keyFile))
	if err != nil {
		return nil, err
	}
	meta, err := s.Load(ctx, a.siteKey(name, metaFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnusable, err)
	}
	if !covers(pair.Leaf, name) {
		return nil, fmt.Errorf("%w: it does not cover %q", errUnusable, name)
	}
	if err := a.engine.shapes.check(ctx, a, certPEM); err != nil {
		return nil, err
	}
	c := &stored{cert: &pair, by: a}
	c.ari, err = readARI(meta)
	c.bare = err != nil
	if a.engine.noARI {
		c.ari = acme.RenewalInfo{}
	}
	return c, nil
}

// readARI extracts the renewal information from a certificate's metadata. Only
// ACME issuers have any.
func readARI(meta []byte) (acme.RenewalInfo, error) {
	var res certmagic.CertificateResource
	if err := json.Unmarshal(meta, &res); err != nil {
		return acme.RenewalInfo{}, err
	}
	var issued acme.Certificate
	if len(res.IssuerData) == 0 || json.Unmarshal(res.IssuerData, &issued) != nil || issued.RenewalInfo == nil {
		return acme.RenewalInfo{}, nil
	}
	info := *issued.RenewalInfo
	if info.RetryAfter != nil && time.Until(*info.RetryAfter) > renewalInfoPause {
		info.RetryAfter = nil // still as the CA sent it, not from writeARI: ask now
	}
	return info, nil
}

// clampARI sets when the CA is asked again: when it says, but within
// renewalInfoPause; otherwise it could not announce a revocation in time (RFC
// 9773, 4.3.2).
func clampARI(info *acme.RenewalInfo) {
	latest := time.Now().Add(renewalInfoPause)
	if t := info.RetryAfter; t == nil || !t.After(time.Now()) || t.After(latest) {
		info.RetryAfter = &latest
	}
}

// writeARI writes ari into the metadata, for the rest of the cluster and for
// certmagic, which uses it to decide whether renewal is due.
func (c *stored) writeARI(ctx context.Context, s certmagic.Storage, name string, ari acme.RenewalInfo) error {
	key := c.by.siteKey(name, metaFile)
	meta, err := s.Load(ctx, key)
	if err != nil {
		return err
	}
	var res certmagic.CertificateResource
	if err := json.Unmarshal(meta, &res); err != nil {
		return err
	}
	var issued acme.Certificate
	if len(res.IssuerData) > 0 {
		if err := json.Unmarshal(res.IssuerData, &issued); err != nil {
			return err
		}
	}
	issued.RenewalInfo = &ari
	if res.IssuerData, err = json.Marshal(issued); err != nil {
		return err
	}
	if meta, err = json.MarshalIndent(res, "", "\t"); err != nil {
		return err
	}
	if err := s.Store(ctx, key, meta); err != nil {
		return err
	}
	c.ari = ari
	return nil
}

// covers reports whether leaf is valid for name, a host or a wildcard.
func covers(leaf *x509.Certificate, name string) bool {
	for _, n := range leaf.DNSNames {
		if n == name {
			return true
		}
	}
	return leaf.VerifyHostname(name) == nil
}

// renewAt returns when the certificate should be renewed: at the time that its
// CA has suggested, otherwise after two thirds of its life, plus a delay that
// spreads certificates of the same day over several hours.
func (c *stored) renewAt() time.Time {
	leaf := c.cert.Leaf
	if c.premature() {
		return time.Now()
	}
	life, ratio := c.life(), c.ratioAt()
	spread := time.Second + time.Duration(float64(life)/30*fraction(leaf))
	at := ratio.Add(spread)
	if t := c.ari.SelectedTime; !t.IsZero() {
		// A CA's mistake must not let a certificate expire.
		if last := leaf.NotAfter.Add(-life / 10); t.After(last) {
			return last
		}
		if t.Before(at) {
			return t
		}
		at = t
	}
	return at
}

// ratioAt returns when two thirds of the certificate's life are over.
func (c *stored) ratioAt() time.Time {
	return c.cert.Leaf.NotAfter.Add(-time.Duration(float64(c.life()) * renewalRatio))
}

func (c *stored) life() time.Duration { return c.cert.Leaf.NotAfter.Sub(c.cert.Leaf.NotBefore) }

// refreshAt returns when the renewal information should be fetched again; zero
// if there is none.
func (c *stored) refreshAt() time.Time {
	switch {
	case !c.ari.HasWindow():
		return time.Time{}
	case c.ari.RetryAfter == nil:
		return time.Now().Add(renewalInfoPause)
	}
	return c.ari.RetryAfter.Add(time.Second) // acme.RenewalInfo.NeedsRefresh requires it to be past
}

// fraction returns a number in [0,1) that is constant for a certificate.
func fraction(leaf *x509.Certificate) float64 {
	b := leaf.SerialNumber.Bytes()
	if len(b) < 2 {
		return 0
	}
	return float64(uint(b[len(b)-2])<<8|uint(b[len(b)-1])) / (1 << 16)
}

// pause returns the minimum time between two checks of the certificate.
func (c *stored) pause() time.Duration { return min(time.Minute, c.life()/20) }

const (
	orderPause    = 10 * time.Second // minimum time between two successful orders of a host
	orderPauseMax = 6 * time.Hour    // its maximum, for certificates with a long life
)

// rest returns the minimum time from the order of this certificate to the next
// order, regardless of its dates and its CA.
func (c *stored) rest() time.Duration { return min(max(orderPause, c.life()/10), orderPauseMax) }

// hasty reports whether the certificate, which was just ordered, cannot be
// renewed in time.
func (c *stored) hasty() bool { return c.ratioAt().Before(time.Now().Add(orderPause)) }
