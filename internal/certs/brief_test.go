package certs_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An issuer whose certificates last for seconds, or have already expired, gets
// a bounded number of orders.
func TestCertificatesThatExpireAtOnceGetALimitedNumberOfOrders(t *testing.T) {
	for what, c := range map[string]struct{ age, life time.Duration }{
		"three seconds":      {0, 3 * time.Second},
		"a second":           {0, time.Second},
		"over":               {day(1), -time.Minute},
		"over in one second": {day(90), time.Second},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var logs logBuffer
				ca := newIssuer(t, "hasty-ca", c.life)
				ca.age = c.age
				o := with(ca)
				o.Logger = logs.logger(slog.LevelWarn)
				m, _ := start(t, o, "a.example.com", "b.example.com")
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_ = m.Await(ctx)
				time.Sleep(time.Hour)
				assert.LessOrEqual(t, ca.count("a.example.com"), 361)
				const line = "certificates of an issuer expire too soon"
				assert.Equal(t, 1, strings.Count(logs.String(), line), logs.String())
				assert.Contains(t, logs.String(), "issuer=hasty-ca")
			})
		})
	}
}

// That bound does not affect certificates that last longer.
func TestCertificatesOfHalfAMinuteAreRenewedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs logBuffer
		ca := newIssuer(t, "ca", 30*time.Second)
		o := with(ca)
		o.Logger = logs.logger(slog.LevelWarn)
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		for range 600 {
			time.Sleep(time.Second)
			require.True(t, time.Now().Before(m.Statuses()[0].NotAfter))
		}
		assert.GreaterOrEqual(t, ca.count("a.example.com"), 20)
		assert.NotContains(t, logs.String(), "too soon")
	})
}
