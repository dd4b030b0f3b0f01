package certs_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

func port(n int) net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: n} }

// local returns the context of a request that arrived at an address.
func local(ctx context.Context, a net.Addr) context.Context {
	return context.WithValue(ctx, http.LocalAddrContextKey, a)
}

// keeping returns options for a Keeper, for the hosts of r.
func keeping(r *routes, ca certmagic.Issuer) func() certs.Options {
	storage := newMemStorage()
	return func() certs.Options {
		return certs.Options{Hosts: r.all, Wants: r.wants, Knows: r.knows, Storage: storage, Logger: slog.New(slog.DiscardHandler),
			Public: []certmagic.Issuer{ca}}
	}
}

func TestCertificatesAreRenewedUntilTheLastShareIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		options := keeping(routesOf("a.example.com"), ca)
		var k certs.Keeper
		first, second := k.Share(), k.Share()
		for _, s := range []*certs.Share{first, second} {
			_, err := s.Listen(port(443), port(80), options)
			require.NoError(t, err)
		}
		time.Sleep(day(1))
		require.Equal(t, 1, ca.count("a.example.com"))
		last := func() { t.Error("it is not the last") }
		require.NoError(t, first.Release(last))
		require.NoError(t, first.Release(last), "a second time")
		time.Sleep(day(65))
		assert.Equal(t, 2, ca.count("a.example.com"))

		told := false
		require.NoError(t, second.Release(func() { told = true }))
		assert.True(t, told)
		assert.Nil(t, k.Manager())
		time.Sleep(day(65))
		assert.Equal(t, 2, ca.count("a.example.com"))
	})
}

func TestAReleaseDoesNotStopWhatStartedAfterAClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		options := keeping(new(routes), newIssuer(t, "ca", day(90)))
		var k certs.Keeper
		first, second := k.Share(), k.Share()
		_, err := first.Listen(port(443), nil, options)
		require.NoError(t, err)
		old := k.Manager()
		require.NoError(t, k.Close())
		assert.Nil(t, k.Manager())

		_, err = second.Listen(port(8443), nil, options)
		require.NoError(t, err)
		require.NotSame(t, old, k.Manager())
		require.NoError(t, first.Release(func() { t.Error("it is not the last") }))
		assert.NotNil(t, k.Manager())
		require.NoError(t, second.Release(func() {}))
		assert.Nil(t, k.Manager())
	})
}

func TestHTTP01IsOfferedWhileAPlainListenerIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		options := keeping(new(routes), newIssuer(t, "ca", day(90)))
		var k certs.Keeper
		first, second, third := k.Share(), k.Share(), k.Share()
		for i, s := range []*certs.Share{first, second, third} {
			plain := port(80 + i)
			if s == third {
				plain = nil
			}
			_, err := s.Listen(port(443+i), plain, options)
			require.NoError(t, err)
		}
		m := k.Manager()
		assert.True(t, m.OffersHTTP())
		first.Deafen()
		first.Deafen()
		assert.True(t, m.OffersHTTP())
		require.NoError(t, second.Release(func() {}))
		assert.False(t, m.OffersHTTP(), "no plain listener is left")

		k.AnswerHTTP()
		assert.True(t, m.OffersHTTP(), "the program answers by itself")
		require.NoError(t, first.Release(func() {}))
		require.NoError(t, third.Release(func() {}))
		_, err := k.Listening(port(443), options)
		require.NoError(t, err)
		assert.True(t, k.Manager().OffersHTTP(), "it still does")
		require.NoError(t, k.Close())
	})
}

func TestRedirectsOfTheProgramGoToAnOpenPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		options := keeping(new(routes), newIssuer(t, "ca", day(90)))
		var k certs.Keeper
		q := httptest.NewRequest("GET", "http://a.example.com:8080/", nil)
		q = q.WithContext(local(q.Context(), port(8080)))
		to := func() string { return k.Authority(q, "a.example.com", "8080") }
		assert.Equal(t, "a.example.com", to(), "no listener is known")
		paired, alone := k.Share(), k.Share()
		_, err := alone.Listen(port(9443), nil, options)
		require.NoError(t, err)
		_, err = paired.Listen(port(8443), port(8000), options)
		require.NoError(t, err)
		assert.Equal(t, "a.example.com:9443", to(), "the other has a plain listener of its own")
		assert.Equal(t, "a.example.com:8443", paired.Authority(q, "a.example.com", "8080"))
		require.NoError(t, alone.Release(func() {}))
		assert.Equal(t, "a.example.com:8443", to())
		require.NoError(t, paired.Release(func() {}))
		assert.Equal(t, "a.example.com", to())
	})
}
