package certs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// A policy allows customers and counts its calls.
type policy struct {
	mu    sync.Mutex
	asked map[string]int
	slow  time.Duration
	deny  bool
}

func (p *policy) allow(ctx context.Context, host string) error {
	p.mu.Lock()
	if p.asked == nil {
		p.asked = make(map[string]int)
	}
	p.asked[host]++
	slow, deny := p.slow, p.deny
	p.mu.Unlock()
	select {
	case <-time.After(slow):
	case <-ctx.Done():
		return ctx.Err()
	}
	if deny || !strings.HasPrefix(host, "customer") {
		return fmt.Errorf("no customer: %w", certs.ErrNotAllowed)
	}
	return nil
}

func (p *policy) count(host string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[host]
}

func (p *policy) total() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, k := range p.asked {
		n += k
	}
	return n
}

// onDemand returns options for certificates from ca that p allows.
func onDemand(t testing.TB, p *policy, ca *fakeIssuer) certs.Options {
	t.Helper()
	o := with(ca)
	o.Policy = p.allow
	return o
}

// Only with a policy; refusals are cached; each name is decided once.
func TestOnDemandAsksThePolicyOncePerNameAndRemembersARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &policy{slow: time.Second}
		ca := newIssuer(t, "ca", day(90))
		m, _ := start(t, onDemand(t, p, ca), "*")
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				leaf, err := shake(t, m, "customer1.example.com")
				if assert.NoError(t, err) {
					assert.Equal(t, []string{"customer1.example.com"}, leaf.DNSNames)
				}
				_, err = shake(t, m, "stranger.example.com")
				assert.ErrorContains(t, err, "unrecognized name")
			})
		}
		wg.Wait()
		assert.Equal(t, 1, p.count("customer1.example.com"))
		assert.Equal(t, 1, p.count("stranger.example.com"))
		assert.Equal(t, []string{"customer1.example.com"}, ca.issued())
		s := m.Statuses()
		require.Len(t, s, 1)
		assert.True(t, s[0].OnDemand)

		time.Sleep(2 * time.Minute)
		_, err := shake(t, m, "stranger.example.com")
		assert.Error(t, err)
		assert.Equal(t, 2, p.count("stranger.example.com"), "a refusal is forgotten after a minute")
	})
}

func TestWithoutAPolicyNothingIsIssuedOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		m, _ := start(t, with(ca), "*")
		_, err := shake(t, m, "anybody.example.com")
		assert.ErrorContains(t, err, "unrecognized name")
		assert.Empty(t, ca.issued())
	})
}

func TestAFloodOfUnknownNamesIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &policy{slow: time.Second}
		ca := newIssuer(t, "ca", day(90))
		m, _ := start(t, onDemand(t, p, ca), "*")
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				_, err := shake(t, m, fmt.Sprintf("stranger%d.example.com", i))
				assert.Error(t, err)
			})
		}
		wg.Wait()
		assert.LessOrEqual(t, p.total(), 64, "so many decisions at a time, and no queue of them")

		for i := range certs.MaxRefused + 200 {
			m.Refuse(fmt.Sprintf("name%d.example.com", i))
		}
		assert.LessOrEqual(t, m.Refused(), certs.MaxRefused)
		assert.Empty(t, m.Statuses())
		assert.Empty(t, ca.issued())
	})
}

func TestIssuancesOnDemandAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		ca.hook(func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() })
		m, _ := start(t, onDemand(t, new(policy), ca), "*")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for i := range 150 {
			wg.Go(func() { _, _ = shakeContext(ctx, t, m, fmt.Sprintf("customer%d.example.com", i)) })
		}
		wg.Wait()
		assert.LessOrEqual(t, len(m.Statuses()), 64)
	})
}

func TestANameForWhichThePolicyHangsOccupiesOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hanging atomic.Int64
		release := make(chan struct{})
		o := with(newIssuer(t, "ca", day(90)))
		o.Policy = func(_ context.Context, host string) error { // ignores its context
			if host == "stuck.example.com" {
				hanging.Add(1)
				<-release
			}
			return nil
		}
		m, _ := start(t, o, "*")
		for range 80 {
			_, err := shake(t, m, "stuck.example.com")
			require.Error(t, err)
			time.Sleep(20 * time.Second)
		}
		assert.Equal(t, int64(1), hanging.Load())
		_, err := shake(t, m, "a.example.com")
		assert.NoError(t, err, "another name has its answer")
		close(release)
		time.Sleep(20 * time.Second)
		_, err = shake(t, m, "stuck.example.com")
		assert.NoError(t, err, "it is asked again when the call has ended")
	})
}

func TestAPolicyThatHangsOrPanicsNeitherAllowsNorRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &policy{slow: time.Hour}
		m, _ := start(t, onDemand(t, p, newIssuer(t, "ca", day(90))), "*")
		begin := time.Now()
		_, err := shake(t, m, "customer1.example.com")
		assert.ErrorContains(t, err, "internal error")
		assert.Equal(t, 10*time.Second, time.Since(begin))
		p.mu.Lock()
		p.slow = 0
		p.mu.Unlock()
		time.Sleep(5 * time.Second)
		_, err = shake(t, m, "customer1.example.com")
		assert.NoError(t, err, "no answer is not remembered as a refusal")

		o := with(newIssuer(t, "ca", day(90)))
		o.Policy = func(context.Context, string) error { panic("oops") }
		m, _ = start(t, o, "*")
		_, err = shake(t, m, "customer1.example.com")
		assert.ErrorContains(t, err, "internal error")
	})
}

func TestAnOnDemandCertificateIsRenewedWhileItIsUsedAndAllowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := new(policy)
		ca := newIssuer(t, "ca", day(90))
		m, _ := start(t, onDemand(t, p, ca), "*")
		for _, host := range []string{"customer1.example.com", "customer2.example.com"} {
			_, err := shake(t, m, host)
			require.NoError(t, err)
		}
		time.Sleep(day(30))
		_, err := shake(t, m, "customer1.example.com")
		require.NoError(t, err)
		time.Sleep(day(35))
		assert.Equal(t, 2, ca.count("customer1.example.com"))
		assert.Equal(t, 1, ca.count("customer2.example.com"), "no client has asked for it")
		require.Len(t, m.Statuses(), 2, "it is good for weeks yet")
		time.Sleep(day(26))
		require.Len(t, m.Statuses(), 1, "it has expired")

		_, err = shake(t, m, "customer2.example.com")
		require.NoError(t, err, "it comes back when a client asks")

		p.mu.Lock()
		p.deny = true
		p.mu.Unlock()
		_, err = shake(t, m, "customer1.example.com")
		require.NoError(t, err)
		time.Sleep(day(91))
		assert.Empty(t, m.Statuses(), "no longer allowed")
	})
}

func TestAnOnDemandHostEndsWithItsRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, r := start(t, onDemand(t, new(policy), newIssuer(t, "ca", day(90))), "*")
		_, err := shake(t, m, "customer1.example.com")
		require.NoError(t, err)
		r.set("other.example.com")
		_, err = shake(t, m, "customer1.example.com")
		require.ErrorContains(t, err, "unrecognized name")
		require.NoError(t, m.Await(t.Context(), "other.example.com"))
		assert.Len(t, m.Statuses(), 1)
	})
}

// Random names cost one log line a minute if the policy's database is down, and
// none if it refuses them.
func TestAFloodOfNamesDoesNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		var mu sync.Mutex
		answer := certs.ErrNotAllowed
		o := with(newIssuer(t, "ca", day(90)))
		o.Logger = log.logger(slog.LevelInfo)
		o.Policy = func(context.Context, string) error {
			mu.Lock()
			defer mu.Unlock()
			return answer
		}
		m, _ := start(t, o, "*")
		n := 0
		flood := func(err error, minutes int) {
			mu.Lock()
			answer = err
			mu.Unlock()
			for range minutes * 60 {
				n++
				_, err := shake(t, m, fmt.Sprintf("h%d.example.com", n))
				require.Error(t, err)
				time.Sleep(time.Second)
			}
		}
		flood(certs.ErrNotAllowed, 5)
		time.Sleep(day(4))
		assert.Empty(t, log.String(), "the policy did not allow them")

		flood(errors.New("database is down"), 5)
		lines := strings.Count(log.String(), "on-demand decision failed")
		assert.Equal(t, 5, lines, log.String())
		assert.Contains(t, log.String(), "level=WARN")
		assert.Contains(t, log.String(), "database is down")
		assert.Contains(t, log.String(), "failures=60")
		flood(certs.ErrNotAllowed, 1)
		flood(errors.New("database is down"), 1)
		assert.Equal(t, lines+1, strings.Count(log.String(), "on-demand decision failed"), "a failure after a decision is logged again")
		assert.Equal(t, 1, strings.Count(log.String(), "on-demand decisions work again"))
	})
}

// A policy that allows everything lets clients invent hosts, whose orders fail.
func TestAHostThatNoClientAsksForAgainIsGivenUpQuietly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		ca := newIssuer(t, "ca", day(90))
		ca.hook(failing("no such host"))
		o := with(ca)
		o.Logger, o.Policy = log.logger(slog.LevelInfo), always
		m, _ := start(t, o, "*")
		_, err := shake(t, m, "made-up.example.com")
		require.Error(t, err)
		time.Sleep(day(5))
		assert.Empty(t, m.Statuses(), "it has been given up")
		assert.NotContains(t, log.String(), "given up")
		assert.NotContains(t, log.String(), "not allowed")
	})
}
