package certs_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// No limit holds a renewal that is due. But a CA that has reported the end of
// its limit gets the renewal only a few times until then, however soon the
// certificate expires, and whatever another CA does.
func TestADueRenewalIsTriedAFewTimesDuringALimit(t *testing.T) {
	for what, fallback := range map[string]func(*testing.T) []certmagic.Issuer{
		"at the only CA": func(*testing.T) []certmagic.Issuer { return nil },
		"before a CA that is down": func(t *testing.T) []certmagic.Issuer {
			down := newIssuer(t, "down", day(90))
			down.hook(failing("connection refused"))
			return []certmagic.Issuer{down}
		},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := new(attemptLog)
				var limited atomic.Bool
				ca := newLimitedCA(t, func(host string) error {
					if !limited.Load() {
						return nil
					}
					log.add()
					return limitOf(`too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s`,
						time.Now().Add(144*time.Hour))
				})
				ca.life = day(6)
				m, _ := start(t, certs.Options{Public: append([]certmagic.Issuer{ca}, fallback(t)...)}, "a.example.com")
				require.NoError(t, m.Await(t.Context(), "a.example.com"))
				limited.Store(true)
				end := statusOf(m, "a.example.com").NotAfter

				time.Sleep(time.Until(end) - 6*time.Hour)
				assert.NotZero(t, log.most(day(6)), "the renewal is tried, more often than the limit ends")
				time.Sleep(12 * time.Hour)
				assert.LessOrEqual(t, log.most(6*time.Hour), 6)
				assert.LessOrEqual(t, log.most(29*time.Minute), 1)
				limited.Store(false)
				time.Sleep(7 * time.Hour)
				assert.Equal(t, certs.Valid, statusOf(m, "a.example.com").State)
			})
		})
	}
}

// If a limit ends before the certificate expires, the renewal comes when the
// limit ends: not earlier, and not much later.
func TestADueRenewalComesWhenItsLimitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var until atomic.Int64 // in unix seconds
		ca := newLimitedCA(t, func(string) error {
			if end := time.Unix(until.Load(), 0); time.Now().Before(end) {
				return limitOf("too many new orders (300) from this account in the last 3h0m0s", end)
			}
			return nil
		})
		ca.life = day(6)
		m, _ := start(t, with(ca), "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		due := statusOf(m, "a.example.com").RenewAt
		until.Store(due.Add(2 * time.Hour).Unix())
		time.Sleep(time.Until(due) + 119*time.Minute)
		assert.Equal(t, 1, ca.refusals())
		time.Sleep(8 * time.Minute)
		assert.Equal(t, 1, ca.refusals())
		assert.True(t, statusOf(m, "a.example.com").RenewAt.After(due), "it is renewed")
	})
}

// The program can order more than the schedule does.
func TestRenewOrdersInSpiteOfARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var limited atomic.Bool
		ca := newLimitedCA(t, func(string) error {
			if !limited.Load() {
				return nil
			}
			return limitOf("too many new orders (300) from this account in the last 3h0m0s", time.Now().Add(time.Hour))
		})
		ca.life = day(6)
		m, _ := start(t, with(ca), "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		due := statusOf(m, "a.example.com").RenewAt
		limited.Store(true)
		time.Sleep(time.Until(due) + 5*time.Minute)
		require.Equal(t, 1, ca.refusals())
		limited.Store(false)
		require.NoError(t, m.Renew("a.example.com"))
		synctest.Wait()
		assert.True(t, statusOf(m, "a.example.com").RenewAt.After(due))
	})
}
