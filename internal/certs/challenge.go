package certs

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"strings"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
)

const (
	challengePath = "/.well-known/acme-challenge/"
	minToken      = 22 // base64url of 128 bits, RFC 8555, 8.3
	maxToken      = 256
)

// A solver answers the challenges of this process and, through storage, those
// of its cluster. Probes from anybody get this far for hosts of a route only;
// what cannot be answered from memory shares a few slots for storage.
type solver struct {
	manager *Manager
	config  *certmagic.Config // knows each ACME issuer
	issuers []*certmagic.ACMEIssuer
	slots   chan struct{}
}

func newSolver(m *Manager) *solver {
	s := &solver{manager: m, config: m.newConfig(), slots: make(chan struct{}, maxChallengeRead)}
	s.config.Logger = m.zap.Named("obtain") // a probe that fails is nobody's concern
	s.config.Issuers = nil
	for c := range m.chains() {
		for _, a := range c.authorities {
			for ; a != nil; a = a.staging {
				if t, ok := a.template.(*certmagic.ACMEIssuer); ok {
					iss := m.newACME(s.config, t)
					s.issuers = append(s.issuers, iss)
					s.config.Issuers = append(s.config.Issuers, iss)
				}
			}
		}
	}
	return s
}

// HTTPChallenge answers q if it is an HTTP-01 challenge for host, the canonical
// form of q's, and reports whether it has.
func (m *Manager) HTTPChallenge(w http.ResponseWriter, q *http.Request, host string) bool {
	token, ok := strings.CutPrefix(q.URL.Path, challengePath)
	if !ok || q.Method != http.MethodGet || !isToken(token) || !m.answers() || !m.options.Knows(host) {
		return false
	}
	release, ok := m.solver.admit(host)
	if !ok {
		return false
	}
	defer release()
	q = q.Clone(q.Context())
	q.Host = host
	for _, iss := range m.solver.issuers {
		if iss.HandleHTTPChallenge(w, q) {
			return true
		}
	}
	return false
}

// tlsALPN returns the certificate for a TLS-ALPN-01 challenge, or nil if there
// is none.
func (m *Manager) tlsALPN(hello *tls.ClientHelloInfo) *tls.Certificate {
	name := strings.ToLower(hello.ServerName)
	host := name
	if ip, ok := reverseName(name); ok {
		host = ip
	}
	if !m.answers() || len(m.solver.issuers) == 0 || !m.options.Knows(host) {
		return nil
	}
	release, ok := m.solver.admit(name)
	if !ok {
		return nil
	}
	defer release()
	cert, err := m.solver.config.GetCertificate(hello)
	if err != nil {
		return nil
	}
	return cert
}

// answers reports whether challenges may come.
func (m *Manager) answers() bool { return m.open.Load() && m.ctx.Err() == nil }

// admit takes a slot for a probe that has to read storage.
func (s *solver) admit(name string) (release func(), ok bool) {
	if _, mine := certmagic.GetACMEChallenge(name); mine {
		return func() {}, true
	}
	select {
	case s.slots <- struct{}{}:
		return func() { <-s.slots }, true
	default:
		return nil, false
	}
}

// isChallenge reports whether a client wants nothing but a challenge's
// certificate (RFC 8737, 3).
func isChallenge(hello *tls.ClientHelloInfo) bool {
	return len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acmez.ACMETLS1Protocol && hello.ServerName != ""
}

func isToken(s string) bool {
	if len(s) < minToken || len(s) > maxToken {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// reverseName returns the address that a lower case name under in-addr.arpa or ip6.arpa
// stands for; challenges for addresses use it as SNI (RFC 8738, 6).
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
