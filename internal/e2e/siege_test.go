package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A hangingIssuer returns only when its request is canceled.
type hangingIssuer struct{}

func (hangingIssuer) IssuerKey() string { return "hanging" }

func (hangingIssuer) Issue(ctx context.Context, _ *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A siege is a server with a healthy host a.test, which has a certificate, and
// pending hosts that wait for a hanging CA.
type siege struct {
	router *hostproxy.Router
	roots  *x509.CertPool
	addr   string
	run    *proxytest.Running
}

func besiege(t testing.TB, tune func(*hostproxy.Server), pending ...string) *siege {
	t.Helper()
	config, roots := proxytest.TLS(t, "a.test")
	r := &hostproxy.Router{Logger: silent()}
	r.TLS.Config = config
	r.TLS.Storage = &certmagic.FileStorage{Path: t.TempDir()}
	r.TLS.Issuer = hangingIssuer{}
	r.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	for _, host := range pending {
		r.Handle(host, http.NotFoundHandler())
	}
	server := &hostproxy.Server{Router: r}
	if tune != nil {
		tune(server)
	}
	run := proxytest.Start(t, server)
	return &siege{router: r, roots: roots, addr: run.HTTPS, run: run}
}

// hello begins a handshake for host and does not continue it.
func (s *siege) hello(t testing.TB, host string, protos ...string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	_, err = c.Write(helloOf(t, &tls.Config{ServerName: host, NextProtos: protos}))
	require.NoError(t, err)
	return c
}

// healthy requires that the healthy host answers within a limit.
func (s *siege) healthy(t testing.TB) {
	t.Helper()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: unhindered}, "tcp", s.addr, &tls.Config{RootCAs: s.roots, ServerName: "a.test"})
	require.NoError(t, err, "the healthy host")
	c.Close()
}

// status returns the certificate status of host.
func (s *siege) status(host string) (found hostproxy.CertStatus) {
	for st := range s.router.Certificates() {
		if st.Host == host {
			found = st
		}
	}
	return found
}

func (s *siege) waiting(t testing.TB, host string, n int) {
	t.Helper()
	proxytest.Eventually(t, fmt.Sprintf("%d handshakes that wait for %s", n, host), func() bool { return s.status(host).Waiting == n })
}

func TestAWaitForACertificateTakesNoHandshakeSlot(t *testing.T) {
	proxytest.NoLeaks(t)
	s := besiege(t, func(s *hostproxy.Server) { s.MaxHandshakes = 2 }, "slow.example.com")
	for range 8 {
		s.hello(t, "slow.example.com")
	}
	s.waiting(t, "slow.example.com", 8)
	s.healthy(t)
}

func TestAWaitForACertificateEndsWithTheHandshakeTimeout(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	s := besiege(t, func(s *hostproxy.Server) { s.HandshakeTimeout = patient }, "slow.example.com")
	stills := proxytest.WatchStandstills(t)
	err := io.EOF
	// again if the machine stood still before the wait
	for before := stills.Total(); errors.Is(err, io.EOF); before = stills.Total() {
		_, err = tls.DialWithDialer(&net.Dialer{Timeout: proxytest.Patience}, "tcp", s.addr, &tls.Config{ServerName: "slow.example.com"})
		if stills.Total()-before < patient/2 {
			break
		}
	}
	assert.ErrorContains(t, err, "internal error", "the client is told")
	assert.Zero(t, s.status("slow.example.com").Waiting)
}

func TestAWaitForACertificateEndsWhenTheClientDisconnects(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	proxytest.NoLeaks(t)
	s := besiege(t, func(s *hostproxy.Server) { s.HandshakeTimeout = -1 }, "slow.example.com")
	for what, leave := range map[string]func(net.Conn){
		"closes":      func(c net.Conn) { c.Close() },
		"resets":      func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); c.Close() },
		"half-closes": func(c net.Conn) { _ = c.(*net.TCPConn).CloseWrite() },
	} {
		c := s.hello(t, "slow.example.com")
		s.waiting(t, "slow.example.com", 1)
		leave(c)
		proxytest.Eventually(t, "the end of the wait of a client that "+what, func() bool { return s.status("slow.example.com").Waiting == 0 })
	}
}

func TestAWaitForACertificateEndsWhenTheServerDrains(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	proxytest.NoLeaks(t)
	s := besiege(t, func(s *hostproxy.Server) { s.HandshakeTimeout = time.Hour }, "slow.example.com")
	s.hello(t, "slow.example.com")
	s.waiting(t, "slow.example.com", 1)
	require.NoError(t, s.run.Stop())
}

func TestAnIncompleteClientHelloTakesNoHandshakeSlot(t *testing.T) {
	proxytest.NoLeaks(t)
	s := besiege(t, func(s *hostproxy.Server) { s.MaxHandshakes = 1 })
	hello := helloOf(t, &tls.Config{ServerName: "a.test"})
	for _, n := range []int{0, 1, 5, len(hello) - 1} {
		c, err := net.Dial("tcp", s.addr)
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Write(hello[:n])
		require.NoError(t, err)
	}
	dawdle(moment) // so that the server has read the parts
	s.healthy(t)
}

func TestAChallengeIsNotQueuedBehindHandshakes(t *testing.T) {
	proxytest.NoLeaks(t)
	s := besiege(t, func(s *hostproxy.Server) { s.MaxHandshakes = 1 }, "slow.example.com")
	stalled := s.hello(t, "a.test") // it has the only slot
	_, err := io.ReadFull(stalled, make([]byte, 5))
	require.NoError(t, err)
	_, err = tls.DialWithDialer(&net.Dialer{Timeout: unhindered}, "tcp", s.addr,
		&tls.Config{ServerName: "slow.example.com", NextProtos: []string{"acme-tls/1"}})
	assert.ErrorContains(t, err, "unrecognized name", "it is answered: there is no challenge")
}

func TestWaitersBeyondTheBoundOfAHostAreRefusedAtOnce(t *testing.T) {
	proxytest.NoLeaks(t)
	s := besiege(t, nil, "slow.example.com", "other.example.com")
	for range 64 {
		s.hello(t, "slow.example.com")
	}
	s.waiting(t, "slow.example.com", 64)
	_, err := tls.DialWithDialer(&net.Dialer{Timeout: unhindered}, "tcp", s.addr, &tls.Config{ServerName: "slow.example.com"})
	assert.ErrorContains(t, err, "internal error")
	assert.Equal(t, 1, s.status("slow.example.com").Refused)
	s.hello(t, "other.example.com")
	s.waiting(t, "other.example.com", 1)
	s.healthy(t)
}
