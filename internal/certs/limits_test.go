package certs_test

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// limitOf is the answer of a CA whose limit is used up until then.
func limitOf(what string, until time.Time) acme.Problem {
	return acme.Problem{Status: http.StatusTooManyRequests, Type: acme.ProblemTypeRateLimited,
		Detail: what + ", retry after " + until.UTC().Format("2006-01-02 15:04:05 MST") + ": see https://letsencrypt.org/docs/rate-limits/"}
}

func TestALimitIsReadFromTheCAsText(t *testing.T) {
	for detail, want := range map[string]string{
		"too many new orders (300) from this account in the last 3h0m0s":                                                  "account",
		"Error creating new order :: too many currently pending authorizations":                                           "account",
		"too many new registrations (10) from this IP address in the last 3h0m0s":                                         "address",
		"too many new registrations (500) from this /48 subnet of IPv6 addresses in the last 3h0m0s":                      "address",
		`too many certificates (50) already issued for "example.co.uk" in the last 168h0m0s`:                              "domain example.co.uk",
		`too many certificates (50) already issued for "other.org" in the last 168h0m0s`:                                  "domain example.co.uk",
		"too many certificates already issued for: example.co.uk":                                                         "domain example.co.uk",
		"too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s":                 "host a.b.example.co.uk",
		"too many certificates (5) already issued for this exact set of domains in the last 168 hours: a.b.example.co.uk": "host a.b.example.co.uk",
		`too many failed authorizations (5) for "a.b.example.co.uk" in the last 1h0m0s`:                                   "host a.b.example.co.uk",
		"Your account is temporarily prevented from requesting certificates for a.b.example.co.uk and possibly others.":   "host a.b.example.co.uk",
		"something else":        "host a.b.example.co.uk",
		"":                      "host a.b.example.co.uk",
		"already issued for \"": "domain example.co.uk",
	} {
		assert.Equal(t, want, certs.LimitAbout(acme.Problem{Status: http.StatusTooManyRequests, Detail: detail}, "a.b.example.co.uk"), detail)
	}
	for _, p := range []acme.Problem{
		{Status: http.StatusServiceUnavailable, Type: acme.ProblemTypeRateLimited, Detail: "Service busy; retry later."},
		{Status: http.StatusTooManyRequests, Type: acme.ProblemTypeRateLimited, Detail: "Service busy; retry later."},
		{Status: http.StatusForbidden, Type: acme.ProblemTypeUnauthorized, Detail: "too many new orders"},
	} {
		assert.Empty(t, certs.LimitAbout(p, "a.example.com"), p.Detail)
	}
}

// A busy CA says something about its state, not about the number of our
// requests.
func TestABusyCAIsAskedAgainSoon(t *testing.T) {
	busy := acme.Problem{Status: http.StatusTooManyRequests, Type: acme.ProblemTypeRateLimited, Detail: "Service busy; retry later."}
	assert.LessOrEqual(t, certs.Backoff(1, busy, 0), 6*time.Second)
}

// A limitedCA is an issuer with a limit that applies to some hosts.
type limitedCA struct {
	*fakeIssuer
	mu      sync.Mutex
	refused []string
}

func newLimitedCA(t *testing.T, refuse func(host string) error) *limitedCA {
	ca := &limitedCA{fakeIssuer: newIssuer(t, "ca", day(90))}
	ca.hook(func(_ context.Context, host string) error {
		err := refuse(host)
		if err != nil {
			ca.mu.Lock()
			defer ca.mu.Unlock()
			ca.refused = append(ca.refused, host)
		}
		return err
	})
	return ca
}

func (ca *limitedCA) refusals() int {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return len(ca.refused)
}

// The 50 certificates a week for one domain are used up: other domains of the
// server are not affected, and the CA is not contacted for each host of the
// domain.
func TestALimitOfADomainHoldsOnlyItsHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		until := time.Now().Add(30 * time.Hour)
		ca := newLimitedCA(t, func(host string) error {
			if strings.HasSuffix(host, ".crowd.org") && time.Now().Before(until) {
				return limitOf(`too many certificates (50) already issued for "crowd.org" in the last 168h0m0s`, until)
			}
			return nil
		})
		hosts := append(names("h%d.crowd.org", 200), names("h%d.example.com", 50)...)
		m, _ := start(t, certs.Options{Public: []certmagic.Issuer{ca}}, hosts...)
		begin := time.Now()
		require.NoError(t, m.Await(t.Context(), names("h%d.example.com", 50)...))
		assert.Less(t, time.Since(begin), 10*time.Minute)
		assert.Less(t, ca.refusals(), 20, "those behind the first few are held")
		time.Sleep(time.Until(until) - time.Minute)
		assert.Less(t, ca.refusals(), 40, "one is let through every 6 h")
		for _, s := range m.Statuses() {
			assert.LessOrEqual(t, s.Attempts, 6, "%s: to be held is no attempt", s.Host)
		}
		time.Sleep(7 * time.Hour)
		require.NoError(t, m.Await(t.Context()))
	})
}

// A limit that a CA reports for 144 h is tried after 6 h, or after the 3 h of
// its window, with one order.
func TestAPauseIsClampedAndEndsWithOneOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		ca := newLimitedCA(t, func(string) error {
			if time.Since(begin) < 12*time.Hour+30*time.Minute {
				return limitOf("too many new orders (300) from this account in the last 3h0m0s", begin.Add(144*time.Hour))
			}
			return nil
		})
		m, _ := start(t, certs.Options{Public: []certmagic.Issuer{ca}}, names("h%d.example%[1]d.com", 100)...)
		time.Sleep(5 * time.Hour)
		first := ca.refusals()
		assert.LessOrEqual(t, first, 10)
		time.Sleep(3 * time.Hour)
		assert.LessOrEqual(t, ca.refusals()-first, 2)
		time.Sleep(12 * time.Hour)
		assert.LessOrEqual(t, ca.refusals()-first, 4)
		// not the 144 h that the CA reported
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
		defer cancel()
		require.NoError(t, m.Await(ctx))
	})
}

// 900 new hosts, and a CA that allows 300 orders in three hours but reports
// that its limit lasts for days.
func TestALimitIsTestedWhenItsWindowIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		orders := newWindow(300, 3*time.Hour)
		ca := newLimitedCA(t, func(string) error { return nil })
		ca.hook(func(context.Context, string) error {
			ca.mu.Lock()
			defer ca.mu.Unlock()
			if until, full := orders.full("account"); full {
				ca.refused = append(ca.refused, "")
				return limitOf("too many new orders (300) from this account in the last 3h0m0s", until.Add(5*24*time.Hour))
			}
			orders.take("account")
			return nil
		})
		m, _ := start(t, with(ca), names("h%d.example%[1]d.com", 900)...)
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Hour+30*time.Minute)
		defer cancel()
		require.NoError(t, m.Await(ctx))
		assert.LessOrEqual(t, ca.refusals(), 2*maxUnderWay, "each time, those under way")
	})
}

// New hosts have used up the limit of new orders, for a week: certificates in
// use are renewed anyway when they are due.
func TestDueRenewalsAreNeverHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newLimitedCA(t, func(host string) error {
			if strings.HasPrefix(host, "new") {
				return limitOf("too many new orders (300) from this account in the last 3h0m0s", time.Now().Add(144*time.Hour))
			}
			return nil
		})
		ca.life = day(6)
		healthy := names("h%d.example.com", 20)
		m, r := start(t, certs.Options{Public: []certmagic.Issuer{ca}}, healthy...)
		require.NoError(t, m.Await(t.Context()))
		due := statusOf(m, healthy[0]).RenewAt
		time.Sleep(time.Until(due) - 2*time.Minute)
		r.add(names("new%d.example.com", 100)...)
		time.Sleep(time.Minute)
		require.NotZero(t, ca.refusals(), "the account is held, for 6 h")
		time.Sleep(10 * time.Minute)
		for _, host := range healthy {
			assert.WithinRange(t, statusOf(m, host).NotBefore, due.Add(-time.Minute), due.Add(9*time.Minute), host)
		}
	})
}

// If the first issuer is held, the next one issues without waiting.
func TestAnIssuerThatALimitHoldsIsSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newLimitedCA(t, func(string) error {
			return limitOf("too many new orders (300) from this account", time.Now().Add(time.Hour))
		})
		other := newIssuer(t, "other", day(90))
		begin := time.Now()
		m, _ := start(t, certs.Options{Public: []certmagic.Issuer{ca, other}}, names("h%d.example.com", 20)...)
		require.NoError(t, m.Await(t.Context()))
		assert.Less(t, time.Since(begin), time.Minute)
		assert.LessOrEqual(t, ca.refusals(), 10)
	})
}

// Held hosts do not use up the pace of others.
func TestHeldHostsDoNotSlowOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newLimitedCA(t, func(host string) error {
			if strings.HasSuffix(host, ".crowd.org") {
				return limitOf(`too many certificates (50) already issued for "crowd.org"`, time.Now().Add(100*time.Hour))
			}
			return nil
		})
		crowd := names("h%d.crowd.org", 1000)
		m, r := start(t, certs.Options{Public: []certmagic.Issuer{ca}}, crowd...)
		time.Sleep(7 * time.Hour)
		r.set(append(crowd, "a.example.com")...)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, m.Await(ctx, "a.example.com"))
	})
}

// An order that was let through can succeed after another one has run into the
// limit again.
func TestAnOrderThatWasLetThroughDoesNotEndALaterLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := certs.NewHolds()
		h.Set(time.Now().Add(time.Hour))
		require.Nil(t, h.Enter("a.example.com"))
		time.Sleep(time.Hour)
		leave := h.Enter("a.example.com")
		require.NotNil(t, leave)
		require.Nil(t, h.Enter("b.example.com"), "one at a time")
		h.Set(time.Now().Add(time.Hour)) // by a renewal, which is never held
		leave(nil)
		assert.Nil(t, h.Enter("b.example.com"))
		time.Sleep(time.Hour)
		leave = h.Enter("b.example.com")
		require.NotNil(t, leave)
		leave(nil)
		assert.NotNil(t, h.Enter("c.example.com"))
		assert.NotNil(t, h.Enter("d.example.com"))
	})
}

func TestAnOrderThatTheCAHasNotSeenEndsNoLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := certs.NewHolds()
		h.Set(time.Now().Add(time.Hour))
		time.Sleep(time.Hour)
		leave := h.Enter("a.example.com")
		require.NotNil(t, leave)
		leave(certs.ErrNotAsked) // another process has the certificate
		leave = h.Enter("b.example.com")
		require.NotNil(t, leave, "the next one may ask")
		assert.Nil(t, h.Enter("c.example.com"), "one at a time")
		leave(nil)
		assert.NotNil(t, h.Enter("c.example.com"))
		assert.NotNil(t, h.Enter("d.example.com"))
	})
}

// A host that waits for a limit has not failed. Still, the program and its log
// are told, once.
func TestAHostThatALimitHoldsIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		until := time.Now().Add(30 * time.Hour)
		ca := newLimitedCA(t, func(string) error {
			if time.Now().Before(until) {
				return limitOf(`too many certificates (50) already issued for "crowd.org" in the last 168h0m0s`, until)
			}
			return nil
		})
		var logs logBuffer
		var seen []certs.Status
		o := with(ca)
		o.Logger = logs.logger(slog.LevelInfo)
		o.Observe = func(s certs.Status) { seen = append(seen, s) }
		m, r := start(t, o, "first.crowd.org")
		time.Sleep(time.Minute)
		require.Equal(t, 1, ca.refusals())
		r.add("second.crowd.org")
		time.Sleep(time.Minute)
		s, _ := m.Status("second.crowd.org")
		assert.Equal(t, certs.Pending, s.State)
		assert.ErrorContains(t, s.Err, "a rate limit of the CA")
		assert.WithinDuration(t, time.Now().Add(6*time.Hour), s.NextTry, time.Hour)

		time.Sleep(4 * time.Hour)
		synctest.Wait()
		of := slices.DeleteFunc(slices.Clone(seen), func(s certs.Status) bool { return s.Host != "second.crowd.org" })
		require.Len(t, of, 1)
		assert.Equal(t, s.NextTry, of[0].NextTry)
		assert.Equal(t, certs.Pending, of[0].State)
		const line = `level=INFO msg="certificate delayed" host=second.crowd.org`
		assert.Equal(t, 1, strings.Count(logs.String(), line), logs.String())
		assert.Contains(t, logs.String(), "next_try=")
		time.Sleep(40 * time.Hour)
		require.NoError(t, m.Await(t.Context()))
		assert.LessOrEqual(t, strings.Count(logs.String(), "has to wait"), 2, "once a host: %s", logs.String())
	})
}

// Thousands of waiting hosts do not lead to thousands of log lines.
func TestManyHeldHostsCauseFewLogLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		until := time.Now().Add(3 * time.Hour)
		ca := newLimitedCA(t, func(string) error {
			if time.Now().Before(until) {
				return limitOf("too many new orders (300) from this account in the last 3h0m0s", until)
			}
			return nil
		})
		var logs logBuffer
		o := with(ca)
		o.Logger = logs.logger(slog.LevelInfo)
		start(t, o, names("h%d.example.com", 2000)...)
		time.Sleep(2 * time.Hour)
		assert.Contains(t, logs.String(), "certificates of more hosts delayed")
		assert.Less(t, strings.Count(logs.String(), "\n"), 120)
	})
}

// The policy's first answer no longer counts when a limit ends hours later.
func TestAHostOnDemandThatALimitHeldIsAskedAboutAgain(t *testing.T) {
	for what, deny := range map[string]bool{"allowed still": false, "no longer allowed": true} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				free := time.Now().Add(3 * time.Hour)
				ca := newLimitedCA(t, func(string) error {
					if time.Now().Before(free) {
						return limitOf("too many new orders (300) from this account in the last 3h0m0s", free)
					}
					return nil
				})
				p := new(policy)
				o := with(ca)
				o.Policy = p.allow
				m, _ := start(t, o, "*")
				// the first order runs into the limit
				for _, host := range []string{"customer0.example.com", "customer1.example.com"} {
					_, err := shake(t, m, host)
					require.Error(t, err)
				}
				p.mu.Lock()
				p.deny = deny
				p.mu.Unlock()
				time.Sleep(5 * time.Hour)
				if deny {
					assert.Zero(t, ca.count("customer1.example.com"))
					assert.Equal(t, 2, p.count("customer1.example.com"))
					return
				}
				assert.Equal(t, 1, ca.count("customer1.example.com"))
			})
		})
	}
}
