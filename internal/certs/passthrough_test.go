package certs_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A site is a TLS server that answers each line with its name.
type site struct {
	ln    net.Listener
	roots *x509.CertPool
	done  chan struct{}
}

func serveSite(t testing.TB, ln net.Listener, name string, protos ...string) *site {
	t.Helper()
	conf, roots := proxytest.TLS(t, name)
	conf.NextProtos = protos
	s := &site{ln: ln, roots: roots, done: make(chan struct{})}
	tlsLn := tls.NewListener(ln, conf)
	go func() {
		defer close(s.done)
		for {
			c, err := tlsLn.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 1<<16)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					if _, err := c.Write(append([]byte(name+":"), b[:n]...)); err != nil {
						return
					}
				}
			}()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-s.done
	})
	return s
}

// passing starts a site "here.test" behind a Passer that forwards "away.test"
// to a site of that name.
func passing(t testing.TB, target func(addr string) certs.Target) (addr string, here, away *site, p *certs.Passer) {
	t.Helper()
	away = serveSite(t, proxytest.Listen(t), "away.test", "h2", "acme-tls/1")
	to := target(away.ln.Addr().String())
	p = certs.NewPasser(func(host string) (certs.Target, bool) { return to, host == "away.test" },
		func() bool { return true }, slog.New(slog.DiscardHandler))
	ln := proxytest.Listen(t)
	here = serveSite(t, p.Listener(ln), "here.test", "h2")
	t.Cleanup(p.Close)
	return ln.Addr().String(), here, away, p
}

func plainTarget(addr string) certs.Target { return certs.Target{Addr: addr} }

func ask(t testing.TB, c *tls.Conn) string {
	t.Helper()
	_, err := c.Write([]byte("hello"))
	require.NoError(t, err)
	b := make([]byte, len("here.test:hello"))
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	return string(b)
}

func TestAPassthroughForwardsOnlyItsOwnHost(t *testing.T) {
	proxytest.NoLeaks(t)
	addr, here, away, _ := passing(t, plainTarget)
	for _, c := range []struct {
		sni   string
		roots *x509.CertPool
		proto []string
		want  string
	}{
		{"away.test", away.roots, []string{"h2"}, "away.test:hello"},
		{"AWAY.test", away.roots, []string{"h2"}, "away.test:hello"},
		{"away.test", away.roots, []string{"acme-tls/1"}, "away.test:hello"},
		{"here.test", here.roots, []string{"h2"}, "here.test:hello"},
		{"", here.roots, nil, "here.test:hello"},
	} {
		conf := &tls.Config{ServerName: c.sni, RootCAs: c.roots, NextProtos: c.proto}
		if c.sni == "" {
			conf.InsecureSkipVerify = true
		}
		conn, err := tls.Dial("tcp", addr, conf)
		require.NoError(t, err, c.sni)
		assert.Equal(t, c.want, ask(t, conn))
		if c.proto != nil {
			assert.Equal(t, c.proto[0], conn.ConnectionState().NegotiatedProtocol)
		}
		require.NoError(t, conn.Close())
	}
}

// A ClientHello may come in small pieces, in several records, and longer than a
// packet.
func TestAClientHelloIsReadHoweverItArrives(t *testing.T) {
	addr, _, away, _ := passing(t, plainTarget)
	protos := make([]string, 200) // 25 KB of them: two records
	for i := range protos {
		protos[i] = rand.Text() + rand.Text() + rand.Text() + rand.Text() + rand.Text()
	}
	protos[100] = "h2"
	for what, wrap := range map[string]func(net.Conn) net.Conn{
		"byte by byte":    func(c net.Conn) net.Conn { return pieces{Conn: c, n: 1} },
		"in small pieces": func(c net.Conn) net.Conn { return pieces{Conn: c, n: 700} },
		"at once":         func(c net.Conn) net.Conn { return c },
		"a record a byte": func(c net.Conn) net.Conn { return &records{Conn: c} },
	} {
		raw, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		conf := &tls.Config{ServerName: "away.test", RootCAs: away.roots, NextProtos: protos}
		if what == "a record a byte" || what == "byte by byte" {
			conf.NextProtos = []string{"h2"}
		}
		c := tls.Client(wrap(raw), conf)
		assert.Equal(t, "away.test:hello", ask(t, c), what)
		raw.Close()
	}
}

// pieces writes n bytes at a time.
type pieces struct {
	net.Conn
	n int
}

func (c pieces) Write(p []byte) (int, error) {
	for i := 0; i < len(p); i += c.n {
		if _, err := c.Conn.Write(p[i:min(i+c.n, len(p))]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// records splits the first record into records of one byte.
type records struct {
	net.Conn
	cut bool
}

func (c *records) Write(p []byte) (int, error) {
	if c.cut {
		return c.Conn.Write(p)
	}
	c.cut = true
	var b bytes.Buffer
	for _, x := range p[5:] {
		b.Write([]byte{22, 3, 1, 0, 1, x})
	}
	if _, err := c.Conn.Write(b.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}

func TestAConnectionWithoutTLSGoesToTheServer(t *testing.T) {
	addr, _, _, _ := passing(t, plainTarget)
	for _, garbage := range []string{"GET / HTTP/1.1\r\nHost: away.test\r\n\r\n", "\x16\x03\x01\x00\x05hello", "\x00"} {
		c, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		_, err = io.WriteString(c, garbage)
		require.NoError(t, err)
		require.NoError(t, c.(*net.TCPConn).CloseWrite())
		require.NoError(t, c.SetReadDeadline(time.Now().Add(proxytest.Patience)))
		_, err = io.ReadAll(c)
		require.NoError(t, err, "the server ends it")
		c.Close()
	}
}

func TestThePROXYProtocolSaysWhoTheClientIs(t *testing.T) {
	target := proxytest.Listen(t)
	p := certs.NewPasser(func(string) (certs.Target, bool) {
		return certs.Target{Addr: target.Addr().String(), ProxyProtocol: true}, true
	},
		func() bool { return true }, slog.New(slog.DiscardHandler))
	ln := proxytest.Listen(t)
	serveSite(t, p.Listener(ln), "here.test")
	t.Cleanup(p.Close)
	client, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer client.Close()
	go func() { _ = tls.Client(client, &tls.Config{ServerName: "away.test"}).Handshake() }()
	c, err := target.Accept()
	require.NoError(t, err)
	defer c.Close()
	b := make([]byte, 16+12+1)
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	from, to := client.LocalAddr().(*net.TCPAddr), ln.Addr().(*net.TCPAddr)
	want := append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"), 127, 0, 0, 1, 127, 0, 0, 1,
		byte(from.Port>>8), byte(from.Port), byte(to.Port>>8), byte(to.Port), 22)
	assert.Equal(t, want, b, "and then the ClientHello")
}

func TestPassthroughConnectionsEndWithTheirRouteAndWithTheRouter(t *testing.T) {
	proxytest.NoLeaks(t)
	life, retire := context.WithCancel(context.Background())
	addr, here, away, _ := passing(t, func(addr string) certs.Target { return certs.Target{Addr: addr, Life: life} })
	dial := func(sni string, roots *x509.CertPool) *tls.Conn {
		c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: sni, RootCAs: roots})
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		ask(t, c)
		return c
	}
	carried, other := dial("away.test", away.roots), dial("here.test", here.roots)
	retire()
	_, _ = io.ReadAll(carried) // until its end
	assert.Equal(t, "here.test:hello", ask(t, other), "another host's connection stays")

	addr, _, away, p := passing(t, plainTarget)
	carried = dial("away.test", away.roots)
	p.Close()
	_, _ = io.ReadAll(carried) // until its end
	_, err := tls.Dial("tcp", addr, &tls.Config{ServerName: "away.test", RootCAs: away.roots})
	assert.Error(t, err, "after that all go to the server, which has no such certificate")
}

func TestAPassthroughToAnUnreachableTargetClosesTheConnection(t *testing.T) {
	proxytest.NoLeaks(t)
	addr, _, _, _ := passing(t, func(string) certs.Target { return certs.Target{Addr: proxytest.Refused(t)} })
	_, err := tls.Dial("tcp", addr, &tls.Config{ServerName: "away.test", InsecureSkipVerify: true})
	assert.Error(t, err)
}
