package hostproxy_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A namedCA is an issuer that is identified by its pointer.
type namedCA struct {
	refusingCA
	key string
}

func (c *namedCA) IssuerKey() string { return c.key }

func TestAllContradictoryTLSSettingsAreReportedTogether(t *testing.T) {
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.TLS.Issuer, r.TLS.CA, r.TLS.Email = &namedCA{key: "corp"}, "https://ca.example/dir", "ops@example.com"
	r.TLS.Fallbacks = []certmagic.Issuer{&namedCA{key: "corp"}, nil, (*hostproxy.LocalCA)(nil), hostproxy.Issuer{Issuer: &namedCA{key: "x"}, KeyType: "dsa"},
		r.TLS.Issuer}
	r.TLS.Internal = (*hostproxy.LocalCA)(nil)
	r.TLS.Files = []hostproxy.CertFile{{}, {CertFile: "a.crt"}}
	r.TLS.ShareTickets, r.TLS.DefaultHost = true, "https://a.example:8443/"
	r.TLS.Config = &tls.Config{MaxVersion: tls.VersionTLS11, NextProtos: []string{"foo"}, SessionTicketsDisabled: true,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, nil }}
	r.TLS.Host = say(nil)
	r.TLS.HostPolicyTTL = 1
	_, err := r.TLSConfig()
	require.Error(t, err)
	for _, want := range []string{
		`CA ("https://ca.example/dir") and Email ("ops@example.com") must be empty when Issuer is set: set them in the issuer`,
		`Fallbacks[0]: an earlier issuer has the same IssuerKey, "corp": each issuer requires a key of its own`,
		`Fallbacks[1]: the issuer is nil`,
		`Fallbacks[2]: the issuer is nil`,
		`Fallbacks[3]: KeyType is "dsa": want certmagic.ED25519, P256, P384, RSA2048, RSA4096 or RSA8192`,
		`Internal: the issuer is nil`,
		`Files[0]: CertFile is "" and KeyFile is "": set both`,
		`Files[1]: CertFile is "a.crt" and KeyFile is "": set both`,
		`Config.MaxVersion is TLS 1.1, below the minimum of TLS 1.2: raise it, or lower MinVersion`,
		`Config.NextProtos is ["foo"]: want h2, http/1.1 or both among them`,
		`DefaultHost: host "https://a.example:8443/": a host is a name such as a.example.com, without a scheme or a path`,
		`ShareTickets cannot be combined with Config.SessionTicketsDisabled`,
		`ShareTickets cannot be combined with Config.GetConfigForClient`,
		`Config.GetConfigForClient cannot be combined with Host`,
		`HostPolicyTTL requires HostPolicy`,
	} {
		assert.ErrorContains(t, err, want)
	}
	assert.Equal(t, 1, strings.Count(err.Error(), "TLS: "), "one prefix")
	assert.NotContains(t, err.Error(), "TLS.")
	assert.NotContains(t, err.Error(), "Fallbacks[4]", "the same issuer twice is not a conflict")
	var other hostproxy.Router
	other.TLS.Storage, other.TLS.Issuer = r.TLS.Storage, (*hostproxy.Issuer)(nil)
	_, err = other.TLSConfig()
	assert.ErrorContains(t, err, "Issuer: the issuer is nil")
}

// A noDNS is a provider that has no records.
type noDNS struct{ certmagic.DNSProvider }

func TestADNSProviderThatNoIssuerTakesIsAnError(t *testing.T) {
	solved := &certmagic.ACMEIssuer{CA: "https://ca.example/dir", DNS01Solver: &certmagic.DNS01Solver{}}
	for name, c := range map[string]struct {
		tls hostproxy.TLS
		ok  bool
	}{
		"an issuer of another type": {hostproxy.TLS{Issuer: refusingCA{}}, false},
		"a solver of its own":       {hostproxy.TLS{Issuer: solved}, false},
		"the default issuer":        {hostproxy.TLS{}, true},
		"a fallback":                {hostproxy.TLS{Issuer: refusingCA{}, Fallbacks: []certmagic.Issuer{&certmagic.ACMEIssuer{}}}, true},
		"a hook":                    {hostproxy.TLS{Issuer: refusingCA{}, Host: say(nil)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := hostproxy.Router{TLS: c.tls}
			r.TLS.Storage, r.TLS.DNS = files(t), noDNS{}
			_, err := r.TLSConfig()
			if c.ok {
				require.NoError(t, err)
				require.NoError(t, r.Close())
				return
			}
			require.ErrorContains(t, err, "hostproxy: TLS: field DNS requires an ACME issuer without a DNS01Solver")
		})
	}
}

func TestTLSSettingsThatOnlyLookContradictoryAreAccepted(t *testing.T) {
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.TLS.Issuer = &certmagic.ACMEIssuer{CA: "https://ca.example/dir", Email: "ops@example.com"}
	r.TLS.Fallbacks = []certmagic.Issuer{&certmagic.ACMEIssuer{CA: "https://ca.example/dir", Profile: "other"}}
	r.TLS.Config = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	_, err := r.TLSConfig()
	require.NoError(t, err)
	require.NoError(t, r.Close())
}

func TestAListenerThatAlreadyDoesTLSIsRefused(t *testing.T) {
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.Handle("a.localhost", named("a"))
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	byListen, err := r.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	byWrap, err := r.Wrap(proxytest.Listen(t))
	require.NoError(t, err)
	conf, _ := proxytest.TLS(t)
	for what, ln := range map[string]net.Listener{"Listen": byListen, "Wrap": byWrap, "tls": tls.NewListener(proxytest.Listen(t), conf)} {
		_, err := r.Wrap(ln)
		assert.ErrorContains(t, err, "the listener already uses TLS: want one from net.Listen", what)
		err = (&hostproxy.Server{Router: &r}).Serve(t.Context(), ln, nil)
		assert.ErrorContains(t, err, "https is a listener that does TLS", what)
		_, err = ln.Accept()
		assert.ErrorIs(t, err, net.ErrClosed, "Serve closes the listener")
	}
}

func TestANetworkThatCarriesNoTLSIsRefusedWithTheRemedy(t *testing.T) {
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	for _, network := range []string{"udp", "ip", "unixgram", "https", ""} {
		_, err := r.Listen(network, "127.0.0.1:0")
		assert.ErrorContains(t, err, `want tcp, tcp4, tcp6 or unix`, network)
	}
}

func TestSettingsThatNoRouteUsesAreWarnedAboutUntilOneDoes(t *testing.T) {
	t.Parallel() // most of the time is spent waiting: the local CA takes its turns by a lock file
	const homeless, idle = "no route serves TLS.DefaultHost", "TLS.HostPolicy has no effect"
	var log proxytest.Log
	r := hostproxy.Router{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	r.TLS.Storage = files(t)
	r.TLS.DefaultHost = "b.localhost"
	r.TLS.HostPolicy = func(context.Context, string) error { return hostproxy.ErrHostNotAllowed }
	r.Handle("b.localhost", named("b"))
	r.Handle("*.localhost", named("any"))
	proxytest.Start(t, &hostproxy.Server{Router: &r})
	require.NoError(t, r.AwaitCertificates(t.Context()))
	count := func(text string) int { return strings.Count(log.String(), text) }
	change := func(patterns ...string) {
		routes := make(map[string]http.Handler)
		for _, p := range patterns {
			routes[p] = named(p)
		}
		require.NoError(t, r.Replace(routes))
	}
	change("a.localhost")
	proxytest.Eventually(t, "both warnings", func() bool { return count(homeless) == 1 && count(idle) == 1 })
	require.NoError(t, r.Set("b.localhost", &hostproxy.Passthrough{Addr: "127.0.0.1:1"}))
	require.NoError(t, r.Set("c.localhost", named("c")))
	require.NoError(t, r.AwaitCertificates(t.Context()))
	assert.Equal(t, 1, count(homeless), "logged once")
	assert.Equal(t, 1, count(idle), "logged once")
}

func TestInvalidHostNamesAreErrorsBeforeTheRouterListens(t *testing.T) {
	err := new(hostproxy.Router).AwaitCertificates(t.Context(), "a..b", "good.example.com", "not a host")
	assert.ErrorContains(t, err, `"a..b"`)
	assert.ErrorContains(t, err, `"not a host"`)
}

func TestTheTargetHasTheCertificateOfAPassthrough(t *testing.T) {
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	r.TLS.Storage = files(t)
	elsewhere := &hostproxy.Passthrough{Addr: "127.0.0.1:1"}
	r.Handle("a.localhost", elsewhere)
	r.Handle("*.b.localhost", elsewhere)
	r.Handle("c.b.localhost", named("c"))
	proxytest.Start(t, &hostproxy.Server{Router: &r})
	require.NoError(t, r.AwaitCertificates(t.Context(), "c.b.localhost"))
	for _, host := range []string{"A.localhost", "x.b.localhost", "*.b.localhost"} {
		err := r.RenewCertificate(host)
		assert.ErrorContains(t, err, "is the host of a Passthrough: its target has the certificate", host)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		assert.ErrorContains(t, r.AwaitCertificates(ctx, host), "its target has the certificate", host)
	}
}

func TestAHostWithoutACertificateByTLSHostIsNotRenewed(t *testing.T) {
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	r.TLS.Storage = files(t)
	r.TLS.Host = func(pattern string) (hostproxy.HostTLS, error) {
		return hostproxy.HostTLS{NoCertificate: pattern == "none.localhost"}, nil
	}
	r.Handle("none.localhost", named("none"))
	r.Handle("a.localhost", named("a"))
	proxytest.Start(t, &hostproxy.Server{Router: &r})
	require.NoError(t, r.AwaitCertificates(t.Context(), "a.localhost"))
	proxytest.Eventually(t, "the answer of TLS.Host", func() bool {
		err := r.RenewCertificate("none.localhost")
		return err != nil && strings.Contains(err.Error(), `TLS.Host set NoCertificate for "none.localhost": leave it false`)
	})
}

// Without this, crypto/tls logs "no certificates configured" in an
// http.Server's log.
func TestHandshakesOfARouterWithoutRoutesAreExplainedOnce(t *testing.T) {
	var log proxytest.Log
	r := hostproxy.Router{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	r.TLS.Storage = files(t)
	conf, err := r.TLSConfig()
	require.NoError(t, err)
	srv := httptest.NewUnstartedServer(&r)
	srv.TLS, srv.Config.ErrorLog = conf, slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	srv.Listener.Close()
	srv.Listener = tls.NewListener(proxytest.Listen(t), conf)
	srv.Start()
	t.Cleanup(func() {
		srv.Close()
		require.NoError(t, r.Close())
	})
	for range 3 {
		_, err = tls.Dial("tcp", srv.Listener.Addr().String(), &tls.Config{ServerName: "a.localhost", InsecureSkipVerify: true})
		require.ErrorContains(t, err, "unrecognized name")
	}
	assert.Equal(t, 1, strings.Count(log.String(), "handshakes are refused: the Router has no routes"), log.String())
}
