package acmetest_test

import (
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/acmetest"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// rewrite changes certificate files whose names end in suffix.
func (p *proxy) rewrite(t testing.TB, suffix string, by func([]byte) []byte) {
	t.Helper()
	keys, err := p.r.TLS.Storage.List(t.Context(), "certificates", true)
	require.NoError(t, err)
	n := 0
	for _, key := range keys {
		if !strings.HasSuffix(key, suffix) {
			continue
		}
		n++
		b, err := p.r.TLS.Storage.Load(t.Context(), key)
		require.NoError(t, err)
		require.NoError(t, p.r.TLS.Storage.Store(t.Context(), key, by(b)))
	}
	require.NotZero(t, n)
}

// certificates.md, 27: if the intermediate is missing, the chain is ordered
// again, once.
func TestAnIncompleteChainIsOrderedAgain(t *testing.T) {
	p := run(t, acmetest.Options{}, nil, "a.example.com")
	p.await(t)
	first, err := p.shake("a.example.com")
	require.NoError(t, err)
	p.stop()
	orders := p.ca.Seen("/order-plz")
	p.rewrite(t, ".crt", func(b []byte) []byte {
		_, rest := pem.Decode(b)
		require.Contains(t, string(rest), "BEGIN CERTIFICATE")
		return b[:len(b)-len(rest)]
	})
	p.restart(t)
	p.await(t)
	second, err := p.shake("a.example.com")
	require.NoError(t, err)
	assert.NotEqual(t, first.SerialNumber, second.SerialNumber)
	assert.Equal(t, orders+1, p.ca.Seen("/order-plz"))
	p.stop()
	p.restart(t)
	p.await(t)
	assert.Equal(t, orders+1, p.ca.Seen("/order-plz"))
}

// certificates.md, 27: damaged metadata causes no new order. Once it is
// repaired, the CA can be asked for its renewal time, and certmagic can renew.
func TestDamagedMetadataCausesNoOrderAndPreventsNoRenewal(t *testing.T) {
	p := run(t, acmetest.Options{}, nil, "a.example.com")
	p.await(t)
	first, err := p.shake("a.example.com")
	require.NoError(t, err)
	p.stop()
	orders := p.ca.Seen("/order-plz")
	p.rewrite(t, ".json", func([]byte) []byte { return []byte("damaged") })
	p.restart(t)
	p.await(t)
	same, err := p.shake("a.example.com")
	require.NoError(t, err)
	assert.Equal(t, first.SerialNumber, same.SerialNumber)
	assert.Equal(t, orders, p.ca.Seen("/order-plz"))
	p.stop()

	p.rewrite(t, ".json", func([]byte) []byte { return []byte("damaged") })
	p.ca.SuggestRenewal(t, first, time.Now().Add(-time.Hour), time.Now().Add(-time.Minute))
	p.restart(t)
	proxytest.Eventually(t, "another certificate is served", func() bool {
		next, err := p.shake("a.example.com")
		return err == nil && next.SerialNumber.Cmp(first.SerialNumber) != 0
	})
	assert.Equal(t, orders+1, p.ca.Seen("/order-plz"))
}
