package e2e_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A realmRig is a Server, with the fast lane, some of whose hosts require a
// client certificate. These hosts have another backend than the others.
type realmRig struct {
	addr            string
	roots           *x509.CertPool
	client          tls.Certificate // accepted by these hosts
	secret, outside *proxytest.Backend
}

// newRealmRig starts a realmRig. auth returns the HostTLS of the hosts of the
// secret backend, for the CA of clients.
func newRealmRig(t *testing.T, auth func(*x509.CertPool) map[string]hostproxy.HostTLS, change func(*hostproxy.Router), open ...string) *realmRig {
	t.Helper()
	g := &realmRig{secret: proxytest.NewBackend(t, proxytest.Reply(ok)), outside: proxytest.NewBackend(t, proxytest.Reply(ok))}
	var cas *x509.CertPool
	g.client, cas = proxytest.Certificate(t, "client.example")
	r := &hostproxy.Router{Logger: silent()}
	hosts := append([]string{"mtls.localhost", "x.mtls.localhost", "127.0.0.1"}, open...)
	r.TLS.Config, g.roots = proxytest.TLS(t, hosts...)
	say := auth(cas)
	r.TLS.Host = func(pattern string) (hostproxy.HostTLS, error) { return say[pattern], nil }
	for _, h := range []string{"mtls.localhost", "*.mtls.localhost"} {
		r.Handle(h, hostproxy.To(g.secret.Addr()))
	}
	for _, h := range open {
		r.Handle(h, hostproxy.To(g.outside.Addr()))
	}
	if change != nil {
		change(r)
	}
	g.addr = proxytest.Start(t, &hostproxy.Server{Router: r}).HTTPS
	return g
}

// dial connects with that SNI; "" means none.
func (g *realmRig) dial(t *testing.T, sni string, certs ...tls.Certificate) *proxytest.Client {
	t.Helper()
	return proxytest.DialTLS(t, g.addr, &tls.Config{
		ServerName: sni, InsecureSkipVerify: true, Certificates: certs, NextProtos: []string{"http/1.1"},
	})
}

// CVE-2022-23632, CVE-2022-46153, CVE-2020-9321 in the fast lane, which looks
// up routes itself: a connection opened for one host cannot reach a host that
// requires a certificate, however its name is written.
func TestTheFastLaneDoesNotSkipClientAuthentication(t *testing.T) {
	g := newRealmRig(t, func(cas *x509.CertPool) map[string]hostproxy.HostTLS {
		more := cas.Clone() // equal settings would be one realm
		other, _ := proxytest.Certificate(t, "other.example")
		more.AddCert(other.Leaf)
		return map[string]hostproxy.HostTLS{
			"mtls.localhost":   {ClientAuth: &hostproxy.ClientAuth{CAs: cas}},
			"*.mtls.localhost": {ClientAuth: &hostproxy.ClientAuth{CAs: more}},
		}
	}, nil, "open.localhost")
	const first = "GET /first HTTP/1.1\r\nHost: open.localhost\r\n\r\n"
	for _, secret := range []string{"mtls.localhost", "x.mtls.localhost"} {
		upper := strings.ToUpper(secret)
		for _, raw := range []string{
			"GET / HTTP/1.1\r\nHost: " + secret + "\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: " + upper + "\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: " + secret + ".\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: " + secret + ":443\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: " + secret + ":1\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: " + secret + ":\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: " + upper + ".:8443\r\n\r\n",
			"GET https://" + secret + "/ HTTP/1.1\r\nHost: " + secret + "\r\n\r\n",
			"GET https://" + upper + "./ HTTP/1.1\r\nHost: " + upper + ".\r\n\r\n",
			"GET https://" + secret + "/ HTTP/1.1\r\nHost: open.localhost\r\n\r\n",
			"PURGE / HTTP/1.1\r\nHost: " + secret + "\r\n\r\n", // for the handler lane
			"POST / HTTP/1.1\r\nHost: " + secret + "\r\n" + sized("body"),
		} {
			for _, pipelined := range []bool{false, true} {
				c := g.dial(t, "open.localhost")
				if pipelined {
					c.Send(first + raw)
				} else {
					c.Send(first)
				}
				require.Equal(t, "ok", string(c.Response("GET").Content))
				if !pipelined {
					c.Send(raw)
				}
				method, _, _ := strings.Cut(raw, " ")
				assert.Contains(t, []int{421, 400}, c.Response(method).StatusCode, short(raw))
				c.Close()
			}
		}
	}
	for _, secret := range []string{"mtls.localhost", "x.mtls.localhost"} {
		p := g.dial(t, "open.localhost").Do("GET https://open.localhost/ HTTP/1.1\r\nHost: " + secret + "\r\n\r\n")
		assert.Equal(t, 200, p.StatusCode, "the target decides over Host")
	}
	assert.Empty(t, g.secret.Requests(), "the hosts that ask for a certificate")

	for _, sni := range []string{"mtls.localhost", "x.mtls.localhost"} {
		c := g.dial(t, sni, g.client)
		assert.Equal(t, 200, c.Do("GET / HTTP/1.1\r\nHost: "+strings.ToUpper(sni)+".:443\r\n\r\n").StatusCode, "a client that proved its certificate is served")
		assert.Equal(t, 421, c.Do(first).StatusCode, "what was proved to one host counts for no other")
		c.Close()
	}
	c := g.dial(t, "mtls.localhost", g.client)
	assert.Equal(t, 421, c.Do("GET / HTTP/1.1\r\nHost: x.mtls.localhost\r\n\r\n").StatusCode)
	assert.Len(t, g.secret.Requests(), 2)
}

// Upstreams with one address and different client certificates do not share
// connections.
func TestUpstreamsOfOneAddressDoNotShareTheirIdentity(t *testing.T) {
	t.Parallel()
	backend := newIdentifier(t)
	var r hostproxy.Router
	config, roots := proxytest.TLS(t, "a.test", "b.test")
	r.TLS.Config = config
	for _, h := range []string{"a.test", "b.test"} {
		cert, _ := proxytest.Certificate(t, "from-"+h)
		u := hostproxy.To("https://" + backend.Listener.Addr().String())
		u.TLS = &tls.Config{RootCAs: backend.roots, Certificates: []tls.Certificate{cert}}
		r.Handle(h, u)
	}
	addr := proxytest.Start(t, &hostproxy.Server{Router: &r}).HTTPS
	for _, tt := range []struct{ about, front, method, contentType, back string }{
		{"fast lane", "h1", "GET", "", "HTTP/1.1"},
		{"handler lane", "h1", "PURGE", "", "HTTP/1.1"},
		{"handler lane, HTTP/2", "h2", "GET", "", "HTTP/1.1"},
		{"gRPC", "h2", "POST", "application/grpc", "HTTP/2.0"},
	} {
		t.Run(tt.about, func(t *testing.T) {
			client := proxytest.HTTPClient(t, addr, roots, tt.front)
			var asked sync.WaitGroup
			for range 8 { // several at a time, so that connections are opened, kept and reused
				for range 4 {
					for _, h := range []string{"a.test", "b.test"} {
						asked.Go(func() {
							q := newRequest(t, tt.method, "/", nil)
							q.URL.Host, q.Host = h, h
							if tt.contentType != "" {
								q.Header.Set("Content-Type", tt.contentType)
							}
							p, err := client.Do(q)
							if !assert.NoError(t, err) {
								return
							}
							defer p.Body.Close()
							body, _ := io.ReadAll(p.Body)
							assert.Equal(t, tt.back+" from-"+h, string(body))
						})
					}
				}
				asked.Wait()
			}
		})
	}
	backend.mu.Lock()
	defer backend.mu.Unlock()
	assert.Less(t, backend.conns, 8*4*2*4, "connections were kept, or this test shows nothing")
}

// An identifier is a backend that requires a client certificate, and answers
// with the protocol and the certificate's name.
type identifier struct {
	*httptest.Server
	roots *x509.CertPool

	mu    sync.Mutex
	conns int
}

func newIdentifier(t *testing.T) *identifier {
	t.Helper()
	b := new(identifier)
	b.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprintf(w, "%s %s", q.Proto, q.TLS.PeerCertificates[0].DNSNames[0])
	}))
	b.Config.ErrorLog = log.New(t.Output(), "", 0)
	b.TLS, b.roots = proxytest.TLS(t)
	b.TLS.ClientAuth = tls.RequireAnyClientCert
	b.EnableHTTP2 = true
	b.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			b.mu.Lock()
			b.conns++
			b.mu.Unlock()
		}
	}
	b.StartTLS()
	t.Cleanup(b.Close)
	return b
}

// HTTP/1.0 without Host gets the routes for any host, and a URL in the request
// line those for its host. Neither skips the client authentication of these.
func TestARequestWithoutHostDoesNotSkipClientAuthentication(t *testing.T) {
	g := newRealmRig(t, func(cas *x509.CertPool) map[string]hostproxy.HostTLS {
		return map[string]hostproxy.HostTLS{"*": {ClientAuth: &hostproxy.ClientAuth{CAs: cas}}}
	}, func(r *hostproxy.Router) {
		r.Handle("*", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	}, "open.localhost")
	for _, raw := range []string{
		"GET / HTTP/1.0\r\n\r\n",
		"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
		"GET https://any.localhost/ HTTP/1.0\r\n\r\n",
		"GET https://any.localhost/ HTTP/1.1\r\nHost: open.localhost\r\n\r\n",
		"GET http://any.localhost:80?q HTTP/1.1\r\nHost: open.localhost\r\n\r\n",
	} {
		c := g.dial(t, "open.localhost")
		assert.Equal(t, 200, c.Do("GET / HTTP/1.1\r\nHost: open.localhost\r\n\r\n").StatusCode, raw)
		assert.Equal(t, 421, c.Do(raw).StatusCode, raw)
	}
}
