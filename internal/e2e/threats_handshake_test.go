package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// shattered returns the first n bytes of a ClientHello's message, each in its
// own record.
func shattered(hello []byte, n int) (records [][]byte) {
	for _, b := range hello[5:][:n] {
		records = append(records, []byte{hello[0], hello[1], hello[2], 0, 1, b})
	}
	return records
}

// CVE-2026-22045 and slowloris with Passthrough routes: the search for the
// server name has the time limit of a handshake.
func TestAStalledHelloIsCutOffBeforeAPassthrough(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	target := proxytest.NewBackend(t, proxytest.Reply(ok))
	k := newFast(t, shape{secure: true, tune: func(s *hostproxy.Server) {
		s.HandshakeTimeout = patient
		s.Router.Handle("elsewhere.test", &hostproxy.Passthrough{Addr: target.Addr()})
	}})
	whole := helloOf(t, &tls.Config{ServerName: "elsewhere.test"})
	proxytest.Dial(t, k.addr).Send(string(whole))
	target.WaitConns(1) // otherwise the test shows nothing
	t.Cleanup(func() { assert.Equal(t, 1, target.Conns(), "connections at the target") })
	for _, sni := range []string{"elsewhere.test", "a.test"} {
		hello := helloOf(t, &tls.Config{ServerName: sni})
		message := len(hello) - 5
		for about, parts := range map[string][][]byte{
			"nothing":                     nil,
			"one byte":                    {hello[:1]},
			"the head of a record":        {hello[:5]},
			"all but one byte":            {hello[:len(hello)-1]},
			"five bytes in five records":  shattered(hello, 5),
			"all but one byte in records": shattered(hello, message-1),
			"byte by byte, for ever":      shattered(hello, message),
		} {
			t.Run(sni+" "+about, func(t *testing.T) {
				t.Parallel()
				c := proxytest.Dial(t, k.addr)
				// earlier than the default limit
				_ = c.SetDeadline(time.Now().Add(proxytest.Patience / 3))
				if about == "byte by byte, for ever" {
					slowly := ""
					for _, p := range parts {
						slowly += string(p)
					}
					drip(t, c.Conn, slowly)
				} else {
					for _, p := range parts {
						c.Send(string(p))
					}
				}
				c.Rest() // fails if the connection stays open
			})
		}
	}
}

// A refusingIssuer notes the names that it is asked for, and issues nothing.
type refusingIssuer struct {
	mu    sync.Mutex
	asked []string
}

func (*refusingIssuer) IssuerKey() string { return "refusing" }

func (i *refusingIssuer) Issue(_ context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked = append(i.asked, csr.DNSNames...)
	return nil, errors.New("not today")
}

// CVE-2024-12224 and similar: an xn-- label that decodes to plain ASCII is
// another spelling of a host, and must not get a certificate.
func TestAnEncodedSpellingOfAPlainNameGetsNoCertificate(t *testing.T) {
	issuer := new(refusingIssuer)
	var mu sync.Mutex
	var asked []string
	r := hostproxy.Router{Logger: silent()}
	r.TLS.Storage = &certmagic.FileStorage{Path: t.TempDir()}
	r.TLS.Issuer = issuer
	r.TLS.HostPolicy = func(_ context.Context, host string) error {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, host)
		return nil
	}
	r.Handle("*", hostproxy.To("127.0.0.1:1"))
	addr := proxytest.Start(t, &hostproxy.Server{Router: &r}).HTTPS
	dial := func(sni string) error {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: proxytest.Patience}, "tcp", addr, &tls.Config{ServerName: sni, InsecureSkipVerify: true})
		if err == nil {
			c.Close()
		}
		return err
	}
	for _, sni := range []string{
		"xn--customer-.example.com", "xn--example-.com", "customer.xn--example-.com", "XN--CUSTOMER-.example.com", "xn--.example.com", "a.xn--com-",
		"xn--xn--customer--.example.com", "xn--a-.example.com", "xn--127-.0.0.1",
	} {
		assert.ErrorContains(t, dial(sni), "unrecognized name", sni)
	}
	require.Error(t, dial("xn--bcher-kva.example.com"))
	mu.Lock()
	defer mu.Unlock()
	issuer.mu.Lock()
	defer issuer.mu.Unlock()
	only := []string{"xn--bcher-kva.example.com"} // otherwise the test shows nothing
	assert.Equal(t, only, asked, "names that the policy was asked about")
	assert.Equal(t, only, issuer.asked, "names that the issuer was asked for")
}

// A client that negotiates HTTP/2 and sends nothing is cut off: net/http gives
// it ten seconds for the preface, and two for the settings after it.
func TestAnHTTP2ClientThatDoesNotBeginIsCutOff(t *testing.T) {
	t.Parallel()
	k := newFast(t, shape{secure: true})
	over := *k
	over.tls = k.tls.Clone()
	over.tls.NextProtos = []string{"h2"}
	conns := make(map[string]*proxytest.Conn)
	for about, sent := range map[string]string{
		"nothing": "", "half of the preface": http2.ClientPreface[:12], "all but one byte of it": http2.ClientPreface[:23],
		"no settings": http2.ClientPreface, "half a frame": http2.ClientPreface + "\x00\x00\x00\x04",
	} {
		c := over.connect(t)
		require.Equal(t, "h2", (&h2{c: c}).protocol(t))
		require.NoError(t, c.Send(sent))
		conns[about] = c
	}
	for about, c := range conns {
		_, err := io.Copy(io.Discard, c)
		var late net.Error
		assert.False(t, errors.As(err, &late) && late.Timeout(), "%s: the connection stays open", about)
	}
}
