package certs_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// hanging is a hook of an issuer that never answers.
func hanging(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }

// hangs returns an issuer that never answers.
func hangs(t testing.TB) *fakeIssuer {
	t.Helper()
	ca := newIssuer(t, "ca", day(90))
	ca.hook(hanging)
	return ca
}

// crowd makes n handshakes for host wait, and returns a function that counts
// those that failed.
func crowd(t testing.TB, m *certs.Manager, host string, n int) (failed func() int) {
	t.Helper()
	var mu sync.Mutex
	count := 0
	for range n {
		go func() {
			if _, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: host}); err != nil {
				mu.Lock()
				defer mu.Unlock()
				count++
			}
		}()
	}
	synctest.Wait()
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return count
	}
}

func statusOf(m *certs.Manager, host string) (found certs.Status) {
	for _, s := range m.Statuses() {
		if s.Host == host {
			found = s
		}
	}
	return found
}

func TestAWaitUnderAForeignServerEndsAfterTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := start(t, with(hangs(t)), "a.example.com")
		synctest.Wait()
		begin := time.Now()
		_, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: "a.example.com"})
		assert.ErrorContains(t, err, `no certificate for "a.example.com" yet`)
		assert.Equal(t, 10*time.Second, time.Since(begin))
	})
}

func TestTheHandshakeThatBeginsAnOrderOnDemandWaitsLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := start(t, onDemand(t, &policy{}, hangs(t)), "*")
		var waited [2]time.Duration
		var wg sync.WaitGroup
		for i := range waited {
			wg.Go(func() {
				begin := time.Now()
				_, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: "customer.example.com"})
				assert.Error(t, err)
				waited[i] = time.Since(begin)
			})
			synctest.Wait()
		}
		wg.Wait()
		assert.Equal(t, [2]time.Duration{30 * time.Second, 10 * time.Second}, waited)
	})
}

func TestAHandshakeSetsNoDeadlineOfItsOwn(t *testing.T) {
	m, _ := start(t, onDemand(t, &policy{}, newIssuer(t, "ca", day(90))), "*")
	client, server := net.Pipe()
	defer client.Close()
	go func() {
		_ = tls.Client(client, &tls.Config{ServerName: "customer.example.com", InsecureSkipVerify: true}).Handshake()
	}()
	seen := &deadlines{Conn: server}
	require.NoError(t, tls.Server(seen, m.TLSConfig()).Handshake())
	assert.Zero(t, seen.set, "deadlines that were set, which end the connection later")
}

// deadlines counts the deadlines that are set on a connection.
type deadlines struct {
	net.Conn
	set int
}

func (d *deadlines) SetDeadline(t time.Time) error      { d.set++; return d.Conn.SetDeadline(t) }
func (d *deadlines) SetReadDeadline(t time.Time) error  { d.set++; return d.Conn.SetReadDeadline(t) }
func (d *deadlines) SetWriteDeadline(t time.Time) error { d.set++; return d.Conn.SetWriteDeadline(t) }

func TestWaitersOfAHostAreLimitedAndRefusalsAreLoggedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(logBuffer)
		o := onDemand(t, &policy{}, hangs(t))
		o.Logger = log.logger(slog.LevelWarn)
		m, _ := start(t, o, "a.example.com", "*")
		failed := crowd(t, m, "a.example.com", 64)
		assert.Zero(t, failed())
		for range 100 {
			_, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: "a.example.com"})
			require.ErrorContains(t, err, "too many handshakes are waiting")
		}
		s := statusOf(m, "a.example.com")
		assert.Equal(t, []int{64, 100}, []int{s.Waiting, s.Refused})
		assert.Equal(t, 1, strings.Count(log.String(), "handshakes refused"))
		assert.Contains(t, log.String(), "host=a.example.com refused=1 waiting=64")

		customers := crowd(t, m, "customer.example.com", 70) // a name that is no host yet
		assert.Equal(t, 6, customers())
		time.Sleep(61 * time.Second)
		assert.Equal(t, 4, strings.Count(log.String(), "handshakes refused"))
		assert.Contains(t, log.String(), "host=a.example.com refused=99 waiting=0")
		assert.Contains(t, log.String(), "host=customer.example.com refused=5 waiting=0")
		assert.Equal(t, 64, failed())
		time.Sleep(time.Minute)
		s = statusOf(m, "a.example.com")
		assert.Equal(t, []int{0, 0}, []int{s.Waiting, s.Refused})
	})
}

func TestWaitersOfManyHostsShareTheLimitFairly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := start(t, with(hangs(t)), names("h%d.example.com", 40)...)
		for i := range 16 {
			assert.Zero(t, crowd(t, m, fmt.Sprintf("h%d.example.com", i), 64)())
		}
		for i := 16; i < 40; i++ {
			assert.Zero(t, crowd(t, m, fmt.Sprintf("h%d.example.com", i), 20)(), "each finds room")
		}
		total := 0
		for _, s := range m.Statuses() {
			total += s.Waiting
			assert.GreaterOrEqual(t, s.Waiting, 20, s.Host)
		}
		assert.Equal(t, 1_024, total)
		time.Sleep(11 * time.Second)
		assert.Zero(t, statusOf(m, "h0.example.com").Waiting)
	})
}

func TestAllWaitersGetTheCertificateWhenItIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		ca.hook(func(context.Context, string) error { time.Sleep(2 * time.Second); return nil })
		m, _ := start(t, with(ca), "a.example.com")
		begin := time.Now()
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				leaf, err := shake(t, m, "a.example.com")
				if assert.NoError(t, err) {
					assert.Equal(t, []string{"a.example.com"}, leaf.DNSNames)
				}
			})
		}
		wg.Wait()
		assert.Equal(t, 2*time.Second, time.Since(begin))
	})
}

func TestAnExpiredCertificateIsServedAtOnceWhileTheCAHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", 3*time.Hour)
		o := with(ca)
		o.Storage = newMemStorage()
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		ca.hook(hanging)
		time.Sleep(4 * time.Hour)
		for what, m := range map[string]func() *certs.Manager{
			"in memory":  func() *certs.Manager { return m },
			"in storage": func() *certs.Manager { m, _ := start(t, o, "a.example.com"); return m },
		} {
			m := m()
			begin := time.Now()
			for range 100 {
				leaf, err := shake(t, m, "a.example.com")
				require.NoError(t, err)
				assert.True(t, time.Now().After(leaf.NotAfter))
			}
			assert.Zero(t, time.Since(begin), what)
		}
		ca.unhook()
		// 5 for an attempt that hangs, and a pause of up to 12 after it
		time.Sleep(18 * time.Minute)
		leaf, err := shake(t, m, "a.example.com")
		require.NoError(t, err)
		assert.True(t, time.Now().Before(leaf.NotAfter), "the renewal went on meanwhile")
	})
}

// After a machine wakes up, the first browser gets the new certificate.
func TestAHandshakeWaitsBrieflyForTheLocalCAIfACertificateHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemStorage()
		m, _ := start(t, certs.Options{Storage: storage}, "a.localhost")
		require.NoError(t, m.Await(t.Context()))
		require.NoError(t, m.Close())
		time.Sleep(day(1))
		m, _ = start(t, certs.Options{Storage: storage}, "a.localhost")
		leaf, err := shake(t, m, "a.localhost")
		require.NoError(t, err)
		assert.True(t, time.Now().Before(leaf.NotAfter))

		require.NoError(t, m.Close())
		time.Sleep(day(1))
		storage.hook(func(verb, key string) error {
			if verb == "lock" || strings.Contains(key, "localca/") {
				time.Sleep(5 * time.Second)
			}
			return nil
		})
		m, _ = start(t, certs.Options{Storage: storage}, "a.localhost")
		begin := time.Now()
		leaf, err = shake(t, m, "a.localhost")
		require.NoError(t, err)
		assert.True(t, time.Now().After(leaf.NotAfter))
		assert.Equal(t, 250*time.Millisecond, time.Since(begin))
		require.NoError(t, m.Close())
		time.Sleep(time.Minute) // until storage calls have ended
	})
}
