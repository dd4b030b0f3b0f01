package acmetest_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"regexp"
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

// A proxy is a Server with real listeners and a CA that can reach them.
type proxy struct {
	r     *hostproxy.Router
	ca    *acmetest.CA
	https string
	plain string
	stop  func()
}

// run starts a proxy for hosts. o.HTTPPort and o.TLSPort are filled in if zero;
// a negative value means that no listener is there.
func run(t testing.TB, o acmetest.Options, set func(*hostproxy.Router, *acmetest.CA, acmetest.Options), hosts ...string) *proxy {
	t.Helper()
	https, plain := proxytest.Listen(t), proxytest.Listen(t)
	if o.TLSPort == 0 {
		o.TLSPort = https.Addr().(*net.TCPAddr).Port
	}
	if o.HTTPPort == 0 {
		o.HTTPPort = plain.Addr().(*net.TCPAddr).Port
	}
	p := &proxy{r: new(hostproxy.Router), ca: acmetest.New(t, o), https: https.Addr().String(), plain: plain.Addr().String()}
	p.r.Logger = slog.New(slog.DiscardHandler)
	p.r.TLS.Storage = &certmagic.FileStorage{Path: t.TempDir()}
	p.r.TLS.Issuer = p.ca.Issuer()
	if set != nil {
		set(p.r, p.ca, o)
	}
	for _, host := range hosts {
		p.r.Handle(host, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, host) }))
	}
	p.serve(t, https, plain)
	return p
}

func (p *proxy) serve(t testing.TB, https, plain net.Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- (&hostproxy.Server{Router: p.r}).Serve(ctx, https, plain) }()
	var once sync.Once
	p.stop = func() {
		once.Do(func() {
			cancel()
			require.NoError(t, <-done)
		})
	}
	t.Cleanup(p.stop)
}

// restart serves again after stop, at the same addresses, like a new process:
// with a new Router that has the current settings of p.r.
func (p *proxy) restart(t testing.TB) {
	t.Helper()
	r := &hostproxy.Router{Logger: p.r.Logger, TLS: p.r.TLS}
	for pattern, h := range p.r.All() {
		r.Handle(pattern, h)
	}
	p.r = r
	https, err := net.Listen("tcp", p.https)
	require.NoError(t, err)
	plain, err := net.Listen("tcp", p.plain)
	require.NoError(t, err)
	p.serve(t, https, plain)
}

// shake makes one full handshake, verifies the certificate and returns it.
func (p *proxy) shake(host string) (*x509.Certificate, error) {
	sni := host
	if net.ParseIP(host) != nil {
		sni = ""
	}
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: proxytest.Patience}, "tcp", p.https,
		&tls.Config{ServerName: sni, InsecureSkipVerify: true})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	leaf := c.ConnectionState().PeerCertificates[0]
	between := x509.NewCertPool()
	for _, i := range c.ConnectionState().PeerCertificates[1:] {
		between.AddCert(i)
	}
	_, err = leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: p.ca.Roots, Intermediates: between})
	return leaf, err
}

func (p *proxy) await(t testing.TB, hosts ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	proxytest.Eventually(t, "the Router listens", func() bool {
		for range p.r.Certificates() {
			return true
		}
		return false
	})
	require.NoError(t, p.r.AwaitCertificates(ctx, hosts...))
}

func (p *proxy) status(host string) hostproxy.CertStatus {
	for s := range p.r.Certificates() {
		if s.Host == host {
			return s
		}
	}
	return hostproxy.CertStatus{}
}

func TestEveryChallengeTypeGetsACertificate(t *testing.T) {
	for _, c := range []struct {
		what string
		o    acmetest.Options
		set  func(*certmagic.ACMEIssuer)
		host string
	}{
		{"TLS-ALPN-01", acmetest.Options{HTTPPort: 1}, func(i *certmagic.ACMEIssuer) { i.DisableHTTPChallenge = true }, "a.example.com"},
		{"HTTP-01", acmetest.Options{TLSPort: 1}, func(i *certmagic.ACMEIssuer) { i.DisableTLSALPNChallenge = true }, "a.example.com"},
		{"whichever works", acmetest.Options{}, func(*certmagic.ACMEIssuer) {}, "a.example.com"},
		{"an international name", acmetest.Options{}, func(*certmagic.ACMEIssuer) {}, "xn--bcher-kva.example.com"},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := run(t, c.o, func(r *hostproxy.Router, ca *acmetest.CA, _ acmetest.Options) {
				issuer := ca.Issuer()
				c.set(issuer)
				r.TLS.Issuer = issuer
			}, c.host)
			p.await(t)
			_, err := p.shake(c.host)
			require.NoError(t, err)
		})
	}
}

func TestAWildcardGetsACertificateByDNS(t *testing.T) {
	p := run(t, acmetest.Options{HTTPPort: 1, TLSPort: 1}, func(r *hostproxy.Router, ca *acmetest.CA, _ acmetest.Options) {
		issuer := ca.Issuer()
		issuer.DNS01Solver = &certmagic.DNS01Solver{DNSManager: certmagic.DNSManager{
			DNSProvider: ca.DNS, Resolvers: []string{ca.DNS.Addr}, PropagationTimeout: -1,
		}}
		r.TLS.Issuer = issuer
	}, "*.example.com", "x.example.com", "example.com")
	p.await(t)
	for _, host := range []string{"x.example.com", "y.example.com", "example.com"} {
		_, err := p.shake(host)
		require.NoError(t, err, host)
	}
	assert.Equal(t, 2, p.ca.Seen("/order-plz"), "a covered host places no order")
}

func TestAnAddressGetsACertificate(t *testing.T) {
	// We treat 127.0.0.1 as internal, but Pebble can reach it.
	p := run(t, acmetest.Options{}, func(r *hostproxy.Router, ca *acmetest.CA, _ acmetest.Options) { r.TLS.Internal = ca.Issuer() }, "127.0.0.1")
	p.await(t)
	_, err := p.shake("127.0.0.1")
	require.NoError(t, err)
}

func TestAnExternalAccountCanBeBound(t *testing.T) {
	const id, key = "kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	p := run(t, acmetest.Options{EAB: map[string]string{id: key}}, func(r *hostproxy.Router, ca *acmetest.CA, _ acmetest.Options) {
		issuer := ca.Issuer()
		issuer.ExternalAccount = &acme.EAB{KeyID: id, MACKey: key}
		r.TLS.Issuer = issuer
	}, "a.example.com")
	p.await(t)
	_, err := p.shake("a.example.com")
	require.NoError(t, err)
}

func TestOnDemandCertificatesAreIssuedUnderAWildcard(t *testing.T) {
	var mu sync.Mutex
	asked := make(map[string]int)
	p := run(t, acmetest.Options{}, func(r *hostproxy.Router, _ *acmetest.CA, _ acmetest.Options) {
		r.TLS.HostPolicy = func(_ context.Context, host string) error {
			mu.Lock()
			defer mu.Unlock()
			asked[host]++
			if strings.HasPrefix(host, "customer") {
				return nil
			}
			return hostproxy.ErrHostNotAllowed
		}
	}, "*.example.com")
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			_, err := p.shake("customer1.example.com")
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	for range 10 {
		_, err := p.shake("stranger.example.com")
		assert.ErrorContains(t, err, "unrecognized name")
	}
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, map[string]int{"customer1.example.com": 1, "stranger.example.com": 1}, asked)
	assert.Equal(t, 1, p.ca.Seen("/order-plz"))
}

func TestTheSecondIssuerStepsIn(t *testing.T) {
	var key string
	p := run(t, acmetest.Options{Blocked: []string{"example.com"}}, func(r *hostproxy.Router, _ *acmetest.CA, o acmetest.Options) {
		second := acmetest.New(t, acmetest.Options{HTTPPort: o.HTTPPort, TLSPort: o.TLSPort})
		key = second.Issuer().IssuerKey()
		r.TLS.Fallbacks = []certmagic.Issuer{second.Issuer()}
	}, "a.example.com")
	p.await(t)
	assert.Equal(t, key, p.status("a.example.com").Issuer)
}

func TestARefusalSaysWhyAndWhenItIsTriedAgain(t *testing.T) {
	p := run(t, acmetest.Options{Blocked: []string{"bad.example.com"}}, nil, "bad.example.com", "good.example.com")
	p.await(t, "good.example.com")
	proxytest.Eventually(t, "bad.example.com fails", func() bool { return p.status("bad.example.com").State == "failed" })
	s := p.status("bad.example.com")
	assert.ErrorContains(t, s.Err, "rejectedIdentifier")
	assert.Equal(t, 1, s.Attempts)
	assert.WithinRange(t, s.NextTry, time.Now().Add(90*time.Second), time.Now().Add(3*time.Minute))
}

func TestACAThatIsDownAtStartDelaysNothingAndIsAskedAgain(t *testing.T) {
	p := run(t, acmetest.Options{}, func(_ *hostproxy.Router, ca *acmetest.CA, _ acmetest.Options) { ca.Down() }, "a.example.com", "b.localhost")
	resp, err := proxytest.HTTPClient(t, p.plain, nil, "h1").Get("http://a.example.com/")
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, http.StatusPermanentRedirect, resp.StatusCode)
	p.await(t, "b.localhost")
	proxytest.Eventually(t, "a.example.com fails", func() bool { return p.status("a.example.com").State == "failed" })
	p.ca.Up()
	p.await(t)
	_, err = p.shake("a.example.com")
	require.NoError(t, err)
}

func TestAProfileIsRequested(t *testing.T) {
	with := func(profile string) func(*hostproxy.Router, *acmetest.CA, acmetest.Options) {
		return func(r *hostproxy.Router, ca *acmetest.CA, _ acmetest.Options) {
			issuer := ca.Issuer()
			issuer.Profile = profile
			r.TLS.Issuer = issuer
		}
	}
	p := run(t, acmetest.Options{}, with("default"), "a.example.com")
	p.await(t, "a.example.com")
	p = run(t, acmetest.Options{}, with("fancy"), "a.example.com")
	proxytest.Eventually(t, "the refusal", func() bool { return p.status("a.example.com").State == "failed" })
	assert.ErrorContains(t, p.status("a.example.com").Err, "fancy")
}

func TestNoConnectionToTheCAOutlivesTheServer(t *testing.T) {
	p := run(t, acmetest.Options{}, nil, "a.example.com")
	p.await(t, "a.example.com")
	require.Positive(t, p.ca.Conns())
	p.stop()
	proxytest.Eventually(t, "the connections to be closed", func() bool { return p.ca.Conns() == 0 })
}

func TestBadNoncesFailNoOrder(t *testing.T) {
	p := run(t, acmetest.Options{BadNonces: "40"}, nil, "a.example.com", "b.example.com")
	p.await(t)
}

func TestARestartWithKeptStorageOrdersNothing(t *testing.T) {
	p := run(t, acmetest.Options{}, nil, "a.example.com")
	p.await(t)
	first, err := p.shake("a.example.com")
	require.NoError(t, err)
	p.stop()
	orders := p.ca.Seen("/order-plz")
	p.restart(t)
	second, err := p.shake("a.example.com")
	require.NoError(t, err)
	assert.Equal(t, first.SerialNumber, second.SerialNumber)
	assert.Equal(t, orders, p.ca.Seen("/order-plz"))
}

// certmagic fills zero fields from variables that any package may change, and
// an issuer without an e-mail adopts the first one that the process has used.
func TestGlobalsOfCertmagicAndOtherIssuersHaveNoEffect(t *testing.T) {
	defaults := certmagic.DefaultACME
	storage := certmagic.Default.Storage
	t.Cleanup(func() { certmagic.DefaultACME, certmagic.Default.Storage = defaults, storage })
	certmagic.DefaultACME.Email = "stranger@example.com"
	certmagic.DefaultACME.CA = "https://stranger.example/dir"
	certmagic.DefaultACME.ExternalAccount = &acme.EAB{KeyID: "stranger", MACKey: "c3RyYW5nZXI"}
	certmagic.DefaultACME.DisableHTTPChallenge = true
	certmagic.DefaultACME.DisableTLSALPNChallenge = true
	certmagic.Default.Storage = &certmagic.FileStorage{Path: "/does/not/exist"}

	known := run(t, acmetest.Options{}, func(r *hostproxy.Router, ca *acmetest.CA, _ acmetest.Options) {
		issuer := ca.Issuer()
		issuer.Email = "known@example.com"
		r.TLS.Issuer = issuer
	}, "a.example.com")
	known.await(t)
	assert.Equal(t, []string{"mailto:known@example.com"}, contacts(t, known))
	nobody := run(t, acmetest.Options{}, nil, "b.example.com")
	nobody.await(t)
	assert.Empty(t, contacts(t, nobody))
}

// contacts returns the contacts of the account in a proxy's storage.
func contacts(t testing.TB, p *proxy) []string {
	t.Helper()
	keys, err := p.r.TLS.Storage.List(t.Context(), "acme", true)
	require.NoError(t, err)
	for _, key := range keys {
		if strings.HasSuffix(key, ".json") && strings.Contains(key, "/users/") {
			b, err := p.r.TLS.Storage.Load(t.Context(), key)
			require.NoError(t, err)
			_, list, _ := strings.Cut(string(b), `"contact"`)
			if i := strings.Index(list, "mailto:"); i >= 0 {
				return []string{list[i : i+strings.IndexByte(list[i:], '"')]}
			}
			return nil
		}
	}
	require.Fail(t, "no account in storage", keys)
	return nil
}

// RFC 9773: a CA can request a renewal, for example before it revokes a
// certificate.
func TestRenewalInformationIsFollowed(t *testing.T) {
	p := run(t, acmetest.Options{}, nil, "a.example.com")
	p.await(t)
	leaf, err := p.shake("a.example.com")
	require.NoError(t, err)
	assert.True(t, p.status("a.example.com").RenewAt.After(time.Now().Add(50*24*time.Hour)))
	p.ca.SuggestRenewal(t, leaf, time.Now().Add(-time.Hour), time.Now().Add(-time.Minute))

	// Renewal information is fetched again when it is due; after the restart it
	// is.
	p.stop()
	p.expireRenewalInfo(t)
	p.restart(t)
	proxytest.Eventually(t, "another certificate is served", func() bool {
		next, err := p.shake("a.example.com")
		return err == nil && next.SerialNumber.Cmp(leaf.SerialNumber) != 0
	})
	proxytest.Eventually(t, "its renewal is far away", func() bool {
		return p.status("a.example.com").RenewAt.After(time.Now().Add(50 * 24 * time.Hour))
	})
}

// expireRenewalInfo makes the renewal information in storage due to be fetched
// again.
func (p *proxy) expireRenewalInfo(t testing.TB) {
	t.Helper()
	keys, err := p.r.TLS.Storage.List(t.Context(), "certificates", true)
	require.NoError(t, err)
	for _, key := range keys {
		if !strings.HasSuffix(key, ".json") {
			continue
		}
		b, err := p.r.TLS.Storage.Load(t.Context(), key)
		require.NoError(t, err)
		aged := regexp.MustCompile(`"_retryAfter": ?"[^"]*"`).ReplaceAll(b, []byte(`"_retryAfter":"2020-01-01T00:00:00Z"`))
		require.NotEqual(t, b, aged)
		require.NoError(t, p.r.TLS.Storage.Store(t.Context(), key, aged))
	}
}

// No handshake fails while certificates are renewed under load.
func TestRenewalsUnderLoadFailNoHandshake(t *testing.T) {
	if testing.Short() {
		t.Skip("takes about 40 s")
	}
	p := run(t, acmetest.Options{Lifetime: 20 * time.Second}, nil, "a.example.com", "b.example.com")
	p.await(t)
	var mu sync.Mutex
	serials := make(map[string]map[string]bool)
	count := 0
	enough := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return count >= 5_000 && len(serials["a.example.com"]) >= 3 && len(serials["b.example.com"]) >= 3
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			host := []string{"a.example.com", "b.example.com"}[i%2]
			for !enough() && ctx.Err() == nil {
				leaf, err := p.shake(host)
				if !assert.NoError(t, err) {
					return
				}
				mu.Lock()
				count++
				if serials[host] == nil {
					serials[host] = make(map[string]bool)
				}
				serials[host][leaf.SerialNumber.String()] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d handshakes, %d and %d serials", count, len(serials["a.example.com"]), len(serials["b.example.com"]))
	assert.True(t, enough())
}
