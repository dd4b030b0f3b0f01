package certs_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// resumes makes a connection with the client's sessions and reports whether one
// was resumed.
func resumes(t testing.TB, server *tls.Config, sessions tls.ClientSessionCache) bool {
	t.Helper()
	c, s := net.Pipe()
	defer c.Close()
	done := make(chan error, 1)
	go func() {
		defer s.Close()
		conn := tls.Server(s, server.Clone()) // servers clone what they are given
		if err := conn.Handshake(); err != nil {
			done <- err
			return
		}
		_, err := conn.Write([]byte("x"))
		done <- err
	}()
	client := tls.Client(c, &tls.Config{ServerName: "a.example.com", InsecureSkipVerify: true, ClientSessionCache: sessions})
	_, err := io.ReadFull(client, make([]byte, 1)) // the ticket comes before it
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

		// Across rotations a session of the day before resumes, and no key lives for ever.
		for range 10 {
			time.Sleep(20 * time.Hour)
			assert.True(t, resumes(t, second, sessions))
			assert.True(t, resumes(t, third, sessions))
		}
		old := tls.NewLRUClientSessionCache(1)
		require.False(t, resumes(t, second, old))
		time.Sleep(day(4.5))
		assert.False(t, resumes(t, second, old), "the key is gone")

		// Storage that fails changes nothing for now.
		require.False(t, resumes(t, second, tls.NewLRUClientSessionCache(1)))
		storage.hook(func(string, string) error { return errors.New("no disk") })
		time.Sleep(day(1.5))
		fresh := tls.NewLRUClientSessionCache(1)
		require.False(t, resumes(t, second, fresh))
		assert.True(t, resumes(t, third, fresh))
	})
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
		o.ClientAuth = map[string]certs.ClientAuth{"a.example.com": {Mode: tls.RequestClientCert}}
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		conf := m.TLSConfig()
		sessions := tls.NewLRUClientSessionCache(1)
		require.False(t, resumes(t, conf, sessions))
		assert.False(t, resumes(t, conf, sessions))
	})
}
