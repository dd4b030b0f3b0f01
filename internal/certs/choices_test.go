package certs_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// wishes is a program with TLS settings for some hosts.
type wishes struct {
	mu    sync.Mutex
	hosts map[string]certs.Choice
	calls map[string]int
	fail  func(pattern string) error // nil means that no call fails
}

func newWishes() *wishes {
	return &wishes{hosts: make(map[string]certs.Choice), calls: make(map[string]int)}
}

func (w *wishes) set(host string, c certs.Choice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[host] = c
}

func (w *wishes) failing(f func(string) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail = f
}

func (w *wishes) choose(pattern string) (certs.Choice, error) {
	w.mu.Lock()
	w.calls[pattern]++
	c, fail := w.hosts[pattern], w.fail
	w.mu.Unlock()
	if fail != nil {
		if err := fail(pattern); err != nil {
			return certs.Choice{}, err
		}
	}
	return c, nil
}

func (w *wishes) count(pattern string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls[pattern]
}

// status returns the status of a host.
func status(t testing.TB, m *certs.Manager, host string) certs.Status {
	t.Helper()
	s, ok := m.Status(host)
	require.True(t, ok, host)
	return s
}

func TestTheHookChoosesTheIssuerOfAHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, own, w := newIssuer(t, "ca", day(90)), newIssuer(t, "own", day(90)), newWishes()
		w.set("b.example.com", certs.Choice{Issuer: own})
		w.set("c.example.com", certs.Choice{Issuer: certs.Issuer{Issuer: own, KeyType: certmagic.RSA2048}})
		o := with(ca)
		o.Choose = w.choose
		m, _ := start(t, o, "a.example.com", "b.example.com", "c.example.com")
		require.NoError(t, m.Await(t.Context()))
		assert.Equal(t, "ca", status(t, m, "a.example.com").Issuer)
		assert.Equal(t, "own", status(t, m, "b.example.com").Issuer)
		assert.Equal(t, "own", status(t, m, "c.example.com").Issuer)
		b, err := shake(t, m, "b.example.com")
		require.NoError(t, err)
		assert.IsType(t, &ecdsa.PublicKey{}, b.PublicKey)
		c, err := shake(t, m, "c.example.com")
		require.NoError(t, err)
		assert.IsType(t, &rsa.PublicKey{}, c.PublicKey)
		for _, host := range []string{"a.example.com", "b.example.com", "c.example.com"} {
			assert.Equal(t, 1, w.count(host), "consulted once")
		}
	})
}

func TestANewIssuerIsUsedAtTheNextRenewalOrAtOnceIfThereIsNoCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, broken, next, w := newIssuer(t, "old", day(90)), newIssuer(t, "broken", day(90)), newIssuer(t, "next", day(90)), newWishes()
		broken.hook(failing("no"))
		w.set("broken.example.com", certs.Choice{Issuer: broken})
		o := with(old)
		o.Choose = w.choose
		m, _ := start(t, o, "good.example.com", "broken.example.com")
		require.NoError(t, m.Await(t.Context(), "good.example.com"))
		time.Sleep(time.Minute)
		require.Equal(t, certs.Failed, status(t, m, "broken.example.com").State)

		w.set("good.example.com", certs.Choice{Issuer: next})
		w.set("broken.example.com", certs.Choice{Issuer: next})
		assert.Empty(t, m.ReloadTLS("good.example.com", "broken.example.com"))
		require.NoError(t, m.Await(t.Context()))
		time.Sleep(time.Minute)
		assert.Equal(t, "next", status(t, m, "broken.example.com").Issuer)
		assert.Equal(t, "old", status(t, m, "good.example.com").Issuer, "good until its renewal")
		time.Sleep(day(61))
		assert.Equal(t, "next", status(t, m, "good.example.com").Issuer)
		assert.Equal(t, 1, old.count("good.example.com"))
	})
}

func TestAnOrderInFlightIsGivenUpForTheNewIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, next, w := newIssuer(t, "slow", day(90)), newIssuer(t, "next", day(90)), newWishes()
		slow.hook(func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() })
		o := with(slow)
		o.Choose = w.choose
		m, _ := start(t, o, "a.example.com")
		time.Sleep(time.Second)
		require.Equal(t, 1, slow.count("a.example.com"))
		w.set("a.example.com", certs.Choice{Issuer: next})
		m.ReloadTLS()
		time.Sleep(time.Second)
		s := status(t, m, "a.example.com")
		assert.Equal(t, "next", s.Issuer, "%v", s.Err)
	})
}

func TestAHookThatFailsRefusesANewHostAndKeepsAnExistingOne(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	for name, fail := range map[string]func(string) error{
		"error": func(string) error { return errors.New("database is down") },
		"panic": func(string) error { panic("database is down") },
		"hangs": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca, own, w := newIssuer(t, "ca", day(90)), newIssuer(t, "own", day(90)), newWishes()
				w.set("old.example.com", certs.Choice{Issuer: own})
				o := with(ca)
				o.Choose = w.choose
				m, r := start(t, o, "old.example.com")
				require.NoError(t, m.Await(t.Context()))

				ended := make(chan struct{})
				if fail == nil {
					fail = func(string) error { <-ended; return errors.New("database is down") }
				}
				w.failing(fail)
				r.add("new.example.com")
				m.ReloadTLS("old.example.com")
				time.Sleep(15 * time.Second)
				s := status(t, m, "new.example.com")
				assert.Equal(t, certs.Failed, s.State)
				assert.ErrorContains(t, s.Err, `no TLS settings for "new.example.com" from TLS.Host: `)
				assert.False(t, s.NextTry.IsZero())
				_, err := shake(t, m, "new.example.com")
				require.Error(t, err)
				assert.Equal(t, "own", status(t, m, "old.example.com").Issuer)
				assert.Equal(t, certs.Valid, status(t, m, "old.example.com").State)
				_, err = shake(t, m, "old.example.com")
				require.NoError(t, err)

				w.failing(nil)
				close(ended)
				time.Sleep(time.Minute)
				assert.Equal(t, "ca", status(t, m, "new.example.com").Issuer)
				assert.Equal(t, certs.Valid, status(t, m, "new.example.com").State)
				assert.Less(t, w.count("new.example.com"), 10)
			})
		})
	}
}

func TestACertificateOfTheProgramIsServedForItsHost(t *testing.T) {
	one, _ := proxytest.Certificate(t, "a.example.com")
	two, _ := proxytest.Certificate(t, "b.example.com")
	three, _ := proxytest.Certificate(t, "b.example.com")
	dir := t.TempDir()
	pair := certs.KeyPair{CertFile: filepath.Join(dir, "b.crt"), KeyFile: filepath.Join(dir, "b.key")}
	write(t, pair, two, 100)
	synctest.Test(t, func(t *testing.T) {
		ca, w := newIssuer(t, "ca", day(90)), newWishes()
		w.set("a.example.com", certs.Choice{Certificate: &one})
		w.set("b.example.com", certs.Choice{Files: pair})
		w.set("wrong.example.com", certs.Choice{Certificate: &one})
		o := with(ca)
		o.Choose = w.choose
		m, _ := start(t, o, "a.example.com", "b.example.com", "c.example.com", "wrong.example.com")
		require.NoError(t, m.Await(t.Context(), "a.example.com", "b.example.com", "c.example.com"))
		time.Sleep(time.Second)
		for host, want := range map[string]tls.Certificate{"a.example.com": one, "b.example.com": two} {
			leaf, err := shake(t, m, host)
			require.NoError(t, err, host)
			assert.Equal(t, want.Leaf.SerialNumber, leaf.SerialNumber, host)
			assert.Equal(t, certs.Static, status(t, m, host).State)
			assert.Error(t, m.Renew(host))
		}
		assert.Equal(t, []string{"c.example.com"}, ca.issued())
		assert.ErrorContains(t, status(t, m, "wrong.example.com").Err, `does not cover "wrong.example.com"`)

		write(t, pair, three, 50)
		time.Sleep(time.Minute)
		leaf, err := shake(t, m, "b.example.com")
		require.NoError(t, err)
		assert.Equal(t, three.Leaf.SerialNumber, leaf.SerialNumber, "read again")

		w.set("a.example.com", certs.Choice{})
		m.ReloadTLS("a.example.com")
		time.Sleep(time.Second)
		assert.Equal(t, certs.Valid, status(t, m, "a.example.com").State, "managed from now on")
	})
}

func TestAHostWithoutACertificateIsRefusedEvenUnderAWildcard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, w := newIssuer(t, "ca", day(90)), newWishes()
		w.set("none.example.com", certs.Choice{None: true})
		o := with(ca)
		o.Choose = w.choose
		m, r := start(t, o, "*.example.com", "none.example.com", "a.example.com")
		require.NoError(t, m.Await(t.Context(), "a.example.com"))
		_, err := shake(t, m, "a.example.com")
		require.NoError(t, err)
		_, err = shake(t, m, "none.example.com")
		require.ErrorContains(t, err, "unrecognized name")
		assert.Zero(t, ca.count("none.example.com"))
		r.remove("none.example.com")
		time.Sleep(time.Second)
		_, err = shake(t, m, "none.example.com")
		require.NoError(t, err, "the wildcard's")
	})
}

func TestTheHookIsConsultedAboutHostsOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, own, w := newIssuer(t, "ca", day(90)), newIssuer(t, "own", day(90)), newWishes()
		w.set("x.example.com", certs.Choice{Issuer: own})
		w.set("none.example.com", certs.Choice{None: true})
		o := with(ca)
		o.Choose, o.Policy = w.choose, func(context.Context, string) error { return nil }
		m, _ := start(t, o, "*")
		_, err := shake(t, m, "x.example.com")
		require.NoError(t, err)
		assert.Equal(t, "own", status(t, m, "x.example.com").Issuer)
		_, err = shake(t, m, "none.example.com")
		require.Error(t, err)
		_, err = shake(t, m, "y.example.com")
		require.NoError(t, err)
		assert.Equal(t, "ca", status(t, m, "y.example.com").Issuer)
	})
}

func TestReloadTLSReportsPatternsWithoutARoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := with(newIssuer(t, "ca", day(90)))
		w := newWishes()
		o.Choose = w.choose
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		strange := m.ReloadTLS("A.example.com", "b.example.com", "a..b")
		require.Len(t, strange, 2)
		assert.ErrorContains(t, strange[0], `no route serves "b.example.com"`)
		assert.ErrorContains(t, strange[1], `"a..b"`)
		time.Sleep(time.Second)
		assert.Equal(t, 2, w.count("a.example.com"))
		assert.Zero(t, w.count("b.example.com"))
	})
}

func TestReloadTLSForgetsARefusalOfThePolicyWithoutAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWishes()
		o := onDemand(t, &policy{deny: true}, newIssuer(t, "ca", day(90)))
		o.Choose = w.choose
		m, _ := start(t, o, "*")
		_, err := shake(t, m, "customer1.example.com")
		require.ErrorContains(t, err, "unrecognized name")
		assert.Empty(t, m.ReloadTLS("customer1.example.com"), "its refusal is forgotten")
		assert.Len(t, m.ReloadTLS("customer1.example.com"), 1)
		time.Sleep(time.Second)
		assert.Zero(t, w.count("customer1.example.com"))
	})
}

// mutual makes a handshake with the settings of m, and returns the server's
// view of the client.
func mutual(t testing.TB, m *certs.Manager, host string, client ...tls.Certificate) (*tls.ConnectionState, error) {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	server := tls.Server(far, m.TLSConfig())
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	c := tls.Client(near, &tls.Config{ServerName: host, InsecureSkipVerify: true, Certificates: client})
	go func() {
		if c.Handshake() == nil {
			_, _ = c.Read(make([]byte, 1)) // reads the tickets, or an alert
		}
		near.Close()
	}()
	err := <-done
	state := server.ConnectionState()
	return &state, err
}

// clientCertificate returns a client certificate and the pool that verifies it.
// It is valid at the time of synctest bubbles too.
func clientCertificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: rand.Text()}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, key.Public(), key)
	require.NoError(t, err)
	leaf, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

func TestChangedClientAuthenticationAppliesToOpenConnections(t *testing.T) {
	client, clients := clientCertificate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWishes()
		o := with(newIssuer(t, "ca", day(90)))
		o.Choose = w.choose
		m, _ := start(t, o, "a.example.com", "b.example.com")
		require.NoError(t, m.Await(t.Context()))
		kept, err := mutual(t, m, "a.example.com")
		require.NoError(t, err)
		assert.True(t, m.Admits(kept, "a.example.com"))
		assert.True(t, m.Admits(kept, "b.example.com"), "both are open")

		w.set("a.example.com", certs.Choice{ClientAuth: &certs.ClientAuth{CAs: clients}})
		m.ReloadTLS("a.example.com")
		time.Sleep(time.Second)
		assert.False(t, m.Admits(kept, "a.example.com"), "a request on a connection from before")
		assert.False(t, m.Admits(kept, "b.example.com"), "another realm now")
		_, err = mutual(t, m, "a.example.com")
		require.Error(t, err, "no client certificate")
		proved, err := mutual(t, m, "a.example.com", client)
		require.NoError(t, err)
		assert.True(t, m.Admits(proved, "a.example.com"))
		assert.False(t, m.Admits(proved, "b.example.com"), "another realm")

		_, others := clientCertificate(t)
		w.set("a.example.com", certs.Choice{ClientAuth: &certs.ClientAuth{CAs: others}})
		w.set("b.example.com", certs.Choice{ClientAuth: &certs.ClientAuth{CAs: others.Clone()}})
		m.ReloadTLS()
		time.Sleep(time.Second)
		assert.False(t, m.Admits(proved, "a.example.com"), "its CA is no longer trusted")

		w.set("a.example.com", certs.Choice{ClientAuth: &certs.ClientAuth{CAs: clients}})
		w.set("b.example.com", certs.Choice{ClientAuth: &certs.ClientAuth{CAs: clients.Clone()}})
		m.ReloadTLS()
		time.Sleep(time.Second)
		assert.True(t, m.Admits(proved, "a.example.com"))
		assert.True(t, m.Admits(proved, "b.example.com"), "equal settings are one realm")
		time.Sleep(time.Minute)
		assert.Equal(t, 1, m.Realms(), "realms without hosts are forgotten")
	})
}

func TestAHostIsRefusedUntilTheHookHasAnswered(t *testing.T) {
	_, clients := clientCertificate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWishes()
		w.set("admin.example.com", certs.Choice{ClientAuth: &certs.ClientAuth{CAs: clients}})
		o := with(newIssuer(t, "ca", day(90)))
		o.Choose = w.choose
		m, r := start(t, o, "*.example.com")
		require.NoError(t, m.Await(t.Context()))
		kept, err := mutual(t, m, "admin.example.com")
		require.NoError(t, err, "the wildcard is open")
		release := make(chan struct{})
		w.failing(func(string) error { <-release; return nil })
		r.add("admin.example.com")
		assert.False(t, m.Admits(kept, "admin.example.com"), "at once")
		began := time.Now()
		time.AfterFunc(3*time.Second, func() { close(release) })
		_, err = mutual(t, m, "admin.example.com")
		require.Error(t, err, "no client certificate")
		assert.Equal(t, 3*time.Second, time.Since(began), "the handshake has waited for the answer")
		assert.False(t, m.Admits(kept, "admin.example.com"))
	})
}

func TestACAFileOfClientsIsReadAgain(t *testing.T) {
	client, _ := clientCertificate(t)
	other, _ := clientCertificate(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	write := func(c tls.Certificate, n int) {
		require.NoError(t, os.WriteFile(file, encode("CERTIFICATE", c.Certificate[len(c.Certificate)-1]), 0o600))
		old := time.Now().Add(-time.Duration(n) * time.Second)
		require.NoError(t, os.Chtimes(file, old, old))
	}
	write(client, 100)
	synctest.Test(t, func(t *testing.T) {
		o := with(newIssuer(t, "ca", day(90)))
		o.Choose = chosen(map[string]certs.Choice{"a.example.com": {ClientAuth: &certs.ClientAuth{CAFiles: []string{file}}}})
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		proved, err := mutual(t, m, "a.example.com", client)
		require.NoError(t, err)
		require.True(t, m.Admits(proved, "a.example.com"))

		require.NoError(t, os.WriteFile(file, []byte("half written"), 0o600))
		time.Sleep(time.Minute)
		assert.True(t, m.Admits(proved, "a.example.com"), "the old CA stays")
		_, err = mutual(t, m, "a.example.com", client)
		require.NoError(t, err)

		write(other, 50)
		time.Sleep(time.Minute)
		assert.False(t, m.Admits(proved, "a.example.com"))
		_, err = mutual(t, m, "a.example.com", client)
		require.Error(t, err)
	})
}

func TestTheHookAddsNoAllocationsToAHandshake(t *testing.T) {
	o := with(newIssuer(t, "ca", day(90)))
	o.Choose = newWishes().choose
	m, _ := start(t, o, "a.example.com")
	require.NoError(t, m.Await(t.Context()))
	hello := &tls.ClientHelloInfo{ServerName: "a.example.com"}
	state := &tls.ConnectionState{ServerName: "a.example.com"}
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		_, err := m.GetCertificate(hello)
		require.NoError(t, err)
		m.Admits(state, "a.example.com")
	}))
}

func TestTheHookIsCalledForAFewHostsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now, most := 0, 0
		o := with(newIssuer(t, "ca", day(90)))
		o.Lazy = true
		o.Choose = func(string) (certs.Choice, error) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(10 * time.Millisecond)
			mu.Lock()
			now--
			mu.Unlock()
			return certs.Choice{}, nil
		}
		m, r := start(t, o, names("h%d.example.com", 1000)...)
		time.Sleep(5 * time.Second)
		mu.Lock()
		assert.LessOrEqual(t, most, 16)
		mu.Unlock()
		_, err := shake(t, m, "h7.example.com")
		require.NoError(t, err)
		r.set()
		time.Sleep(time.Second)
		assert.Zero(t, m.Choices(), "hosts without a route are forgotten")
	})
}
