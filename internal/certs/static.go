package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// A static table holds the certificates that the program brought.
type static struct {
	names map[string][]*tls.Certificate
}

// newStatic makes the table of certs and of those that files have.
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

// status describes the certificate that covers a host or a wildcard, and whether there is one.
func (t *static) status(name string) (Status, bool) {
	cs := t.lookup(name)
	if len(cs) == 0 {
		return Status{}, false
	}
	return staticStatus(name, cs[0].Leaf), true
}

// staticStatus describes a certificate of the program.
func staticStatus(name string, leaf *x509.Certificate) Status {
	return Status{
		Host: name, State: Static, Issuer: leaf.Issuer.CommonName,
		Serial: leaf.SerialNumber, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
	}
}

// A pairFile is a certificate in files, and the files' times before it was read.
type pairFile struct {
	KeyPair
	cert              tls.Certificate
	certTime, keyTime time.Time
	fault             fault
}

// readPair reads a certificate from its files.
func readPair(p KeyPair) (*pairFile, error) {
	f := &pairFile{KeyPair: p, certTime: modified(p.CertFile), keyTime: modified(p.KeyFile)}
	var err error
	if f.cert, err = tls.LoadX509KeyPair(p.CertFile, p.KeyFile); err != nil {
		return nil, fmt.Errorf("certificate in %q and %q: %w", p.CertFile, p.KeyFile, err)
	}
	return f, nil
}

func (f *pairFile) changed() bool {
	return !modified(f.CertFile).Equal(f.certTime) || !modified(f.KeyFile).Equal(f.keyTime)
}

// A fault is why files could not be read when they were looked at last. It is used
// by the task that watches them.
type fault string

// level returns where a failure is logged: at Warn when it is news, not each time
// that the files are looked at.
func (f *fault) level(err error) slog.Level {
	if text := fault(err.Error()); *f != text {
		*f = text
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// end notes that the files are as they were read.
func (f *fault) end() { *f = "" }

// modified follows links: that is how secrets are swapped in containers.
func modified(file string) time.Time {
	info, err := os.Stat(file)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// staticCerts are the certificates in the base settings.
func (m *Manager) staticCerts() []tls.Certificate {
	if m.options.Config == nil {
		return nil
	}
	return m.options.Config.Certificates
}

// readFiles reads all files at start.
func (m *Manager) readFiles() error {
	var errs []error
	for i, p := range m.options.Files {
		if err := p.check(); err != nil {
			errs = append(errs, fmt.Errorf("Files[%d]: %w", i, err))
			continue
		}
		f, err := readPair(p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		m.files = append(m.files, f)
	}
	t, err := newStatic(m.staticCerts(), m.files)
	m.static.Store(t)
	return errors.Join(append(errs, err)...)
}

// watchFiles is the task that reads files again when they have changed.
func (m *Manager) watchFiles() {
	ticker := time.NewTicker(filesPause)
	defer ticker.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-ticker.C:
			m.rereadFiles()
			m.choices.sweep()
			m.rereadRealms()
			m.choices.rereadFiles()
		}
	}
}

func (m *Manager) rereadFiles() {
	fresh := false
	for i, f := range m.files {
		if !f.changed() {
			f.fault.end()
			continue
		}
		next, err := readPair(f.KeyPair)
		if err != nil {
			// A certificate and its key may change one after the other: look again.
			m.log.Log(m.ctx, f.fault.level(err), "certificate files cannot be read; keeping the previous certificate", "cause", err)
			continue
		}
		m.log.Info("certificate files read", "file", f.CertFile, "not_after", next.cert.Leaf.NotAfter)
		m.files[i], fresh = next, true
	}
	if !fresh {
		return
	}
	if t, err := newStatic(m.staticCerts(), m.files); err == nil {
		m.static.Store(t)
		m.Changed() // its names may be others
	}
}
