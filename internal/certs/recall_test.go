package certs_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

func TestStoredHostsOnDemandShowAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(policy)
		ca := newIssuer(t, "ca", day(90))
		o := onDemand(t, p, ca)
		o.Storage = newMemStorage()
		m, _ := start(t, o, "*", "named.example.com")
		for _, host := range []string{"customer1.example.com", "customer2.example.com"} {
			_, err := shake(t, m, host)
			require.NoError(t, err)
		}
		require.NoError(t, m.Await(t.Context()))
		require.NoError(t, m.Close())

		m, r := start(t, o, "*", "named.example.com")
		synctest.Wait()
		s := m.Statuses()
		require.Len(t, s, 3)
		assert.Equal(t, "customer1.example.com", s[0].Host)
		assert.True(t, s[0].OnDemand)
		assert.Equal(t, certs.Valid, s[0].State)
		assert.Equal(t, 2, p.total(), "the policy is not asked again for what exists")
		r.remove("*")
		time.Sleep(time.Second)
		assert.Len(t, m.Statuses(), 1, "they go with their route")
	})
}

// Storage may become available after the process starts: its hosts are served
// without being requested first.
func TestStoredHostsOnDemandShowAfterAStartWithoutStorage(t *testing.T) {
	for what, c := range map[string]struct {
		fails  func(verb string) bool
		notice time.Duration
	}{
		"nothing works": {func(string) bool { return true }, time.Minute},
		"no lists":      {func(verb string) bool { return verb == "list" }, 10 * time.Minute},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := newMemStorage()
				o := onDemand(t, new(policy), newIssuer(t, "ca", day(90)))
				o.Storage = storage
				m, _ := start(t, o, "*")
				_, err := shake(t, m, "customer1.example.com")
				require.NoError(t, err)
				require.NoError(t, m.Close())

				var lists atomic.Int64
				storage.hook(func(verb, _ string) error {
					if !c.fails(verb) {
						return nil
					}
					if verb == "list" {
						lists.Add(1)
					}
					return errors.New("the disk is not mounted yet")
				})
				m, _ = start(t, o, "*")
				time.Sleep(10 * time.Minute)
				require.Empty(t, m.Statuses())
				assert.Less(t, lists.Load(), int64(30), "it is not asked again and again")
				storage.hook(func(string, string) error { return nil })
				time.Sleep(c.notice)
				require.Len(t, m.Statuses(), 1)
				assert.Equal(t, certs.Valid, m.Statuses()[0].State)
			})
		})
	}
}

func TestRenewTriesNowWhateverTheBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		ca.hook(failing("DNS is wrong"))
		m, _ := start(t, with(ca), "a.example.com")
		time.Sleep(day(1))
		s, ok := m.Status("a.example.com")
		require.True(t, ok)
		require.Equal(t, certs.Failed, s.State)
		require.NotZero(t, s.Attempts)

		ca.unhook()
		require.NoError(t, m.Renew("a.example.com"))
		_, err := shake(t, m, "a.example.com")
		require.NoError(t, err, "a handshake waits for it again")
		s, _ = m.Status("a.example.com")
		assert.Equal(t, certs.Valid, s.State)
		assert.Zero(t, s.Attempts)
	})
}

func TestRenewRenewsWhatIsNotDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		m, _ := start(t, with(ca), "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		before, _ := m.Status("a.example.com")
		require.NoError(t, m.Renew("a.example.com"))
		synctest.Wait()
		after, _ := m.Status("a.example.com")
		assert.NotEqual(t, before.Serial, after.Serial)
		assert.Len(t, ca.issued(), 2)
		time.Sleep(day(50))
		assert.Len(t, ca.issued(), 2, "once")
	})
}

func TestRenewReturnsWhyItCannotRenewAHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := start(t, with(newIssuer(t, "ca", day(90))), "a.example.com", "*")
		require.ErrorContains(t, m.Renew("b.example.com"), "TLS.HostPolicy is not set")
		require.ErrorContains(t, m.Renew("*.example.com"), `no route serves "*.example.com"`)
		require.ErrorContains(t, m.Renew("b.localhost"), "in the handshake")
		_, ok := m.Status("b.example.com")
		assert.False(t, ok)
		require.NoError(t, m.Close())
		require.ErrorContains(t, m.Renew("a.example.com"), "closed")
	})
}

func TestRenewOfAHostBelowAWildcardRenewsTheWildcard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		m, _ := start(t, with(ca), "*.example.com")
		require.NoError(t, m.Await(t.Context()))
		require.NoError(t, m.Renew("a.example.com"))
		synctest.Wait()
		assert.Equal(t, []string{"*.example.com", "*.example.com"}, ca.issued())
	})
}

func TestRenewCallsThePolicyForAHostWithoutARouteOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, ca := &policy{deny: true}, newIssuer(t, "ca", day(90))
		m, _ := start(t, onDemand(t, p, ca), "*")
		_, err := shake(t, m, "customer1.example.com")
		require.ErrorContains(t, err, "unrecognized name")
		p.mu.Lock()
		p.deny = false
		p.mu.Unlock()
		require.NoError(t, m.Renew("customer1.example.com"), "though it was refused a moment ago")
		require.NoError(t, m.Renew("stranger.example.com"))
		synctest.Wait()
		assert.Equal(t, 2, p.count("customer1.example.com"))
		assert.Equal(t, 1, p.count("stranger.example.com"))
		assert.Equal(t, []string{"customer1.example.com"}, ca.issued())
	})
}

func TestRenewSaysThatNoIssuerSignsAHostWithoutARouteOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(policy)
		o := with(newIssuer(t, "ca", day(90)))
		o.Public, o.Policy = []certmagic.Issuer{&certmagic.ACMEIssuer{}}, p.allow
		m, _ := start(t, o, "*")
		require.ErrorContains(t, m.Renew("customer1.lan"), `no public CA signs "customer1.lan"`)
		assert.Zero(t, p.count("customer1.lan"))
	})
}

func TestForgetForgetsARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &policy{deny: true}
		m, _ := start(t, onDemand(t, p, newIssuer(t, "ca", day(90))), "*")
		_, err := shake(t, m, "customer1.example.com")
		require.ErrorContains(t, err, "unrecognized name")
		p.mu.Lock()
		p.deny = false
		p.mu.Unlock()
		_, err = shake(t, m, "customer1.example.com")
		require.ErrorContains(t, err, "unrecognized name", "it is remembered")
		m.Forget("customer1.example.com")
		_, err = shake(t, m, "customer1.example.com")
		require.NoError(t, err)
	})
}

func TestRenewWhileThePolicyFailsIsRetriedAfterItsBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		var broken atomic.Bool
		o := with(newIssuer(t, "ca", day(90)))
		o.Policy = func(context.Context, string) error {
			calls.Add(1)
			if broken.Load() {
				return errors.New("the database is down")
			}
			return nil
		}
		m, _ := start(t, o, "*", "good.example.com")
		_, err := shake(t, m, "a.example.com")
		require.NoError(t, err)
		broken.Store(true)
		before := calls.Load()
		require.NoError(t, m.Renew("a.example.com"))
		time.Sleep(10 * time.Minute)
		assert.LessOrEqual(t, calls.Load()-before, int64(11), "once a minute")
		_, err = shake(t, m, "a.example.com")
		require.NoError(t, err)
	})
}

// If storage cannot list the hosts of one issuer, those of another are still
// found.
func TestStoredHostsOfAnIssuerShowEvenIfThoseOfAnotherCannotBeListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemStorage()
		first, second := newIssuer(t, "first", day(90)), newIssuer(t, "second", day(90))
		first.hook(failing("it is down"))
		o := onDemand(t, new(policy), first)
		o.Public, o.Storage = append(o.Public, second), storage
		m, _ := start(t, o, "*")
		_, err := shake(t, m, "customer1.example.com")
		require.NoError(t, err)
		require.NoError(t, m.Close())

		var refused atomic.Int64
		storage.hook(func(verb, key string) error {
			if verb != "list" || !strings.Contains(key, "first") {
				return nil
			}
			refused.Add(1)
			return errors.New("permission denied")
		})
		m, _ = start(t, o, "*")
		time.Sleep(time.Minute)
		require.NotZero(t, refused.Load())
		require.Len(t, m.Statuses(), 1)
		assert.Equal(t, certs.Valid, m.Statuses()[0].State)
	})
}
