package certs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
)

// repairPatience is how long the repair of metadata waits while another process
// issues for the host: that process will write the metadata anyway.
const repairPatience = 5 * time.Second

// issueLock returns the name of certmagic's lock around the issuance for a
// host, and so around its writes.
func issueLock(name string) string { return "issue_cert_" + name }

// metadata returns the metadata that certmagic stores beside a certificate,
// made from known facts without contacting the CA. With it, the CA is soon
// asked for its preferred renewal time.
func (a *authority) metadata(c *stored, name string) ([]byte, error) {
	res := certmagic.CertificateResource{SANs: []string{name}}
	if _, ok := a.template.(certmagic.RenewalInfoGetter); ok {
		at := c.renewAt().UTC().Truncate(time.Second)
		issued := acme.Certificate{RenewalInfo: &acme.RenewalInfo{SelectedTime: at}}
		issued.RenewalInfo.SuggestedWindow.Start = at
		issued.RenewalInfo.SuggestedWindow.End = at.Add(time.Hour)
		if t, ok := a.template.(*certmagic.ACMEIssuer); ok {
			issued.CA = t.CA
		}
		var err error
		if res.IssuerData, err = json.Marshal(issued); err != nil {
			return nil, err
		}
	}
	return json.MarshalIndent(res, "", "\t")
}

// repair writes the missing metadata of c: certmagic cannot renew without it.
func (c *stored) repair(ctx context.Context, s *boundedStorage, name string) error {
	ctx, cancel := context.WithTimeout(ctx, repairPatience)
	defer cancel()
	if err := s.Lock(ctx, issueLock(name)); err != nil {
		return err
	}
	defer func() { _ = s.Unlock(context.WithoutCancel(ctx), issueLock(name)) }()
	// The previous holder of the lock may have written it.
	key := c.by.siteKey(name, metaFile)
	if meta, err := s.Load(ctx, key); err == nil {
		if c.ari, err = readARI(meta); err == nil {
			return nil
		}
	}
	text, err := s.Load(ctx, c.by.siteKey(name, certFile))
	if err != nil || !bytes.Contains(text, bytes.TrimSpace(encodeCert(c.cert.Leaf.Raw))) {
		return err // another certificate: its writer writes the metadata
	}
	meta, err := c.by.metadata(c, name)
	if err != nil {
		return err
	}
	if err := s.put(ctx, key, meta); err != nil {
		return err
	}
	c.ari, err = readARI(meta)
	return err
}

// discardDamaged makes the stored certificate of name count as absent, if it is
// still damaged. To do so, it deletes only the metadata.
func discardDamaged(ctx context.Context, s *boundedStorage, by []*authority, name string) error {
	ctx, cancel := context.WithTimeout(ctx, maxIssueTime)
	defer cancel()
	if err := s.Lock(ctx, issueLock(name)); err != nil {
		return err
	}
	defer func() { _ = s.Unlock(context.WithoutCancel(ctx), issueLock(name)) }()
	if _, err := findStored(ctx, s, by, name); !errors.Is(err, errUnusable) {
		return err // replaced by another process
	}
	var errs []error
	for _, a := range by {
		errs = append(errs, s.Delete(ctx, a.siteKey(name, metaFile)))
	}
	return errors.Join(errs...)
}
