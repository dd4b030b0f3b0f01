package hostproxy_test

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// hosts is a TLS.Host hook that answers from its map, which may change.
type hosts struct {
	mu  sync.Mutex
	say map[string]hostproxy.HostTLS
}

func (h *hosts) set(host string, t hostproxy.HostTLS) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.say == nil {
		h.say = make(map[string]hostproxy.HostTLS)
	}
	h.say[host] = t
}

func (h *hosts) hook(pattern string) (hostproxy.HostTLS, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.say[pattern], nil
}

// say is a TLS.Host hook that answers from a fixed map.
func say(hosts map[string]hostproxy.HostTLS) func(string) (hostproxy.HostTLS, error) {
	return func(pattern string) (hostproxy.HostTLS, error) { return hosts[pattern], nil }
}

// statusOf requests a host's root path and returns the status.
func statusOf(c *http.Client, host string) (int, error) {
	resp, err := c.Get("https://" + host + "/")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, nil
}

func TestClientAuthenticationSetAtRunTimeAppliesToKeptConnections(t *testing.T) {
	t.Parallel() // most of the time is spent waiting: the local CA takes its turns by a lock file
	client, clients := proxytest.Certificate(t, "client.example")
	for _, lane := range []string{"fast", "handler"} {
		for _, protocol := range []string{"h1", "h2"} {
			t.Run(lane+" "+protocol, func(t *testing.T) {
				t.Parallel()
				var h hosts
				var r hostproxy.Router
				r.TLS.Storage, r.TLS.Host = files(t), h.hook
				r.Handle("admin.localhost", named("admin"))
				if lane == "fast" {
					b := httptest.NewServer(named("admin"))
					defer b.Close()
					require.NoError(t, r.Set("admin.localhost", hostproxy.To(b.Listener.Addr().String())))
				}
				s := proxytest.Start(t, &hostproxy.Server{Router: &r})
				c := proxytest.HTTPClient(t, s.HTTPS, localRoots(t, r.TLS.Storage), protocol)
				status, err := statusOf(c, "admin.localhost")
				require.NoError(t, err)
				require.Equal(t, http.StatusOK, status)

				h.set("admin.localhost", hostproxy.HostTLS{ClientAuth: &hostproxy.ClientAuth{CAs: clients}})
				r.ReloadTLS("Admin.localhost")
				proxytest.Eventually(t, "a refusal", func() bool {
					status, err = statusOf(c, "admin.localhost")
					return err != nil || status != http.StatusOK
				})
				if err == nil {
					assert.Equal(t, http.StatusMisdirectedRequest, status)
				}
				with := proxytest.HTTPClient(t, s.HTTPS, localRoots(t, r.TLS.Storage), protocol)
				_, err = statusOf(proxytest.HTTPClient(t, s.HTTPS, localRoots(t, r.TLS.Storage), protocol), "admin.localhost")
				require.Error(t, err, "no client certificate")
				with.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{client}
				status, err = statusOf(with, "admin.localhost")
				require.NoError(t, err)
				assert.Equal(t, http.StatusOK, status)
			})
		}
	}
}

func TestTwoHostsHaveTwoTypesOfKey(t *testing.T) {
	t.Parallel() // most of the time is spent waiting: the local CA takes its turns by a lock file
	var h hosts
	var r hostproxy.Router
	r.TLS.Storage, r.TLS.Host = files(t), h.hook
	ca := &hostproxy.LocalCA{Storage: r.TLS.Storage}
	h.set("rsa.localhost", hostproxy.HostTLS{Issuer: hostproxy.Issuer{Issuer: ca, KeyType: certmagic.RSA2048}})
	r.Handle("rsa.localhost", named("rsa"))
	r.Handle("plain.localhost", named("plain"))
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	roots := localRoots(t, r.TLS.Storage)
	for host, want := range map[string]any{"rsa.localhost": &rsa.PublicKey{}, "plain.localhost": &ecdsa.PublicKey{}} {
		c, err := tls.Dial("tcp", s.HTTPS, &tls.Config{ServerName: host, RootCAs: roots})
		require.NoError(t, err)
		assert.IsType(t, want, c.ConnectionState().PeerCertificates[0].PublicKey)
		c.Close()
	}
}

func TestAHostCanHaveNoCertificateAtAll(t *testing.T) {
	var h hosts
	h.set("none.localhost", hostproxy.HostTLS{NoCertificate: true})
	var r hostproxy.Router
	r.TLS.Storage, r.TLS.Host = files(t), h.hook
	r.Handle("none.localhost", named("none"))
	r.Handle("*.localhost", named("any"))
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	_, err := tls.Dial("tcp", s.HTTPS, &tls.Config{ServerName: "none.localhost", InsecureSkipVerify: true})
	require.ErrorContains(t, err, "unrecognized name")
	c, err := tls.Dial("tcp", s.HTTPS, &tls.Config{ServerName: "any.localhost", InsecureSkipVerify: true})
	require.NoError(t, err)
	c.Close()
}

func TestAFailingHostHookFailsOnlyItsHost(t *testing.T) {
	var down atomic.Bool
	down.Store(true)
	var log proxytest.Log
	r := hostproxy.Router{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	r.TLS.Storage = files(t)
	r.TLS.Host = func(pattern string) (hostproxy.HostTLS, error) {
		if pattern == "bad.localhost" && down.Load() {
			return hostproxy.HostTLS{}, errors.New("database is down")
		}
		return hostproxy.HostTLS{}, nil
	}
	r.Handle("bad.localhost", named("bad"))
	r.Handle("good.localhost", named("good"))
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	c, err := tls.Dial("tcp", s.HTTPS, &tls.Config{ServerName: "good.localhost", InsecureSkipVerify: true})
	require.NoError(t, err)
	c.Close()
	_, err = tls.Dial("tcp", s.HTTPS, &tls.Config{ServerName: "bad.localhost", InsecureSkipVerify: true})
	require.Error(t, err)
	status, ok := r.Certificate("bad.localhost")
	require.True(t, ok)
	assert.Equal(t, hostproxy.CertFailed, status.State)
	assert.ErrorContains(t, status.Err, "database is down")

	down.Store(false)
	r.ReloadTLS("bad.localhost", "typo.localhost", "not a host", "https://a.localhost/")
	require.NoError(t, r.AwaitCertificates(t.Context()))
	assert.Contains(t, log.String(), "no route serves")
	assert.Contains(t, log.String(), "typo.localhost")
	assert.Contains(t, log.String(), "not a host")
	assert.Contains(t, log.String(), "without a scheme or a path")
}

func TestInvalidClientAuthenticationClosesItsHostAndReportsAllFaults(t *testing.T) {
	t.Parallel() // most of the time is spent waiting: the local CA takes its turns by a lock file
	empty := filepath.Join(t.TempDir(), "empty.pem")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	r.TLS.Storage = files(t)
	r.TLS.Host = say(map[string]hostproxy.HostTLS{
		"a.localhost": {ClientAuth: &hostproxy.ClientAuth{CAFiles: []string{"/does/not/exist.pem", empty}}},
		"b.localhost": {ClientAuth: &hostproxy.ClientAuth{}},
		"c.localhost": {ClientAuth: &hostproxy.ClientAuth{Mode: 99}},
	})
	r.Handle("a.localhost", named("a"))
	r.Handle("c.localhost", named("c"))
	r.Handle("b.localhost", named("b"))
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	for host, want := range map[string][]string{"a.localhost": {"/does/not/exist.pem", empty}, "b.localhost": {"requires CAs"},
		"c.localhost": {"ClientAuth.Mode is 99: want one of the constants of tls.ClientAuthType"}} {
		_, err := tls.Dial("tcp", s.HTTPS, &tls.Config{ServerName: host, InsecureSkipVerify: true})
		require.Error(t, err, host)
		var status hostproxy.CertStatus
		proxytest.Eventually(t, "the status", func() bool {
			status, _ = r.Certificate(host)
			return status.Err != nil
		})
		for _, text := range want {
			assert.ErrorContains(t, status.Err, text)
		}
	}
}

// A client of an IP address sends no server name. The settings of that address
// apply to it.
func TestClientAuthenticationOfAnIPAddressAppliesToItsClients(t *testing.T) {
	t.Parallel() // most of the time is spent waiting: the local CA takes its turns by a lock file
	client, clients := proxytest.Certificate(t, "client.example")
	for _, lane := range []string{"fast", "handler"} {
		for _, protocol := range []string{"h1", "h2"} {
			t.Run(lane+" "+protocol, func(t *testing.T) {
				t.Parallel()
				_, others := proxytest.Certificate(t, "other.example")
				var r hostproxy.Router
				r.TLS.Storage = files(t)
				r.TLS.Host = say(map[string]hostproxy.HostTLS{
					"127.0.0.1": {ClientAuth: &hostproxy.ClientAuth{CAs: clients}},
					"127.0.0.2": {ClientAuth: &hostproxy.ClientAuth{CAs: others}},
					"*":         {ClientAuth: &hostproxy.ClientAuth{CAs: others}},
				})
				b := httptest.NewServer(named("address"))
				defer b.Close()
				for _, pattern := range []string{"127.0.0.1", "127.0.0.2", "*"} {
					if lane == "fast" {
						r.Handle(pattern, hostproxy.To(b.Listener.Addr().String()))
					} else {
						r.Handle(pattern, named("address"))
					}
				}
				s := proxytest.Start(t, &hostproxy.Server{Router: &r})
				roots := localRoots(t, r.TLS.Storage)
				_, err := statusOf(proxytest.HTTPClient(t, s.HTTPS, roots, protocol), "127.0.0.1")
				require.Error(t, err, "no client certificate")
				with := proxytest.HTTPClient(t, s.HTTPS, roots, protocol)
				with.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{client}
				for host, want := range map[string]int{"127.0.0.1": 200, "127.0.0.2": 421, "name.localhost": 421} {
					q, err := http.NewRequest("GET", "https://127.0.0.1/", nil)
					require.NoError(t, err)
					q.Host = host
					resp, err := with.Do(q)
					require.NoError(t, err, host)
					resp.Body.Close()
					assert.Equal(t, want, resp.StatusCode, host)
				}
			})
		}
	}
}

func TestHostSettingsForAPassthroughAreReported(t *testing.T) {
	const loud = "TLS.Host returned settings for a Passthrough"
	_, clients := proxytest.Certificate(t, "client.example")
	var log proxytest.Log
	var h hosts
	h.set("pass.localhost", hostproxy.HostTLS{ClientAuth: &hostproxy.ClientAuth{CAs: clients}, OwnCertificate: true})
	h.set("*.pass.localhost", hostproxy.HostTLS{NoCertificate: true})
	r := hostproxy.Router{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	r.TLS.Storage, r.TLS.Host = files(t), h.hook
	elsewhere := &hostproxy.Passthrough{Addr: "127.0.0.1:1"}
	r.Handle("pass.localhost", elsewhere)
	r.Handle("quiet.localhost", elsewhere)
	r.Handle("here.localhost", named("here"))
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	lines := func(n int) {
		t.Helper()
		proxytest.Eventually(t, "a line", func() bool { return strings.Count(log.String(), loud) == n })
	}
	lines(1)
	assert.Contains(t, log.String(), `host=pass.localhost settings="[OwnCertificate ClientAuth]"`)

	require.NoError(t, r.Set("*.pass.localhost", elsewhere))
	lines(2)
	require.NoError(t, r.Set("here.localhost", elsewhere))
	h.set("quiet.localhost", hostproxy.HostTLS{Issuer: &hostproxy.LocalCA{Storage: r.TLS.Storage}})
	r.ReloadTLS("quiet.localhost")
	lines(3)

	require.NoError(t, r.Set("pass.localhost", named("here now")))
	_, err := tls.Dial("tcp", s.HTTPS, &tls.Config{ServerName: "pass.localhost", InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	require.Error(t, err, "its client authentication is in force")
	require.NoError(t, r.Set("pass.localhost", elsewhere))
	lines(4)
	assert.NotContains(t, log.String(), "host=here.localhost settings")
}

// The route of a host that requires client certificates comes and goes. A
// request of a client that has shown none is served by the wildcard's route or
// refused. It is never admitted by the old routes and served by the new ones.
func TestARequestIsAdmittedAndServedByTheSameRoutes(t *testing.T) {
	_, clients := proxytest.Certificate(t, "client.example")
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.TLS.Host = say(map[string]hostproxy.HostTLS{"private.localhost": {ClientAuth: &hostproxy.ClientAuth{CAs: clients}}})
	open, private := hostproxy.To("127.0.0.1:4000"), hostproxy.To("127.0.0.1:4001")
	r.Handle("*.localhost", open)
	ln, err := r.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer r.Close()
	defer ln.Close()
	state := &tls.ConnectionState{ServerName: "open.localhost", HandshakeComplete: true}
	proxytest.Eventually(t, "the listener's routes", func() bool { return hostproxy.Hit(&r, "open.localhost", "/", state) == "*.localhost" })

	done := make(chan struct{})
	var changes sync.WaitGroup
	changes.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = r.Set("private.localhost", private)
				r.Remove("private.localhost")
			}
		}
	})
	served := make(map[string]int)
	for range 30_000 {
		q := &http.Request{Method: "GET", Host: "private.localhost", URL: &url.URL{Path: "/"}, TLS: state}
		_, pattern := r.Handler(q)
		served[pattern]++
		served[hostproxy.Hit(&r, "private.localhost", "/", state)]++
	}
	close(done)
	changes.Wait()
	assert.Zero(t, served["private.localhost"], served)
}
