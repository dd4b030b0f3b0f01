package certs

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/caddyserver/certmagic"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// publicDirectories are the domains of the ACME directories of public CAs. If a
// CA also runs private directories below the same domain, the host of the
// public one is listed. Any other CA counts as private: it gets the order, and
// decides itself what it signs. Read-only.
var publicDirectories = []string{
	"letsencrypt.org",
	"zerossl.com",
	"pki.goog",
	"buypass.com", "buypass.no",
	"acme.ssl.com",
	"acme-api.actalis.com",
	"acme.sectigo.com",
	"acme.litessl.com",
}

// An onionIssuer tells whether it signs names under .onion, which require a
// special proof (RFC 9799).
type onionIssuer interface{ IssuesOnion() bool }

// isPublic reports whether an issuer is a known public CA, which follows the
// rules of the CA/Browser Forum.
func isPublic(issuer certmagic.Issuer) bool {
	switch i := issuer.(type) {
	case *certmagic.ZeroSSLIssuer:
		return true
	case *certmagic.ACMEIssuer:
		u, err := url.Parse(i.CA)
		return i.CA == "" || err == nil && hostname.Below(strings.ToLower(u.Hostname()), publicDirectories...)
	}
	return false
}

// refuses returns why none of the authorities signs a host or wildcard, or nil
// if one may.
func (c *chain) refuses(name string) error {
	var first error
	for _, a := range c.authorities {
		err := a.refuses(name)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// refuses returns why the authority never signs a host or wildcard, or nil if
// it may. The CA is not contacted.
func (a *authority) refuses(name string) error {
	if _, ok := a.template.(*LocalCA); ok {
		if isIP(name) {
			return checkInternal(nil, ipList(name))
		}
		return checkInternal([]string{name}, nil)
	}
	o, ok := a.template.(onionIssuer)
	onion := ok && o.IssuesOnion()
	if hostname.IsOnion(name) {
		if onion {
			return nil
		}
		return fmt.Errorf("no public CA signs %q by ACME, and the issuer does not say that it signs names under .onion: "+
			"use an issuer whose method IssuesOnion returns true, or serve the host without TLS", name)
	}
	if !isPublic(a.template) {
		return nil
	}
	if why := hostname.Unsignable(name); why != "" {
		return fmt.Errorf("no public CA signs %q: %s; use a public name, or one below internal or home.arpa, which the local CA signs, "+
			"or let TLS.Host return a private CA for it", name, why)
	}
	return nil
}
