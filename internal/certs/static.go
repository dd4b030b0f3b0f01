package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// A static is a table of the certificates that the program provides.
type static struct {
	names map[string][]*tls.Certificate
}

// newStatic makes the table of certs and the certificates in files.
func newStatic(certs []tls.Certificate, files []*pairFile) (*static, error) {
	t := &static{names: make(map[string][]*tls.Certificate)}
	var errs []error
	for _, f := range files {
		certs = append(certs[:len(certs):len(certs)], f.cert)
	}
	for i := range certs {
		c := certs[i]
		if len(c.Certificate) == 0 {
			errs = append(errs, fmt.Errorf("Config.Certificates[%d] is empty: want a chain and a private key", i))
			continue
		}
		leaf, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			errs = append(errs, fmt.Errorf("Config.Certificates[%d]: %w", i, err))
			continue
		}
		c.Leaf = leaf
		for _, name := range leaf.DNSNames {
			name = strings.ToLower(name)
			t.names[name] = append(t.names[name], &c)
		}
		for _, ip := range leaf.IPAddresses {
			t.names[ip.String()] = append(t.names[ip.String()], &c)
		}
	}
	return t, errors.Join(errs...)
}

// has reports whether a certificate covers a host or a wildcard.
func (t *static) has(name string) bool { return len(t.lookup(name)) > 0 }

func (t *static) lookup(name string) []*tls.Certificate {
	if len(t.names) == 0 {
		return nil
	}
	if cs := t.names[name]; cs != nil {
		return cs
	}
	if i := strings.IndexByte(name, '.'); i > 0 && name[0] != '*' && !isIP(name) {
		return t.names["*"+name[i:]]
	}
	return nil
}

// pick returns the first certificate for name that the client can use.
func (t *static) pick(hello *tls.ClientHelloInfo, name string) *tls.Certificate {
	cs := t.lookup(name)
	for _, c := range cs {
		if len(cs) == 1 || hello.SupportsCertificate(c) == nil {
			return c
		}
	}
	if len(cs) > 0 {
		return cs[0]
	}
	return nil
}

func (t *static) statuses() []Status {
	all := make([]Status, 0, len(t.names))
	for _, name := range slices.Sorted(maps.Keys(t.names)) {
		s, _ := t.status(name)
		all = append(all, s)
	}
	return all
}

// status describes the certificate that covers a host or a wildcard, and
// reports whether there is one.
func (t *static) status(name string) (Status, bool) {
	cs := t.lookup(name)
	if len(cs) == 0 {
		return Status{}, false
	}
	return staticStatus(name, cs[0].Leaf), true
}

// staticStatus describes a certificate that the program provides.
func staticStatus(name string, leaf *x509.Certificate) Status {
	return Status{
		Host: name, State: Static, Issuer: leaf.Issuer.CommonName,
		Serial: leaf.SerialNumber, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
	}
}

// statics are the certificates that the program provides for all hosts: from
// its tls.Config and from files.
type statics struct {
	atomic.Pointer[static] // the table of all of them

	base  []tls.Certificate
	files []*pairFile // owned by the task that calls reread
	log   *slog.Logger
}

// newStatics reads the files and makes the table.
func newStatics(o *Options) (*statics, error) {
	s := &statics{log: o.Logger}
	if o.Config != nil {
		s.base = o.Config.Certificates
	}
	var errs []error
	for i, p := range o.Files {
		if err := p.check(); err != nil {
			errs = append(errs, fmt.Errorf("field Files[%d]: %w", i, err))
			continue
		}
		f, err := readPair(p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.files = append(s.files, f)
	}
	t, err := newStatic(s.base, s.files)
	s.Store(t)
	return s, errors.Join(append(errs, err)...)
}

// reread reads changed files again, and reports whether the table has changed.
func (s *statics) reread(ctx context.Context) (changed bool) {
	fresh := false
	for i, f := range s.files {
		if !f.changed() {
			f.fault.end()
			continue
		}
		next, err := readPair(f.KeyPair)
		if err != nil {
			// A certificate and its key may be replaced one after the other:
			// the next check tries again.
			s.log.Log(ctx, f.fault.level(err), "certificate files cannot be read; keeping the previous certificate", "cause", err)
			continue
		}
		s.log.Info("certificate files read", "file", f.CertFile, "not_after", next.cert.Leaf.NotAfter)
		s.files[i], fresh = next, true
	}
	if !fresh {
		return false
	}
	t, err := newStatic(s.base, s.files)
	if err != nil {
		return false
	}
	s.Store(t)
	return true
}

// watchFiles is the task that reads changed files again.
func (m *Manager) watchFiles() {
	ticker := time.NewTicker(filesPause)
	defer ticker.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-ticker.C:
			if m.static.reread(m.ctx) {
				m.Changed()
			}
			m.choices.sweep()
			m.choices.rereadRealms()
			m.choices.rereadFiles()
		}
	}
}
