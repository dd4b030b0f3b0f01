package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A static table holds the certificates that the program brought.
type static struct {
	names map[string][]*tls.Certificate
}

func newStatic(certs []tls.Certificate) (static, error) {
	t := static{names: make(map[string][]*tls.Certificate)}
	var errs []error
	for i := range certs {
		c := certs[i]
		if len(c.Certificate) == 0 {
			errs = append(errs, fmt.Errorf("static certificate %d is empty", i))
			continue
		}
		leaf, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			errs = append(errs, fmt.Errorf("static certificate %d: %w", i, err))
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
func (t static) has(name string) bool { return len(t.lookup(name)) > 0 }

func (t static) lookup(name string) []*tls.Certificate {
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
func (t static) pick(hello *tls.ClientHelloInfo, name string) *tls.Certificate {
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

func (t static) statuses() []Status {
	all := make([]Status, 0, len(t.names))
	for _, name := range slices.Sorted(maps.Keys(t.names)) {
		leaf := t.names[name][0].Leaf
		all = append(all, Status{
			Host: name, State: Static, Issuer: leaf.Issuer.CommonName,
			Serial: leaf.SerialNumber, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
		})
	}
	return all
}
