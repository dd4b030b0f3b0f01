package certs_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// resumes makes a connection with the client's sessions and reports whether it
// resumed one.
func resumes(t testing.TB, server *tls.Config, sessions tls.ClientSessionCache) bool {
	t.Helper()
	c, s := net.Pipe()
	defer c.Close()
	done := make(chan error, 1)
	go func() {
		defer s.Close()
		conn := tls.Server(s, server.Clone()) // servers clone their config
		if err := conn.Handshake(); err != nil {
			done <- err
			return
		}
		_, err := conn.Write([]byte("x"))
		done <- err
	}()
	client := tls.Client(c, &tls.Config{ServerName: "a.example.com", InsecureSkipVerify: true, ClientSessionCache: sessions})
	_, err := io.ReadFull(client, make([]byte, 1)) // the ticket comes before this byte
	require.NoError(t, err)
	require.NoError(t, <-done)
	return client.ConnectionState().DidResume
}

func TestSessionsResumeOnEveryInstanceAndAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := with(newIssuer(t, "ca", 10*day(365)))
		storage := newMemStorage()
		o.Storage, o.ShareTickets = storage, true
		one, _ := start(t, o, "a.example.com")
		two, _ := start(t, o, "a.example.com")
		require.NoError(t, one.Await(t.Context()))
		require.NoError(t, two.Await(t.Context()))
		synctest.Wait()
		first, second := one.TLSConfig(), two.TLSConfig()
		sessions := tls.NewLRUClientSessionCache(1)
		require.False(t, resumes(t, first, sessions))
		assert.True(t, resumes(t, second, sessions))
		assert.True(t, resumes(t, first, sessions))
		require.NoError(t, one.Close())
		again, _ := start(t, o, "a.example.com")
		require.NoError(t, again.Await(t.Context()))
		synctest.Wait()
		third := again.TLSConfig()
		assert.True(t, resumes(t, third, sessions))

		// Across rotations, a session of the day before resumes, and no key
		// lives forever.
		for range 10 {
			time.Sleep(20 * time.Hour)
			assert.True(t, resumes(t, second, sessions))
			assert.True(t, resumes(t, third, sessions))
		}
		old := tls.NewLRUClientSessionCache(1)
		require.False(t, resumes(t, second, old))
		time.Sleep(day(4.5))
		assert.False(t, resumes(t, second, old), "the key is gone")

		// A failing storage changes nothing for now.
		require.False(t, resumes(t, second, tls.NewLRUClientSessionCache(1)))
		storage.hook(func(string, string) error { return errors.New("no disk") })
		time.Sleep(day(1.5))
		fresh := tls.NewLRUClientSessionCache(1)
		require.False(t, resumes(t, second, fresh))
		assert.True(t, resumes(t, third, fresh))
	})
}

// roomy is a pipe whose writer does not wait for the reader, like a TCP
// connection.
type roomy struct {
	net.Conn
	out chan []byte
}

func (r roomy) Write(p []byte) (int, error) {
	r.out <- bytes.Clone(p)
	return len(p), nil
}

// send passes on written data until out is closed, and then closes the pipe.
func (r roomy) send() {
	defer r.Conn.Close()
	for p := range r.out {
		_, _ = r.Conn.Write(p)
	}
}

// meet makes a connection with the client's sessions and certificates, and
// returns the server's view of it.
func meet(server *tls.Config, version uint16, sessions tls.ClientSessionCache, of ...tls.Certificate) (tls.ConnectionState, error) {
	c, s := net.Pipe()
	end := roomy{s, make(chan []byte, 16)}
	go end.send()
	conn, done := tls.Server(end, server.Clone()), make(chan error, 1)
	go func() {
		defer close(end.out)
		_, err := conn.Write([]byte("x"))
		done <- err
	}()
	client := tls.Client(c, &tls.Config{
		ServerName: "a.example.com", InsecureSkipVerify: true, ClientSessionCache: sessions, Certificates: of, MaxVersion: version,
	})
	_, _ = io.ReadFull(client, make([]byte, 1)) // fails if the server refuses; done has the error
	c.Close()
	err := <-done
	return conn.ConnectionState(), err
}

// CVE-2025-68121: Config may require client certificates, and sessions may
// outlive its CAs. crypto/tls verifies a session's certificate again; it must
// do the same with our keys.
func TestASharedSessionDoesNotOutliveTheCAOfItsClient(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, fromA := proxytest.Certificate(t, "a")
				b, fromB := proxytest.Certificate(t, "b")
				o := with(newIssuer(t, "ca", day(90)))
				o.Storage, o.ShareTickets = newMemStorage(), true
				run := func(mode tls.ClientAuthType, cas *x509.CertPool) *tls.Config {
					o.Config = &tls.Config{ClientAuth: mode, ClientCAs: cas}
					m, _ := start(t, o, "a.example.com")
					require.NoError(t, m.Await(t.Context()))
					synctest.Wait()
					return m.TLSConfig()
				}
				before := run(tls.RequireAndVerifyClientCert, fromA)
				session := func() tls.ClientSessionCache {
					sessions := tls.NewLRUClientSessionCache(1)
					state, err := meet(before, version, sessions, a)
					require.NoError(t, err)
					require.False(t, state.DidResume)
					return sessions
				}
				state, err := meet(run(tls.RequireAndVerifyClientCert, fromA), version, session())
				require.NoError(t, err)
				require.True(t, state.DidResume, "with the same CA it resumes, or this test shows nothing")
				require.Len(t, state.PeerCertificates, 1)

				after := run(tls.RequireAndVerifyClientCert, fromB)
				_, err = meet(after, version, session())
				assert.Error(t, err, "no certificate")
				_, err = meet(after, version, session(), a)
				assert.Error(t, err, "the other CA's certificate")
				state, err = meet(after, version, session(), b)
				require.NoError(t, err)
				assert.False(t, state.DidResume)
				assert.Equal(t, []string{"b"}, state.PeerCertificates[0].DNSNames)

				for _, mode := range []tls.ClientAuthType{tls.VerifyClientCertIfGiven, tls.NoClientCert} {
					state, err = meet(run(mode, fromB), version, session())
					require.NoError(t, err)
					assert.False(t, state.DidResume)
					assert.Empty(t, state.PeerCertificates)
				}
			})
		})
	}
}

func TestTicketsAreNotSharedUnlessAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := with(newIssuer(t, "ca", day(90)))
		storage := newMemStorage()
		o.Storage = storage
		one, _ := start(t, o, "a.example.com")
		two, _ := start(t, o, "a.example.com")
		require.NoError(t, errors.Join(one.Await(t.Context()), two.Await(t.Context())))
		sessions := tls.NewLRUClientSessionCache(1)
		require.False(t, resumes(t, one.TLSConfig(), sessions))
		assert.False(t, resumes(t, two.TLSConfig(), sessions))
		keys, err := storage.List(t.Context(), "tickets", true)
		require.NoError(t, err)
		assert.Empty(t, keys)
	})
}

func TestARealmHasNoTicketsWhateverIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := with(newIssuer(t, "ca", day(90)))
		o.ShareTickets = true
		o.Choose = chosen(map[string]certs.Choice{"a.example.com": {ClientAuth: &certs.ClientAuth{Mode: tls.RequestClientCert}}})
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		conf := m.TLSConfig()
		sessions := tls.NewLRUClientSessionCache(1)
		require.False(t, resumes(t, conf, sessions))
		assert.False(t, resumes(t, conf, sessions))
	})
}

func TestTicketKeysAreSharedAsSoonAsStorageReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := with(newIssuer(t, "ca", day(90)))
		storage := newMemStorage()
		storage.fails()
		o.Storage, o.ShareTickets = storage, true
		start(t, o, "a.example.com")
		time.Sleep(5 * time.Second)
		storage.heal()
		time.Sleep(4 * time.Second)
		assert.True(t, storage.Exists(t.Context(), "tickets/keys.json"))
	})
}
