package certs

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

const (
	challengePath = "/.well-known/acme-challenge/"
	minToken      = 22 // base64url of 128 bits, RFC 8555, 8.3
	maxToken      = 256
)

// A solver answers the challenges of this process and, through storage, those
// of its cluster. That includes hosts without a route here, since the members
// of a cluster do not learn of a new host at the same moment. Any client can
// get this far with any name, so look-ups in storage are bounded.
type solver struct{ lookout *lookout }

func newSolver(m *Manager) *solver {
	var keys []string
	for c := range m.issuers.chains() {
		for _, a := range c.authorities {
			for _, key := range a.challengeKeys() {
				if !slices.Contains(keys, key) {
					keys = append(keys, key)
				}
			}
		}
	}
	return &solver{lookout: newLookout(m, keys)}
}

// challengeKeys returns where an issuer and its staging directory keep
// challenges.
func (a *authority) challengeKeys() []string {
	var keys []string
	for ; a != nil; a = a.staging {
		if _, ok := a.template.(*certmagic.ACMEIssuer); ok {
			keys = append(keys, a.key)
		}
	}
	return keys
}

// HTTPChallenge answers q if it is an HTTP-01 challenge for host, which is the
// canonical form of q's host, and reports whether it did. It may wait for
// storage, for a few seconds at most.
func (m *Manager) HTTPChallenge(w http.ResponseWriter, q *http.Request, host string) bool {
	token, ok := strings.CutPrefix(q.URL.Path, challengePath)
	if !ok || q.Method != http.MethodGet || !isToken(token) || !m.answers() {
		return false
	}
	fits := func(c acme.Challenge) bool {
		return c.Type == acme.ChallengeTypeHTTP01 && c.Token == token && c.Identifier.Value == host
	}
	c, ok := m.solver.challenge(q.Context(), host, host, fits)
	if !ok {
		return false
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = io.WriteString(w, c.KeyAuthorization)
	m.log.Debug("challenge answered", "host", host, "type", c.Type)
	return true
}

// tlsALPN returns the certificate for a TLS-ALPN-01 challenge, or nil if there
// is none.
func (m *Manager) tlsALPN(hello *tls.ClientHelloInfo) *tls.Certificate {
	name := strings.ToLower(hello.ServerName)
	host, isAddr := reverseName(name)
	if !isAddr {
		host = name
		if canonical, err := hostname.Canonical(name); err != nil || canonical != name || isIP(name) {
			return nil
		}
	}
	if !m.answers() {
		return nil
	}
	fits := func(c acme.Challenge) bool {
		return c.Type == acme.ChallengeTypeTLSALPN01 && c.Identifier.Value == host
	}
	c, ok := m.solver.challenge(contextOf(hello), name, host, fits)
	if !ok {
		return nil
	}
	cert, err := acmez.TLSALPN01ChallengeCert(c)
	if err != nil {
		m.log.Debug("challenge not answered", "host", host, "type", c.Type, "cause", err)
		return nil
	}
	m.log.Debug("challenge answered", "host", host, "type", c.Type)
	return cert
}

// challenge returns the challenge that fits: one of this process, or one that
// is stored under name.
func (s *solver) challenge(ctx context.Context, name, host string, fits func(acme.Challenge) bool) (acme.Challenge, bool) {
	if mine, ok := certmagic.GetACMEChallenge(name); ok && fits(mine.Challenge) {
		return mine.Challenge, true
	}
	for _, c := range s.lookout.find(ctx, name, host) {
		if fits(c) {
			return c, true
		}
	}
	return acme.Challenge{}, false
}

// answers reports whether challenges can be answered now.
func (m *Manager) answers() bool { return m.open.Load() && m.ctx.Err() == nil }

// isChallenge reports whether a client wants only the certificate of a
// challenge (RFC 8737, 3).
func isChallenge(hello *tls.ClientHelloInfo) bool {
	return len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acmez.ACMETLS1Protocol && hello.ServerName != ""
}

func isToken(s string) bool {
	return len(s) >= minToken && len(s) <= maxToken && isBase64URL(s)
}

func isBase64URL(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// reverseName returns the address behind a lower-case name under in-addr.arpa
// or ip6.arpa; challenges for addresses use such a name as SNI (RFC 8738, 6).
func reverseName(name string) (string, bool) {
	if v4, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		labels := strings.Split(v4, ".")
		if len(labels) != 4 {
			return "", false
		}
		a, err := netip.ParseAddr(labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0])
		return a.String(), err == nil && a.Is4()
	}
	v6, ok := strings.CutSuffix(name, ".ip6.arpa")
	labels := strings.Split(v6, ".")
	if !ok || len(labels) != 32 {
		return "", false
	}
	var b [16]byte
	for i, l := range labels {
		n := strings.Index("0123456789abcdef", l)
		if n < 0 || len(l) != 1 {
			return "", false
		}
		b[15-i/2] |= byte(n) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b).String(), true
}
