package certs_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

const maxUnderWay = 16 // orders of a Manager in flight

// A downCA is an issuer that does not answer while it is down, and counts the
// orders that it gets meanwhile.
type downCA struct {
	*fakeIssuer
	down  atomic.Bool
	asked atomic.Int64
}

func newDownCA(t *testing.T, answer func(ctx context.Context, host string) error) *downCA {
	ca := &downCA{fakeIssuer: newIssuer(t, "ca", day(90))}
	ca.hook(func(ctx context.Context, host string) error {
		if !ca.down.Load() {
			return nil
		}
		ca.asked.Add(1)
		return answer(ctx, host)
	})
	return ca
}

// The ways in which a CA may not answer.
var silences = map[string]func(ctx context.Context, host string) error{
	"it cannot be reached": func(_ context.Context, host string) error {
		return errors.New("[" + host + "] creating new order: dial tcp 192.0.2.1:443: connect: connection refused")
	},
	"it is too busy": func(context.Context, string) error {
		return newOrder(acme.Problem{Status: 503, Type: acme.ProblemTypeRateLimited, Detail: "Service busy; retry later."})
	},
	"it hangs": func(ctx context.Context, _ string) error {
		<-ctx.Done()
		return newOrder(ctx.Err())
	},
	"it registers no accounts": failing("registering account [] with server: performing request: connection refused"),
}

// newOrder returns an error of a new order, in acmez's words.
func newOrder(err error) error { return fmt.Errorf("creating new order: %w", err) }

// A hundred hosts need certificates of a CA that is down, and the process is
// restarted meanwhile. One order at a time tests whether the CA is back, and
// then all hosts get their certificates.
func TestACAThatIsDownIsAskedByOneHostAtATime(t *testing.T) {
	t.Parallel()
	for what, answer := range silences {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newDownCA(t, answer)
				ca.down.Store(true)
				o := with(ca)
				o.Storage = newMemStorage()
				hosts := names("h%d.example.com", 100)
				for range 2 {
					m, _ := startOnce(t, o, hosts...)
					time.Sleep(10 * time.Hour)
					s := status(t, m, "h7.example.com")
					assert.Equal(t, certs.Failed, s.State)
					require.Error(t, s.Err)
					require.NoError(t, m.Close())
				}
				assert.LessOrEqual(t, int(ca.asked.Load()), 2*(10*60+maxUnderWay+5), "one a minute, and those that are under way when it begins")
				assert.GreaterOrEqual(t, int(ca.asked.Load()), 2*10*60/10)
				m, _ := start(t, o, hosts...)
				time.Sleep(time.Hour)
				ca.down.Store(false)
				// 5 until an order that hangs ends, 12 until the next test, and
				// 2 for the orders
				ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
				defer cancel()
				require.NoError(t, m.Await(ctx))
			})
		})
	}
}

// A CA that does not answer for one host is not down: an issuer of the program
// may know only some hosts, the answer to a challenge may be late, and a host
// may be removed while its order is in flight.
func TestACAThatFailsForSomeHostsIsNotDown(t *testing.T) {
	t.Parallel()
	for what, answer := range map[string]func(ctx context.Context, host string) error{
		"an issuer of the program": failing("no such tenant"),
		"its challenge":            failing("solving challenges: context deadline exceeded"),
		"refused": func(context.Context, string) error {
			return newOrder(acme.Problem{Status: 400, Type: acme.ProblemTypeRejectedIdentifier})
		},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newIssuer(t, "ca", day(90))
				ca.hook(func(ctx context.Context, host string) error {
					if strings.HasPrefix(host, "bad") {
						return answer(ctx, host)
					}
					return nil
				})
				m, r := start(t, with(ca), names("bad%d.example.com", 100)...)
				time.Sleep(time.Hour)
				r.add("good.example.com")
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				require.NoError(t, m.Await(ctx, "good.example.com"))
			})
		})
	}
}

func TestHostsRemovedDuringTheirOrdersDoNotCountAgainstTheCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newDownCA(t, silences["it hangs"])
		ca.down.Store(true)
		hosts := names("h%d.example.com", 10)
		m, r := start(t, with(ca), hosts...)
		time.Sleep(time.Minute)
		require.EqualValues(t, 10, ca.asked.Load())
		r.remove(hosts...)
		synctest.Wait()
		ca.down.Store(false)
		r.add("good.example.com")
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, certs.Valid, status(t, m, "good.example.com").State)
	})
}

// The next issuer is tried immediately, and the host is not held until the
// limit of the other CA ends.
func TestTheNextIssuerIsUsedWhileACAIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newDownCA(t, silences["it cannot be reached"])
		ca.down.Store(true)
		var asked atomic.Int64
		other := newIssuer(t, "other", day(90))
		other.hook(func(_ context.Context, host string) error {
			if host == "a.example.com" {
				return nil
			}
			asked.Add(1)
			return limitOf("too many new orders (300) from this account in the last 3h0m0s", time.Now().Add(3*time.Hour))
		})
		m, r := start(t, certs.Options{Public: []certmagic.Issuer{ca, other}}, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		r.add(names("h%d.example.com", 20)...)
		time.Sleep(time.Hour)
		require.NotZero(t, asked.Load())
		ca.down.Store(false)
		// the host that tested last retries after 12
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
		defer cancel()
		require.NoError(t, m.Await(ctx))
	})
}

// The program can order more than the schedule does.
func TestRenewTriesACAThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newDownCA(t, silences["it cannot be reached"])
		m, r := start(t, with(ca), "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		ca.down.Store(true)
		r.add(names("h%d.example.com", 50)...)
		time.Sleep(time.Hour)
		before := ca.asked.Load()
		require.NoError(t, m.Renew("a.example.com"))
		synctest.Wait()
		assert.Equal(t, before+1, ca.asked.Load())
	})
}
