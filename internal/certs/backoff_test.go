package certs_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

func TestBackoffGrowsByTheKindOfFailure(t *testing.T) {
	refused := fmt.Errorf("wrapped: %w", acme.Problem{Status: 403, Type: acme.ProblemTypeNamespace + "unauthorized"})
	down := acme.Problem{Status: 503}
	network := errors.New("connection refused")
	for _, c := range []struct {
		what string
		n    int
		err  error
		left time.Duration
		want time.Duration
	}{
		{"the network, first", 1, network, 0, 5 * time.Second},
		{"the network, third", 3, network, 0, 20 * time.Second},
		{"the network, often", 1000, network, 0, 10 * time.Minute},
		{"a CA that is down", 1, down, 0, 5 * time.Second},
		{"refused, first", 1, refused, 0, 2 * time.Minute},
		{"refused, fourth", 4, refused, 0, 16 * time.Minute},
		{"refused, often", 1000, refused, 0, 6 * time.Hour},
		{"refused with eight hours left", 1000, refused, 8 * time.Hour, time.Hour},
		{"refused with a second left", 1000, refused, time.Second, 5 * time.Second},
	} {
		for range 100 {
			got := certs.Backoff(c.n, c.err, c.left)
			require.GreaterOrEqual(t, got, c.want*8/10, c.what)
			require.LessOrEqual(t, got, c.want*12/10, c.what)
		}
	}
	// Let's Encrypt allows five failed validations an hour.
	attempts, at := 1, time.Duration(0)
	for n := 1; ; n++ {
		if at += certs.Backoff(n, refused, 0) * 10 / 12; at >= time.Hour {
			break
		}
		attempts++
	}
	assert.LessOrEqual(t, attempts, 6)
}

func TestRetryAfterIsReadFromTheText(t *testing.T) {
	at, ok := certs.RetryAfter("too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, " +
		"retry after 2025-03-12 03:45:00 UTC: see https://letsencrypt.org/docs/rate-limits/#new-certificates-per-exact-set-of-identifiers")
	require.True(t, ok)
	assert.Equal(t, time.Date(2025, 3, 12, 3, 45, 0, 0, time.UTC), at.UTC())
	for _, detail := range []string{"", "retry after ", "retry after a while, please be so kind", "retry after 2025-13-12 03:45:00 UTC"} {
		_, ok := certs.RetryAfter(detail)
		assert.False(t, ok, detail)
	}
}

// A CA's rate limit is waited for. A limit of new orders applies to the
// account, so the other hosts wait too.
func TestRateLimitsPauseTheHostAndThenTheIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, other := newIssuer(t, "ca", day(90)), newIssuer(t, "other", day(90))
		until := time.Now().Add(3 * time.Hour).UTC()
		ca.hook(func(ctx context.Context, _ string) error {
			return acme.Problem{Status: http.StatusTooManyRequests, Type: acme.ProblemTypeRateLimited,
				Detail: "too many new orders, retry after " + until.Format("2006-01-02 15:04:05 MST") + ": see there"}
		})
		o := certs.Options{Public: []certmagic.Issuer{ca}}
		m, r := start(t, o, "h0.example.com")
		synctest.Wait()
		time.Sleep(time.Second)
		s := m.Statuses()[0]
		assert.WithinRange(t, s.NextTry, until, until.Add(10*time.Minute))
		r.set(names("h%d.example.com", 20)...)
		time.Sleep(time.Hour)
		assert.Less(t, len(ca.issued()), 15, "those behind the first few do not try")
		ca.unhook()
		time.Sleep(3 * time.Hour)
		require.NoError(t, m.Await(t.Context()))

		// The next issuer is tried without a pause.
		ca.hook(func(context.Context, string) error { return acme.Problem{Status: http.StatusTooManyRequests} })
		m, _ = start(t, certs.Options{Public: []certmagic.Issuer{ca, other}}, names("h%d.example.com", 20)...)
		begin := time.Now()
		require.NoError(t, m.Await(t.Context()))
		assert.Less(t, time.Since(begin), time.Minute)
	})
}
