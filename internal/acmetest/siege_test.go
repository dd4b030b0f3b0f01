package acmetest_test

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/acmetest"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// files returns the keys in a proxy's storage that contain part.
func (p *proxy) files(t testing.TB, part string) []string {
	t.Helper()
	found := make(map[string]bool)
	for _, top := range []string{"acme", "certificates", "hostproxy"} {
		keys, _ := p.r.TLS.Storage.List(t.Context(), top, true)
		for _, key := range keys {
			if strings.Contains(key, part) && p.isFile(t, key) {
				found[key] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// locks returns the lock files in a proxy's storage.
func (p *proxy) locks(t testing.TB) []string {
	return locks(t, p.r.TLS.Storage.(*certmagic.FileStorage).Path)
}

func (p *proxy) isFile(t testing.TB, key string) bool {
	info, err := p.r.TLS.Storage.Stat(t.Context(), key)
	return err == nil && info.IsTerminal
}

// makeDue makes all certificates in storage due for renewal.
func (p *proxy) makeDue(t testing.TB) {
	t.Helper()
	selected := regexp.MustCompile(`"_selectedTime": ?"[^"]*"`)
	for _, key := range p.files(t, ".json") {
		if !strings.HasPrefix(key, "certificates/") {
			continue
		}
		b, err := p.r.TLS.Storage.Load(t.Context(), key)
		require.NoError(t, err)
		due := selected.ReplaceAll(b, []byte(`"_selectedTime":"2020-01-01T00:00:00Z"`))
		require.NotEqual(t, b, due, "no renewal information in %s: %s", key, b)
		require.NoError(t, p.r.TLS.Storage.Store(t.Context(), key, due))
	}
}

// renewed waits until a host serves another certificate than old.
func (p *proxy) renewed(t testing.TB, host string, old *x509.Certificate) (leaf *x509.Certificate) {
	t.Helper()
	proxytest.Eventually(t, host+" serves another certificate", func() bool {
		var err error
		leaf, err = p.shake(host)
		return err == nil && leaf.SerialNumber.Cmp(old.SerialNumber) != 0
	})
	return leaf
}

// If TLS.Email is set after the first run, the account is another one. A CA
// refuses an order of it that replaces a certificate of the first account.
func TestAnEmailSetAfterTheFirstRunRenews(t *testing.T) {
	p := run(t, acmetest.Options{}, nil, "a.example.com")
	p.await(t)
	first, err := p.shake("a.example.com")
	require.NoError(t, err)
	p.stop()
	p.makeDue(t)
	issuer := p.ca.Issuer()
	issuer.Email = "hostmaster@example.com"
	p.r.TLS.Issuer = issuer
	orders := p.ca.Seen("/order-plz")
	p.restart(t)
	p.renewed(t, "a.example.com", first)
	assert.Equal(t, 2, p.ca.Seen("/order-plz")-orders, "one order that is refused, and one without replaces")
}

// A CA that was installed again knows neither the account nor the certificates.
func TestAForgottenAccountIsCreatedAgainOnce(t *testing.T) {
	hosts := []string{"a.example.com", "b.example.com", "c.example.com", "d.example.com", "e.example.com"}
	p := run(t, acmetest.Options{}, nil, hosts...)
	p.await(t)
	before := make(map[string]*x509.Certificate)
	for _, host := range hosts {
		leaf, err := p.shake(host)
		require.NoError(t, err)
		before[host] = leaf
	}
	p.stop()
	p.makeDue(t)
	p.ca.Forget(t)
	accounts := p.ca.Seen("/sign-me-up")
	p.restart(t)
	for _, host := range hosts {
		p.renewed(t, host, before[host])
		assert.Zero(t, p.status(host).Attempts, host)
	}
	assert.Equal(t, 1, p.ca.Seen("/sign-me-up")-accounts)
	assert.Len(t, p.files(t, "/users/"), 2, "a registration and its key")
}

// Two processes find out at the same time that the CA has forgotten their
// account.
func TestAForgottenAccountIsCreatedAgainOnceInACluster(t *testing.T) {
	hosts := []string{"a.example.com", "b.example.com", "c.example.com", "d.example.com", "e.example.com"}
	p := run(t, acmetest.Options{}, nil, hosts...)
	p.await(t)
	first, err := p.shake(hosts[0])
	require.NoError(t, err)
	p.stop()
	p.makeDue(t)
	p.ca.Forget(t)
	accounts, orders := p.ca.Seen("/sign-me-up"), p.ca.Seen("/finalize-order")
	q := &proxy{r: new(hostproxy.Router), ca: p.ca}
	q.r.Logger, q.r.TLS = p.r.Logger, p.r.TLS
	slices.Reverse(hosts) // the other process starts with the last host
	for _, host := range hosts {
		q.r.Handle(host, http.NotFoundHandler())
	}
	https, plain := proxytest.Listen(t), proxytest.Listen(t)
	q.https = https.Addr().String()
	q.serve(t, https, plain)
	p.restart(t)
	p.renewed(t, "a.example.com", first)
	proxytest.Eventually(t, "all renewals", func() bool { return p.ca.Seen("/finalize-order")-orders >= len(hosts) })
	proxytest.Eventually(t, "the end of all locks", func() bool { return len(p.locks(t)) == 0 })
	assert.Equal(t, 1, p.ca.Seen("/sign-me-up")-accounts)
	assert.Equal(t, len(hosts), p.ca.Seen("/finalize-order")-orders, "each is renewed once")
}

// issuedBy is a TLS.Host hook that sets the issuers of some hosts.
func issuedBy(issuers map[string]certmagic.Issuer) func(string) (hostproxy.HostTLS, error) {
	return func(pattern string) (hostproxy.HostTLS, error) {
		return hostproxy.HostTLS{Issuer: issuers[pattern]}, nil
	}
}

// External accounts at one CA work side by side, even with the same e-mail.
func TestTwoTemplatesOfOneCAHaveAccountsOfTheirOwn(t *testing.T) {
	eab := map[string]string{
		"kid-1": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W",
		"kid-2": "b10lLJs8l1GPIzsLP0s6pMt8O0XVGnfTaCeROxQM0BIt2XrJMDHJZBM5NuQmQJQH",
	}
	p := run(t, acmetest.Options{EAB: eab}, func(r *hostproxy.Router, ca *acmetest.CA, _ acmetest.Options) {
		issuers := make(map[string]certmagic.Issuer)
		for host, id := range map[string]string{"a.example.com": "kid-1", "b.example.com": "kid-2"} {
			issuer := ca.Issuer()
			issuer.Email = "hostmaster@example.com"
			issuer.ExternalAccount = &acme.EAB{KeyID: id, MACKey: eab[id]}
			issuers[host] = issuer
		}
		r.TLS.Host = issuedBy(issuers)
	}, "a.example.com", "b.example.com")
	p.await(t)
	assert.Equal(t, 2, p.ca.Seen("/sign-me-up"))
	assert.Len(t, p.files(t, "hostmaster"), 4, "two registrations and their keys")
}

// Templates of the same CA may differ in any setting, and each is used for its
// own hosts only.
func TestTwoTemplatesOfOneCAKeepTheirOwnSettings(t *testing.T) {
	p := run(t, acmetest.Options{HTTPPort: 1, TLSPort: 0}, func(r *hostproxy.Router, ca *acmetest.CA, _ acmetest.Options) {
		byDNS := ca.Issuer()
		byDNS.DNS01Solver = &certmagic.DNS01Solver{DNSManager: certmagic.DNSManager{
			DNSProvider: ca.DNS, Resolvers: []string{ca.DNS.Addr}, PropagationTimeout: -1,
		}}
		profiled := ca.Issuer()
		profiled.Profile = "default"
		r.TLS.Host = issuedBy(map[string]certmagic.Issuer{
			"*.dns.example.com": byDNS,
			"a.example.com":     profiled,
			"b.example.com":     ca.Issuer(),
		})
	}, "*.dns.example.com", "a.example.com", "b.example.com")
	p.await(t)
	for _, host := range []string{"x.dns.example.com", "a.example.com", "b.example.com"} {
		_, err := p.shake(host)
		require.NoError(t, err, host)
	}
	assert.Equal(t, 1, p.ca.Seen("/sign-me-up"), "all templates use one account")
}

// One attempt is one order and one failed validation, whatever the CA offers.
// No port answers: after that failure the ACME client would try the next type
// of challenge, if it had one.
func TestOneAttemptIsOneFailedValidation(t *testing.T) {
	p := run(t, acmetest.Options{HTTPPort: 1, TLSPort: 1}, nil, "a.example.com")
	proxytest.Eventually(t, "the first failure", func() bool { return p.status("a.example.com").Attempts == 1 })
	assert.Equal(t, 1, p.ca.Seen("/order-plz"))
	assert.Equal(t, 1, p.ca.Seen("/chalZ/"))
	var problem acme.Problem
	require.ErrorAs(t, p.status("a.example.com").Err, &problem)
	assert.NotContains(t, p.status("a.example.com").Err.Error(), "map[")
	assert.NotContains(t, p.status("a.example.com").Err.Error(), "\n")
}

// runUnseen starts a proxy for a host that neither its CA nor the CA's staging
// directory can reach, and waits for the first failure.
func runUnseen(t *testing.T, host string) (p *proxy, staging *acmetest.CA) {
	t.Helper()
	p = run(t, acmetest.Options{}, func(r *hostproxy.Router, ca *acmetest.CA, o acmetest.Options) {
		staging = acmetest.New(t, acmetest.Options{HTTPPort: o.HTTPPort, TLSPort: o.TLSPort})
		ca.DNS.Forget(host)
		staging.DNS.Forget(host)
		issuer := ca.Issuer()
		issuer.TestCA = staging.URL
		issuer.TrustedRoots = x509.NewCertPool()
		issuer.TrustedRoots.AppendCertsFromPEM(ca.PEM)
		issuer.TrustedRoots.AppendCertsFromPEM(staging.PEM)
		r.TLS.Issuer = issuer
	}, host)
	proxytest.Eventually(t, "the first failure", func() bool { return p.status(host).Attempts == 1 })
	require.Equal(t, 1, p.ca.Seen("/order-plz"))
	require.Zero(t, staging.Seen("/order-plz"))
	return p, staging
}

// After a failed validation, orders go to the staging directory until it has
// validated the host.
func TestRetriesGoToTheStagingDirectory(t *testing.T) {
	const host = "a.example.com"
	p, staging := runUnseen(t, host)

	for range 2 { // a restart does not change this
		p.stop()
		orders := staging.Seen("/order-plz")
		p.restart(t)
		proxytest.Eventually(t, "a probe to fail", func() bool { return p.status(host).Attempts == 1 })
		assert.Equal(t, 1, staging.Seen("/order-plz")-orders)
		assert.Equal(t, 1, p.ca.Seen("/order-plz"))
	}

	staging.DNS.Remember(host)
	p.ca.DNS.Remember(host)
	p.stop()
	p.restart(t)
	p.await(t, host)
	_, err := p.shake(host)
	require.NoError(t, err)
	assert.Equal(t, 2, p.ca.Seen("/order-plz"))
	assert.Len(t, p.files(t, "certificates/"), 3, "the files of the probe are not kept")
}

// The staging directory is optional. While it is down, orders go to the CA
// itself.
func TestAStagingDirectoryThatIsDownDelaysNoOrder(t *testing.T) {
	const host = "a.example.com"
	p, staging := runUnseen(t, host)
	p.stop()
	staging.Down()
	p.ca.DNS.Remember(host)
	p.restart(t)
	p.await(t, host)
	assert.Equal(t, 2, p.ca.Seen("/order-plz"))
}

// After a challenge type has failed, another one is tried.
func TestAnAttemptAfterAFailedValidationTakesAnotherChallenge(t *testing.T) {
	for what, o := range map[string]acmetest.Options{"TLS-ALPN-01": {HTTPPort: 1}, "HTTP-01": {TLSPort: 1}} {
		t.Run(what, func(t *testing.T) {
			p := run(t, o, nil, "a.example.com")
			p.await(t, "a.example.com")
			orders := p.ca.Seen("/order-plz")
			assert.LessOrEqual(t, orders, 2)
			leaf, err := p.shake("a.example.com")
			require.NoError(t, err)

			// The next order uses the type that worked.
			p.stop()
			p.makeDue(t)
			p.restart(t)
			p.renewed(t, "a.example.com", leaf)
			assert.Equal(t, 1, p.ca.Seen("/order-plz")-orders)
		})
	}
}

// The CA refuses new accounts from this address. Only one host finds that out.
// Hosts that have an account are not affected.
func TestOnlyOneHostMeetsALimitOfRegistrations(t *testing.T) {
	limit := acme.Problem{Status: http.StatusTooManyRequests, Type: acme.ProblemTypeRateLimited,
		Detail: "too many new registrations (10) from this IP address in the last 3h0m0s, retry after " +
			time.Now().Add(3*time.Hour).UTC().Format("2006-01-02 15:04:05 MST")}
	hosts := []string{"a.example.com", "b.example.com", "c.example.com", "d.example.com", "e.example.com", "f.example.com"}
	p := run(t, acmetest.Options{}, func(_ *hostproxy.Router, ca *acmetest.CA, _ acmetest.Options) { ca.Refuse("/sign-me-up", limit) }, hosts...)
	failed := func() (n int) {
		for s := range p.r.Certificates() {
			n += s.Attempts
		}
		return n
	}
	proxytest.Eventually(t, "a failure", func() bool { return failed() > 0 })
	proxytest.Eventually(t, "the others to be held", func() bool { return len(p.locks(t)) == 0 })
	assert.Equal(t, 1, failed(), "a host that is held makes no attempt")
	assert.Equal(t, 1, p.ca.Seen("/sign-me-up"))
	assert.Zero(t, p.ca.Seen("/order-plz"))

	known := run(t, acmetest.Options{}, nil, "a.example.com")
	known.await(t)
	known.ca.Refuse("/sign-me-up", limit)
	known.r.Handle("b.example.com", http.NotFoundHandler())
	known.await(t, "b.example.com")
}

func TestWithoutRenewalInformationTheCertificatesDatesCount(t *testing.T) {
	p := run(t, acmetest.Options{}, func(r *hostproxy.Router, _ *acmetest.CA, _ acmetest.Options) { r.TLS.DisableARI = true }, "a.example.com")
	p.await(t)
	first, err := p.shake("a.example.com")
	require.NoError(t, err)
	p.stop()
	p.makeDue(t)
	asked := p.ca.Seen("/draft-ietf-acme-ari")
	p.restart(t)
	p.await(t)
	second, err := p.shake("a.example.com")
	require.NoError(t, err)
	assert.Equal(t, first.SerialNumber, second.SerialNumber)
	assert.Greater(t, time.Until(p.status("a.example.com").RenewAt), 50*24*time.Hour)
	assert.Equal(t, asked, p.ca.Seen("/draft-ietf-acme-ari"))
}

// A failure is one readable line.
func TestAFailedValidationIsOneLineInTheLog(t *testing.T) {
	var log proxytest.Log
	p := run(t, acmetest.Options{}, func(r *hostproxy.Router, ca *acmetest.CA, _ acmetest.Options) {
		r.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		ca.DNS.Forget("a.example.com")
	}, "a.example.com")
	proxytest.Eventually(t, "the first failure", func() bool { return p.status("a.example.com").Attempts == 1 })
	p.stop()
	assert.Equal(t, 1, strings.Count(log.String(), "\n"), log.String())
	assert.NotContains(t, log.String(), "map[")
}

// The clients of a new host must not use up the capacity that the CA needs when
// it validates at the same listener.
func TestAChallengeIsAnsweredAmongHundredsOfClientsOfANewHost(t *testing.T) {
	const clients, host = 600, "a.example.com"
	var release func()
	p := run(t, acmetest.Options{HTTPPort: 1}, func(r *hostproxy.Router, ca *acmetest.CA, _ acmetest.Options) {
		release = ca.Hold("/order-plz")
		issuer := ca.Issuer()
		issuer.DisableHTTPChallenge = true
		r.TLS.Issuer = issuer
	}, host)
	defer release()
	var wg sync.WaitGroup
	var mu sync.Mutex
	served, refused := 0, 0
	for range clients {
		wg.Go(func() {
			c, err := tls.DialWithDialer(&net.Dialer{Timeout: proxytest.Patience}, "tcp", p.https,
				&tls.Config{ServerName: host, InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.CurveP256}})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				refused++
				return
			}
			served++
			c.Close()
		})
	}
	proxytest.Eventually(t, "the clients", func() bool { return p.status(host).Refused == clients-64 })
	assert.Equal(t, 64, p.status(host).Waiting)
	release()
	p.await(t, host)
	wg.Wait()
	assert.Equal(t, 64, served, "each that could wait")
	assert.Equal(t, clients-64, refused)
	assert.Equal(t, 1, p.ca.Seen("/order-plz"), "no validation failed")
	_, err := p.shake(host)
	require.NoError(t, err)
}
