package hostproxy_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// named returns a handler that answers with a name and the request's protocol.
func named(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { fmt.Fprintf(w, "%s %s", name, q.Proto) })
}

// files returns a new storage for one test.
func files(t testing.TB) certmagic.Storage { return &certmagic.FileStorage{Path: t.TempDir()} }

// localRoots reads the root of the local CA from its file, as a user would. It
// waits until a server has created it: FileStorage looks only once a second
// whether a lock is free.
func localRoots(t testing.TB, s certmagic.Storage) *x509.CertPool {
	t.Helper()
	proxytest.Eventually(t, "the root", func() bool { return s.Exists(t.Context(), "localca/root.crt") })
	path, err := (&hostproxy.LocalCA{Storage: s}).RootFile(t.Context())
	require.NoError(t, err)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(b))
	return roots
}

func get(t testing.TB, c *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := c.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

func TestInternalHostsAreServedWithALocalCAWithoutAnySetting(t *testing.T) {
	t.Parallel() // most of the time is spent waiting: the local CA takes its turns by a lock file
	var log bytes.Buffer
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.Logger = slog.New(slog.NewTextHandler(&lockedWriter{w: &log}, nil))
	for _, host := range []string{"blog.localhost", "shop.test", "*.dev.internal", "*.localhost", "127.0.0.1"} {
		r.Handle(host, named(host))
	}
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	roots := localRoots(t, r.TLS.Storage)
	for _, protocol := range []string{"h1", "h2"} {
		c := proxytest.HTTPClient(t, s.HTTPS, roots, protocol)
		for host, want := range map[string]string{
			"blog.localhost": "blog.localhost", "SHOP.test": "shop.test", "x.dev.internal": "*.dev.internal",
			"any.localhost": "*.localhost", "127.0.0.1": "127.0.0.1",
		} {
			status, body := get(t, c, "https://"+host+"/")
			assert.Equal(t, http.StatusOK, status, host)
			assert.Equal(t, want+map[string]string{"h1": " HTTP/1.1", "h2": " HTTP/2.0"}[protocol], body, host)
		}
	}
	require.NoError(t, s.Stop())
	root := filepath.Join(r.TLS.Storage.(*certmagic.FileStorage).Path, "localca", "root.crt")
	assert.Equal(t, 1, strings.Count(log.String(), root), "the path of the root is logged once")
}

// CVE-2022-27664 and similar attacks begin with unknown host names. These get
// no further than the handshake.
func TestUnknownServerNamesAreRefusedInTheHandshake(t *testing.T) {
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.Handle("a.localhost", named("a"))
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	for _, sni := range []string{"b.localhost", "x.a.localhost", "localhost", "example.com", ""} {
		_, err := tls.Dial("tcp", s.HTTPS, &tls.Config{ServerName: sni, InsecureSkipVerify: true})
		assert.ErrorContains(t, err, "unrecognized name", sni)
	}
}

// Unknown host over TLS: 421.
func TestAHostWithoutARouteGets421OverTLS(t *testing.T) {
	t.Parallel() // most of the time is spent waiting: the local CA takes its turns by a lock file
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.Handle("a.localhost", named("a"))
	r.Handle("b.localhost", named("b"))
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	c := proxytest.HTTPClient(t, s.HTTPS, localRoots(t, r.TLS.Storage), "h1")
	for host, want := range map[string]int{"a.localhost": 200, "b.localhost": 200, "c.localhost": 421} {
		q, err := http.NewRequest("GET", "https://a.localhost/", nil)
		require.NoError(t, err)
		q.Host = host
		resp, err := c.Do(q)
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, want, resp.StatusCode, host)
	}
}

func TestPlainRequestsAreRedirectedForKnownHostsOnly(t *testing.T) {
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.Handle("a.localhost", named("a"))
	r.Handle("[::1]", named("six"))
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	_, plain, err := net.SplitHostPort(s.Plain)
	require.NoError(t, err)
	_, https, err := net.SplitHostPort(s.HTTPS)
	require.NoError(t, err)
	for _, c := range []struct{ what, method, target, host, status, location string }{
		{"the port we listen on", "GET", "/a%2Fb//c?x=%zz;y", "a.localhost:" + plain, "308", "https://a.localhost:" + https + "/a%2Fb//c?x=%zz;y"},
		{"a forwarded port", "GET", "/", "a.localhost", "308", "https://a.localhost/"},
		{"the canonical host, not the raw one", "GET", "/", "A.LOCALHOST.", "308", "https://a.localhost/"},
		{"an IPv6 address", "GET", "/", "[::1]", "308", "https://[::1]/"},
		{"another method", "POST", "/form", "a.localhost", "308", "https://a.localhost/form"},
		{"a path like an authority", "GET", "//evil.example/", "a.localhost", "308", "https://a.localhost//evil.example/"},
		{"an unknown host", "GET", "/", "evil.example", "404", ""},
		{"an invalid host", "GET", "/", "a.localhost:99999", "400", ""},
		{"CONNECT", "CONNECT", "a.localhost:443", "a.localhost:443", "501", ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			conn := proxytest.Dial(t, s.Plain)
			length := ""
			if c.method == "POST" {
				length = "Content-Length: 0\r\n"
			}
			conn.Send(c.method + " " + c.target + " HTTP/1.1\r\nHost: " + c.host + "\r\n" + length + "\r\n")
			resp := conn.Response(c.method)
			assert.Contains(t, fmt.Sprint(resp.Status), c.status)
			assert.Equal(t, c.location, resp.Header.Get("Location"))
		})
	}
}

func TestChallengesWithAnUnknownTokenGoToTheFallbackHandler(t *testing.T) {
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.Handle("a.localhost", named("a"))
	h := r.HTTPHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	_, err := r.TLSConfig()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	for _, host := range []string{"a.localhost", "evil.example", "not a host"} {
		q := httptest.NewRequest("GET", "http://a.localhost/.well-known/acme-challenge/"+strings.Repeat("t", 43), nil)
		q.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, q)
		assert.Equal(t, http.StatusTeapot, w.Code, host)
	}
}

// No network is needed to report that no public CA signs the name.
func TestAHostThatNoPublicCASignsFailsImmediately(t *testing.T) {
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	r.TLS.Storage = files(t)
	r.TLS.Host = say(map[string]hostproxy.HostTLS{"tv.lan": {Issuer: &hostproxy.LocalCA{Storage: r.TLS.Storage}}})
	for _, host := range []string{"nas.lan", "tv.lan"} {
		r.Handle(host, named(host))
	}
	ln, err := r.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	defer ln.Close()
	proxytest.Eventually(t, "both failures", func() bool {
		n := 0
		for s := range r.Certificates() {
			if s.State == hostproxy.CertFailed {
				n++
			}
		}
		return n == 2
	})
	for s := range r.Certificates() {
		assert.Error(t, s.Err, s.Host)
		assert.Zero(t, s.NextTry, s.Host)
	}
}

// A refusingCA is an issuer that refuses, with a long error text.
type refusingCA struct{}

func (refusingCA) IssuerKey() string { return "refusing" }

func (refusingCA) Issue(context.Context, *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	return nil, errors.Join(errors.New("no"), errors.New("never"))
}

func TestTheStatusOfAFailedHostSaysWhatToDo(t *testing.T) {
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	r.TLS.Storage, r.TLS.Issuer = files(t), refusingCA{}
	r.Handle("a.example.com", named("a"))
	h := hostproxy.StatusHandler(&r)
	ln, err := r.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	defer ln.Close()
	proxytest.Eventually(t, "the failure", func() bool {
		for s := range r.Certificates() {
			return s.State == hostproxy.CertFailed
		}
		return false
	})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/?format=json", nil))
	var page struct {
		Certificates []struct {
			Host, State, Error, Check string
			Attempts                  int
			NextTry                   time.Time
		}
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &page))
	require.Len(t, page.Certificates, 1)
	c := page.Certificates[0]
	assert.Equal(t, 1, c.Attempts)
	assert.True(t, c.NextTry.After(time.Now()))
	assert.NotContains(t, c.Error, "\n")
	assert.Contains(t, c.Error, "no; never")
	assert.Contains(t, c.Check, "dig +short a.example.com")
	assert.NotContains(t, w.Body.String(), "0001-01-01")
}

func TestRouterListenServesAnHTTPServerOfYourOwn(t *testing.T) {
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.Handle("a.localhost", named("a"))
	ln, err := r.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := &http.Server{Handler: &r}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		require.NoError(t, srv.Close())
		require.ErrorIs(t, <-done, http.ErrServerClosed)
		require.NoError(t, r.Close())
		require.NoError(t, r.Close())
	})
	require.NoError(t, r.AwaitCertificates(t.Context()))
	roots := localRoots(t, r.TLS.Storage)
	for protocol, want := range map[string]string{"h1": "a HTTP/1.1", "h2": "a HTTP/2.0"} {
		_, body := get(t, proxytest.HTTPClient(t, ln.Addr().String(), roots, protocol), "https://a.localhost/")
		assert.Equal(t, want, body)
	}
}

func TestCertificatesFollowTheRoutesAtRunTime(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.TLS.Observe = func(s hostproxy.CertStatus) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, s.Host+" "+s.State)
	}
	r.Handle("a.localhost", named("a"))
	assert.Empty(t, slices.Collect(r.Certificates()), "nothing starts before it is used")
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, r.AwaitCertificates(soon), context.DeadlineExceeded)
	ready := make(chan error, 1)
	go func() { ready <- r.AwaitCertificates(t.Context()) }()
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	require.NoError(t, <-ready, "it waits for the listener too")
	c := proxytest.HTTPClient(t, s.HTTPS, localRoots(t, r.TLS.Storage), "h1")
	_, body := get(t, c, "https://a.localhost/")
	assert.Equal(t, "a HTTP/1.1", body)

	// a handshake may come before any background work has seen the host
	r.Handle("b.localhost", named("b"))
	_, body = get(t, c, "https://b.localhost/")
	assert.Equal(t, "b HTTP/1.1", body)
	require.NoError(t, r.AwaitCertificates(t.Context(), "A.localhost", "b.localhost"))
	all := slices.Collect(r.Certificates())
	require.Len(t, all, 2)
	assert.Equal(t, "valid", all[1].State)
	assert.Equal(t, "hostproxy-local", all[1].Issuer)
	assert.NotNil(t, all[1].Serial)

	r.Remove("b.localhost")
	_, err := tls.Dial("tcp", s.HTTPS, &tls.Config{ServerName: "b.localhost", InsecureSkipVerify: true})
	require.ErrorContains(t, err, "unrecognized name")
	require.Len(t, slices.Collect(r.Certificates()), 1)
	// the hook runs in a goroutine of its own
	assert.EventuallyWithT(t, func(t *assert.CollectT) {
		mu.Lock()
		defer mu.Unlock()
		assert.Equal(t, []string{"a.localhost valid", "b.localhost valid"}, seen)
	}, proxytest.Patience, time.Millisecond)
}

func TestStaticCertificatesAreServedFirstAndNotManaged(t *testing.T) {
	conf, roots := proxytest.TLS(t, "www.example.com", "a.localhost")
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.TLS.Config = conf
	r.TLS.Issuer = refuser{}
	r.Handle("www.example.com", named("www"))
	r.Handle("a.localhost", named("a"))
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	c := proxytest.HTTPClient(t, s.HTTPS, roots, "h2")
	for host, want := range map[string]string{"www.example.com": "www HTTP/2.0", "a.localhost": "a HTTP/2.0"} {
		_, body := get(t, c, "https://"+host+"/")
		assert.Equal(t, want, body)
	}
	for st := range r.Certificates() {
		assert.Equal(t, "static", st.State)
	}
	_, err := tls.Dial("tcp", s.HTTPS, &tls.Config{ServerName: "127.0.0.1", InsecureSkipVerify: true})
	assert.ErrorContains(t, err, "unrecognized name", "without SNI nobody gets just any certificate")
}

func TestClientsWithoutServerNameGetTheDefaultHost(t *testing.T) {
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.TLS.DefaultHost = "A.localhost"
	r.Handle("a.localhost", named("a"))
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	c, err := tls.Dial("tcp", s.HTTPS, &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, err)
	defer c.Close()
	assert.Equal(t, []string{"a.localhost"}, c.ConnectionState().PeerCertificates[0].DNSNames)
}

func TestAllInvalidTLSSettingsAreReportedTogether(t *testing.T) {
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.TLS.CA = "letsencrypt"
	r.TLS.DefaultHost = "not a host"
	r.TLS.Addresses, r.TLS.DisablePreflight = make([]netip.Addr, 1), true
	r.TLS.Config = &tls.Config{Certificates: []tls.Certificate{{}}}
	open := proxytest.Listen(t)
	for what, use := range map[string]func() error{
		"Listen":    func() error { _, err := r.Listen("tcp", "127.0.0.1:0"); return err },
		"Wrap":      func() error { _, err := r.Wrap(open); return err },
		"TLSConfig": func() error { _, err := r.TLSConfig(); return err },
	} {
		err := use()
		for _, want := range []string{`hostproxy: TLS:`, `"letsencrypt"`, `not a host`, "Addresses[0]", "DisablePreflight"} {
			assert.ErrorContains(t, err, want, what)
		}
		if err != nil {
			assert.Equal(t, 1, strings.Count(err.Error(), "hostproxy:"), "one prefix")
		}
	}
}

// CVE-2022-23632, CVE-2022-46153, CVE-2020-9321, CVE-2026-48491,
// CVE-2026-53622, CVE-2026-27586.
func TestAnotherNameForAHostDoesNotSkipItsClientAuthentication(t *testing.T) {
	t.Parallel() // mostly waiting
	client, clientRoots := proxytest.Certificate(t, "client.example")
	pemFile := filepath.Join(t.TempDir(), "clients.pem")
	require.NoError(t, os.WriteFile(pemFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: client.Certificate[0]}), 0o600))
	reached := 0
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.TLS.Host = say(map[string]hostproxy.HostTLS{
		"mtls.localhost":  {ClientAuth: &hostproxy.ClientAuth{CAFiles: []string{pemFile}}},
		"other.localhost": {ClientAuth: &hostproxy.ClientAuth{CAs: clientRoots}},
	})
	r.Handle("open.localhost", named("open"))
	r.Handle("also.localhost", named("also"))
	r.Handle("mtls.localhost", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { reached++; fmt.Fprint(w, "secret") }))
	r.Handle("other.localhost", named("other"))
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	roots := localRoots(t, r.TLS.Storage)

	for _, protocol := range []string{"h1", "h2"} {
		c := proxytest.HTTPClient(t, s.HTTPS, roots, protocol)
		ask := func(c *http.Client, sni, host string) (int, error) {
			q, err := http.NewRequest("GET", "https://"+sni+"/", nil)
			require.NoError(t, err)
			q.Host = host
			resp, err := c.Do(q)
			if err != nil {
				return 0, err
			}
			defer resp.Body.Close()
			_, _ = io.Copy(io.Discard, resp.Body)
			return resp.StatusCode, nil
		}
		for _, host := range []string{"mtls.localhost", "mtls.localhost.", "MTLS.localhost", "mtls.localhost:443", "other.localhost"} {
			status, err := ask(c, "open.localhost", host) // the same connection each time
			require.NoError(t, err)
			assert.Equal(t, http.StatusMisdirectedRequest, status, host)
		}
		status, err := ask(c, "open.localhost", "also.localhost")
		require.NoError(t, err)
		assert.Equal(t, http.StatusOK, status)
		for _, sni := range []string{"mtls.localhost", "MTLS.localhost"} {
			_, err = ask(c, sni, "mtls.localhost")
			require.Error(t, err, "no certificate, no connection")
			if protocol == "h1" {
				require.ErrorContains(t, err, "certificate required")
			}
		}
		require.Zero(t, reached)

		with := proxytest.HTTPClient(t, s.HTTPS, roots, protocol)
		with.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{client}
		status, err = ask(with, "mtls.localhost", "mtls.localhost")
		require.NoError(t, err)
		assert.Equal(t, http.StatusOK, status)
		for _, host := range []string{"other.localhost", "open.localhost"} {
			status, err = ask(with, "mtls.localhost", host)
			require.NoError(t, err)
			assert.Equal(t, http.StatusMisdirectedRequest, status, "a certificate shown to one host does not count for another")
		}
		require.Equal(t, 1, reached)
		reached = 0
	}
}

// A client that sends no server name gets the default host's handshake. It must
// not reach other hosts by that.
func TestAClientWithoutAServerNameDoesNotSkipClientAuthentication(t *testing.T) {
	t.Parallel() // most of the time is spent waiting: the local CA takes its turns by a lock file
	_, clientRoots := proxytest.Certificate(t, "client.example")
	for _, protocol := range []string{"http/1.1", "h2"} {
		var reached atomic.Int64
		var r hostproxy.Router
		r.TLS.Storage = files(t)
		r.TLS.DefaultHost = "public.localhost"
		r.TLS.Host = func(pattern string) (hostproxy.HostTLS, error) {
			auth := &hostproxy.ClientAuth{CAs: clientRoots}
			if pattern == "public.localhost" {
				auth.Mode = tls.VerifyClientCertIfGiven
			}
			return hostproxy.HostTLS{ClientAuth: auth}, nil
		}
		r.Handle("public.localhost", named("public"))
		r.Handle("secret.localhost", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
		s := proxytest.Start(t, &hostproxy.Server{Router: &r})
		conf := &tls.Config{RootCAs: localRoots(t, r.TLS.Storage), InsecureSkipVerify: true, NextProtos: []string{protocol}}
		tr := &http.Transport{
			DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
				return tls.Dial("tcp", s.HTTPS, conf)
			},
			ForceAttemptHTTP2: true,
		}
		t.Cleanup(tr.CloseIdleConnections)
		for host, want := range map[string]int{"public.localhost": http.StatusOK, "secret.localhost": http.StatusMisdirectedRequest} {
			q, err := http.NewRequest("GET", "https://127.0.0.1/", nil)
			require.NoError(t, err)
			q.Host = host
			resp, err := tr.RoundTrip(q)
			require.NoError(t, err, protocol)
			resp.Body.Close()
			assert.Equal(t, want, resp.StatusCode, "%s, %s", protocol, host)
		}
		assert.Zero(t, reached.Load(), protocol)
	}
}

// CVE-2025-68121 and Go 1.26: a session of one host could be resumed on
// another.
func TestASessionOfAnOpenHostDoesNotResumeOnOneWithClientAuthentication(t *testing.T) {
	t.Parallel() // most of the time is spent waiting: the local CA takes its turns by a lock file
	client, clientRoots := proxytest.Certificate(t, "client.example")
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.TLS.Host = say(map[string]hostproxy.HostTLS{"mtls.localhost": {ClientAuth: &hostproxy.ClientAuth{CAs: clientRoots}}})
	r.Handle("open.localhost", named("open"))
	r.Handle("mtls.localhost", named("mtls"))
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	roots := localRoots(t, r.TLS.Storage)
	cache := oneSession{ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	dial := func(version uint16, sni string, certs ...tls.Certificate) (resumed bool, err error) {
		c, err := tls.Dial("tcp", s.HTTPS, &tls.Config{
			ServerName: sni, RootCAs: roots, ClientSessionCache: cache, Certificates: certs, MaxVersion: version,
			InsecureSkipVerify: true, // a resumed session may have the certificate of another host
		})
		if err != nil {
			return false, err
		}
		defer c.Close()
		// In TLS 1.3, the first read returns the ticket, and the server's
		// answer to the client's certificate.
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", sni)
		_, err = io.ReadAll(c)
		return c.ConnectionState().DidResume, err
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cache.Put("", nil)
		_, err := dial(version, "open.localhost")
		require.NoError(t, err)
		resumed, err := dial(version, "open.localhost")
		require.NoError(t, err)
		require.True(t, resumed, "the open host issues sessions: without them this test shows nothing")
		_, err = dial(version, "mtls.localhost")
		require.Error(t, err)
		_, err = dial(version, "mtls.localhost", client)
		require.NoError(t, err)
		resumed, err = dial(version, "mtls.localhost", client)
		require.NoError(t, err)
		assert.False(t, resumed)
	}
}

// CVE-2026-32305.
func TestClientAuthenticationHoldsForAClientHelloInSmallPieces(t *testing.T) {
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.TLS.Host = say(map[string]hostproxy.HostTLS{"mtls.localhost": {ClientAuth: &hostproxy.ClientAuth{CAs: x509.NewCertPool()}}})
	r.Handle("mtls.localhost", named("mtls"))
	r.Handle("open.localhost", named("open"))
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	for sni, want := range map[string]string{"mtls.localhost": "certificate required", "open.localhost": ""} {
		raw, err := net.Dial("tcp", s.HTTPS)
		require.NoError(t, err)
		require.NoError(t, raw.(*net.TCPConn).SetNoDelay(true))
		c := tls.Client(pieces{raw}, &tls.Config{ServerName: sni, InsecureSkipVerify: true})
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", sni)
		_, err = io.ReadAll(c)
		if want == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, want)
		}
		raw.Close()
	}
}

func TestPassthroughLeavesTheCertificateToTheTarget(t *testing.T) {
	t.Parallel() // it waits for the lock of the local CA
	target, targetRoots := proxytest.NewTLSServer(t, named("target"))
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.Handle("here.localhost", named("here"))
	ln, err := r.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := &http.Server{Handler: &r}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		require.NoError(t, srv.Close())
		<-done
		require.NoError(t, r.Close())
	})
	r.Handle("localhost", &hostproxy.Passthrough{Addr: target.Addr()}) // while the listener is open
	_, body := get(t, proxytest.HTTPClient(t, ln.Addr().String(), targetRoots, "h1"), "https://localhost/")
	assert.Equal(t, "target HTTP/1.1", body)
	_, body = get(t, proxytest.HTTPClient(t, ln.Addr().String(), localRoots(t, r.TLS.Storage), "h2"), "https://here.localhost/")
	assert.Equal(t, "here HTTP/2.0", body)
	for st := range r.Certificates() {
		assert.Equal(t, "here.localhost", st.Host, "the target's host is not managed here")
	}

	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest("GET", "http://localhost/", nil))
	assert.Equal(t, http.StatusMisdirectedRequest, w.Code)
	r.Remove("localhost")
	_, err = tls.Dial("tcp", ln.Addr().String(), &tls.Config{ServerName: "localhost", InsecureSkipVerify: true})
	assert.ErrorContains(t, err, "unrecognized name")
}

func TestAServerCarriesAPassthrough(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	target, targetRoots := proxytest.NewTLSServer(t, named("target"))
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.Handle("here.localhost", named("here"))
	r.Handle("localhost", &hostproxy.Passthrough{Addr: target.Addr()})
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	_, body := get(t, proxytest.HTTPClient(t, s.HTTPS, targetRoots, "h1"), "https://localhost/")
	assert.Equal(t, "target HTTP/1.1", body)
	for _, protocol := range []string{"h1", "h2"} {
		_, body = get(t, proxytest.HTTPClient(t, s.HTTPS, localRoots(t, r.TLS.Storage), protocol), "https://here.localhost/")
		assert.Contains(t, body, "here HTTP/")
	}
}

func TestAPassthroughWithoutAListenerOfTheRouterIsAnError(t *testing.T) {
	target, targetRoots := proxytest.NewTLSServer(t, named("target"))
	log := new(proxytest.Log)
	r := hostproxy.Router{Logger: slog.New(slog.NewTextHandler(log, nil))}
	r.TLS.Storage = files(t)
	pass := &hostproxy.Passthrough{Addr: target.Addr()}
	r.Handle("localhost", pass)
	_, err := r.TLSConfig()
	assert.ErrorContains(t, err, `hostproxy: TLSConfig: pattern "localhost": a Passthrough requires the connection before TLS: use a Server, Router.Listen or Router.Wrap`)

	r.Remove("localhost")
	conf, err := r.TLSConfig()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	r.Handle("localhost", pass) // after TLSConfig
	ln := tls.NewListener(proxytest.Listen(t), conf)
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).Handshake()
			c.Close()
		}
	}()
	t.Cleanup(func() { <-accepted })
	t.Cleanup(func() { ln.Close() })
	for range 3 {
		_, err = tls.Dial("tcp", ln.Addr().String(), &tls.Config{ServerName: "LOCALHOST", InsecureSkipVerify: true})
		assert.ErrorContains(t, err, "internal error")
	}
	assert.Equal(t, 1, strings.Count(log.String(), `pattern \"localhost\": a Passthrough requires the connection before TLS`), log.String())

	s := proxytest.Start(t, &hostproxy.Server{Router: &r}) // a Server can carry the Passthrough
	_, body := get(t, proxytest.HTTPClient(t, s.HTTPS, targetRoots, "h1"), "https://localhost/")
	assert.Equal(t, "target HTTP/1.1", body)
	_, err = r.TLSConfig()
	require.NoError(t, err, "now TLSConfig may be used too, for instance for HTTP/3")
}

func TestTheLocalCALivesInItsStorage(t *testing.T) {
	s := files(t)
	one, err := (&hostproxy.LocalCA{Storage: s}).RootPEM(t.Context())
	require.NoError(t, err)
	two, err := (&hostproxy.LocalCA{Storage: s}).RootPEM(t.Context())
	require.NoError(t, err)
	assert.Equal(t, one, two)

	t.Setenv("XDG_DATA_HOME", t.TempDir())
	path, err := new(hostproxy.LocalCA).RootFile(t.Context())
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(os.Getenv("XDG_DATA_HOME"), "certmagic", "localca", "root.crt"), path)
	t.Setenv("XDG_DATA_HOME", "")
	t.Setenv("HOME", "")
	t.Setenv("STATE_DIRECTORY", "")
	_, err = new(hostproxy.LocalCA).RootFile(t.Context())
	assert.ErrorContains(t, err, "set HOME")
	state := t.TempDir()
	t.Setenv("STATE_DIRECTORY", state+string(filepath.ListSeparator)+t.TempDir())
	path, err = new(hostproxy.LocalCA).RootFile(t.Context())
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(state, "certmagic", "localca", "root.crt"), path, "a service of systemd without a home")
}

func ExampleRouter_Listen() {
	dir, _ := os.MkdirTemp("", "")
	defer os.RemoveAll(dir)
	var r hostproxy.Router
	r.TLS.Storage = &certmagic.FileStorage{Path: dir} // nil means the user's data directory
	r.Handle("app.localhost", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))

	ca := hostproxy.LocalCA{Storage: r.TLS.Storage}
	root, _ := ca.RootPEM(context.Background())
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)

	ln, err := r.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := &http.Server{Handler: &r}
	go srv.Serve(ln)
	defer r.Close()
	defer srv.Close()

	proxy := func(*http.Request) (*url.URL, error) { return nil, nil }
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
	}
	client := http.Client{Transport: &http.Transport{Proxy: proxy, DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://app.localhost/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(resp.Status, string(body))
	// Output: 200 OK hello
}

// refuser is an issuer that must not be called.
type refuser struct{}

func (refuser) IssuerKey() string { return "refuser" }

func (refuser) Issue(_ context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	panic(fmt.Sprint("asked for ", csr.DNSNames))
}

// oneSession remembers one session and offers it to every host.
type oneSession struct{ tls.ClientSessionCache }

func (c oneSession) Get(string) (*tls.ClientSessionState, bool) { return c.ClientSessionCache.Get("") }
func (c oneSession) Put(_ string, s *tls.ClientSessionState)    { c.ClientSessionCache.Put("", s) }

// pieces writes each byte on its own.
type pieces struct{ net.Conn }

func (c pieces) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// lockedWriter may be written to by several goroutines.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}

func TestAnInvalidPassthroughIsRefusedWithTheRemedy(t *testing.T) {
	var r hostproxy.Router
	for _, tt := range []struct {
		pattern string
		p       *hostproxy.Passthrough
		want    string
	}{
		{"a.test/api/", &hostproxy.Passthrough{Addr: "localhost:443"}, `use the host alone, "a.test"`},
		{"a.test", &hostproxy.Passthrough{}, "want host:port"},
		{"a.test", &hostproxy.Passthrough{Addr: "localhost"}, "want host:port"},
		{"a.test", &hostproxy.Passthrough{Addr: ":443"}, "want host:port"},
		{"a.test", &hostproxy.Passthrough{Addr: "localhost:0"}, "want host:port"},
		{"a.test", &hostproxy.Passthrough{Addr: "https://localhost"}, "want host:port"},
		{"a.test", nil, "nil handler"},
	} {
		assert.ErrorContains(t, r.Set(tt.pattern, tt.p), tt.want)
		assert.ErrorContains(t, r.Replace(map[string]http.Handler{tt.pattern: tt.p}), tt.want)
		func() {
			defer func() { assert.Contains(t, fmt.Sprint(recover()), tt.want) }()
			r.Handle(tt.pattern, tt.p)
		}()
	}
	for range r.All() {
		t.Error("nothing was added")
	}
}

func TestHSTSIsSentOverTLSOnly(t *testing.T) {
	backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Strict-Transport-Security", "max-age=1")
	}))
	conf, roots := proxytest.TLS(t, "a.test")
	for _, lane := range []string{"fast", "full"} {
		u := hostproxy.To(backend.Addr())
		u.HSTS = &hostproxy.HSTS{MaxAge: 2 * 365 * 24 * time.Hour, IncludeSubDomains: true, Preload: true}
		r := hostproxy.Router{TLS: hostproxy.TLS{Config: conf}}
		r.Handle("a.test", u)
		server := func() *hostproxy.Server {
			s := &hostproxy.Server{Router: &r}
			if lane == "full" {
				s.Handler = http.HandlerFunc(r.ServeHTTP)
			}
			return s
		}
		secure, plain := proxytest.Start(t, server()), proxytest.StartPlain(t, server())
		for _, protocol := range []string{"h1", "h2"} {
			res, err := proxytest.HTTPClient(t, secure.HTTPS, roots, protocol).Get("https://a.test/")
			require.NoError(t, err)
			res.Body.Close()
			assert.Equal(t, []string{"max-age=63072000; includeSubDomains; preload"}, res.Header["Strict-Transport-Security"])
		}
		res, err := proxytest.HTTPClient(t, plain.Plain, nil, "h1").Get("http://a.test/")
		require.NoError(t, err)
		res.Body.Close()
		assert.Empty(t, res.Header["Strict-Transport-Security"])
	}
	for want, policy := range map[string]hostproxy.HSTS{
		"HSTS.MaxAge":  {MaxAge: -1},
		"HSTS.Preload": {MaxAge: time.Hour, IncludeSubDomains: true, Preload: true},
		"SubDomains":   {MaxAge: 366 * 24 * time.Hour, Preload: true},
	} {
		u := hostproxy.To("localhost:1")
		u.HSTS = &policy
		assert.ErrorContains(t, new(hostproxy.Router).Set("a.test", u), want)
	}
}

func TestTheHelloHookSeesAndCanRefuseHandshakes(t *testing.T) {
	conf, roots := proxytest.TLS(t, "a.test", "b.test", "c.test")
	var r hostproxy.Router
	r.TLS.Config = conf
	r.TLS.Storage = files(t)
	r.TLS.ShareTickets = true // so that each client has settings of its own
	var seen sync.Map
	r.TLS.Hello = func(hello *tls.ClientHelloInfo) error {
		seen.Store(hello.ServerName, len(hello.CipherSuites))
		switch hello.ServerName {
		case "b.test":
			return errors.New("not this one")
		case "c.test":
			panic("oh")
		}
		return nil
	}
	for _, host := range []string{"a.test", "b.test", "c.test"} {
		r.Handle(host, named(host))
	}
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	for host, ok := range map[string]bool{"a.test": true, "b.test": false, "c.test": false} {
		c, err := tls.Dial("tcp", s.HTTPS, &tls.Config{ServerName: host, RootCAs: roots})
		if assert.Equal(t, ok, err == nil, host) && ok {
			c.Close()
		}
		suites, _ := seen.Load(host)
		assert.Positive(t, suites)
	}
}

// A client that hides its host name by ECH reaches that host. The outer name is
// not a route.
func TestEncryptedClientHelloKeysOfTheConfigAreUsed(t *testing.T) {
	conf, roots := proxytest.TLS(t, "hidden.test", "public.test")
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	require.NoError(t, err)
	config := echConfig(7, key.PublicKey().Bytes(), "public.test")
	conf.EncryptedClientHelloKeys = []tls.EncryptedClientHelloKey{{Config: config, PrivateKey: key.Bytes(), SendAsRetry: true}}
	var r hostproxy.Router
	r.TLS.Config = conf
	r.Handle("hidden.test", named("hidden"))
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	list := append(binary.BigEndian.AppendUint16(nil, uint16(len(config))), config...)
	c, err := tls.Dial("tcp", s.HTTPS, &tls.Config{ServerName: "hidden.test", RootCAs: roots, EncryptedClientHelloConfigList: list})
	require.NoError(t, err)
	defer c.Close()
	assert.True(t, c.ConnectionState().ECHAccepted)
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: hidden.test\r\nConnection: close\r\n\r\n")
	require.NoError(t, err)
	answer, err := io.ReadAll(c)
	require.NoError(t, err)
	assert.Contains(t, string(answer), "hidden HTTP/1.1")
}

// echConfig is an ECHConfig (draft-ietf-tls-esni, 4) with X25519, HKDF-SHA256
// and AES-128-GCM.
func echConfig(id byte, public []byte, name string) []byte {
	body := []byte{id, 0x00, 0x20}
	body = append(binary.BigEndian.AppendUint16(body, uint16(len(public))), public...)
	body = append(body, 0, 4, 0, 1, 0, 1, 32, byte(len(name)))
	body = append(append(body, name...), 0, 0)
	return append(binary.BigEndian.AppendUint16([]byte{0xfe, 0x0d}, uint16(len(body))), body...)
}

func TestCertificatesFollowEachKindOfRouteChange(t *testing.T) {
	var r hostproxy.Router
	r.TLS.Storage = files(t)
	r.Handle("a.localhost/x", named("a"))
	proxytest.Start(t, &hostproxy.Server{Router: &r})
	elsewhere := &hostproxy.Passthrough{Addr: "127.0.0.1:1"}
	for _, c := range []struct {
		what   string
		change func() error
		want   []string
	}{
		{"the routes at the start", func() error { return nil }, []string{"a.localhost"}},
		{"Set of a new host", func() error { return r.Set("b.localhost", named("b")) }, []string{"a.localhost", "b.localhost"}},
		{"Set of a Passthrough", func() error { return r.Set("a.localhost", elsewhere) }, []string{"b.localhost"}},
		{"Set of something else again", func() error { return r.Set("a.localhost", named("a")) }, []string{"a.localhost", "b.localhost"}},
		{"Remove of one of two routes", func() error { r.Remove("a.localhost"); return nil }, []string{"a.localhost", "b.localhost"}},
		{"Remove of the last route", func() error { r.Remove("a.localhost/x"); return nil }, []string{"b.localhost"}},
		{"Replace", func() error {
			return r.Replace(map[string]http.Handler{"c.localhost": named("c"), "c.localhost/y": named("y"), "d.localhost": elsewhere, "b.localhost": named("b")})
		}, []string{"b.localhost", "c.localhost"}},
		{"Replace to and from a Passthrough", func() error {
			return r.Replace(map[string]http.Handler{"c.localhost": elsewhere, "c.localhost/y": named("y"), "d.localhost": named("d")})
		}, []string{"d.localhost"}},
		{"Replace by nothing", func() error { return r.Replace(nil) }, nil},
	} {
		require.NoError(t, c.change(), c.what)
		proxytest.Eventually(t, c.what, func() bool {
			var got []string
			for s := range r.Certificates() {
				if s.State == "valid" {
					got = append(got, s.Host)
				}
			}
			return slices.Equal(c.want, got)
		})
	}
}
