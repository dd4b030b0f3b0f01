package acmetest_test

import (
	"crypto/tls"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/acmetest"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// The clients of a new host fill no room that the CA needs when it comes to the same listener for the answer to its challenge.
func TestAChallengeIsAnsweredAmongHundredsOfClientsOfANewHost(t *testing.T) {
	const clients, host = 600, "a.example.com"
	var release func()
	p := run(t, acmetest.Options{HTTPPort: 1}, func(r *hostproxy.Router, ca *acmetest.CA, _ acmetest.Options) {
		release = ca.Hold("/order-plz")
		issuer := ca.Issuer()
		issuer.DisableHTTPChallenge = true
		r.TLS.Issuer = issuer
	}, host)
	var wg sync.WaitGroup
	var mu sync.Mutex
	served, refused := 0, 0
	for range clients {
		wg.Go(func() {
			c, err := tls.DialWithDialer(&net.Dialer{Timeout: proxytest.Patience}, "tcp", p.https,
				&tls.Config{ServerName: host, InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.CurveP256}})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				refused++
				return
			}
			served++
			c.Close()
		})
	}
	proxytest.Eventually(t, "the clients", func() bool { return p.status(host).Refused == clients-64 })
	assert.Equal(t, 64, p.status(host).Waiting)
	<-time.After(2 * time.Second) // a CA that takes its time
	release()
	p.await(t, host)
	wg.Wait()
	assert.Equal(t, 64, served, "each that could wait")
	assert.Equal(t, clients-64, refused)
	assert.Equal(t, 1, p.ca.Seen("/order-plz"), "no validation failed")
	_, err := p.shake(host)
	require.NoError(t, err)
}
