package cluster_test

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/cluster"
	"github.com/hostproxy/hostproxy/examples/cluster/internal/redistest"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A logged is the output of a logger.
type logged struct{ proxytest.Log }

func count(text, part string) int { return strings.Count(text, part) }

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// limiter returns a limiter for the Redis at url.
func limiter(t *testing.T, url string, o cluster.LimiterOptions) *cluster.Limiter {
	t.Helper()
	l, err := cluster.NewLimiter(connect(t, url), o)
	require.NoError(t, err)
	return l
}

// limited runs a proxy over plain HTTP with a limiter.
func limited(t *testing.T, l *cluster.Limiter) (addr string) {
	t.Helper()
	r := &hostproxy.Router{RateLimit: l.RateLimit()}
	r.Handle("a.test", hostproxy.To(proxytest.NewServer(t, nil).Addr()))
	return proxytest.StartPlain(t, &hostproxy.Server{Router: r}).Plain
}

// ask returns the response of the proxy at addr.
func ask(t *testing.T, addr string) *http.Response {
	t.Helper()
	return proxytest.Dial(t, addr).Do("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").Response
}

var client = netip.MustParseAddr("192.0.2.1") // Read-only.

func TestTwoProxiesShareOneLimit(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL
	o := cluster.LimiterOptions{Rate: 10}
	proxies := []string{limited(t, limiter(t, url, o)), limited(t, limiter(t, url, o))}
	served, began := 0, time.Now()
	var refused *http.Response
	for i := range 40 {
		if res := ask(t, proxies[i%2]); res.StatusCode == 200 {
			served++
		} else {
			refused = res
		}
	}
	most := 10 + 10*time.Since(began).Seconds() + 1
	assert.GreaterOrEqual(t, served, 10)
	assert.LessOrEqual(t, float64(served), most, "of both proxies together")
	require.NotNil(t, refused)
	assert.Equal(t, 429, refused.StatusCode)
	wait, err := strconv.Atoi(refused.Header.Get("Retry-After"))
	assert.NoError(t, err)
	assert.Equal(t, 1, wait)
	assert.Contains(t, refused.Header.Get("RateLimit"), "r=0")
}

func TestABucketFillsAtItsRate(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL
	l := limiter(t, url, cluster.LimiterOptions{Rate: 20, Burst: 3})
	began, allowed := time.Now(), 0
	for time.Since(began) < time.Second {
		q, err := l.Allow(t.Context(), client)
		require.NoError(t, err)
		if !q.OK {
			assert.Zero(t, q.Remaining)
			assert.LessOrEqual(t, q.Retry, 51*time.Millisecond)
			assert.LessOrEqual(t, q.Reset, 151*time.Millisecond)
			<-time.NewTimer(q.Retry).C
			continue
		}
		allowed++
		assert.LessOrEqual(t, q.Remaining, 2)
	}
	assert.LessOrEqual(t, float64(allowed), 3+20*time.Since(began).Seconds()+1)
	assert.Greater(t, allowed, 5)
	ttl := connect(t, url).PTTL(t.Context(), l.BucketKey(client.String())).Val()
	assert.Positive(t, ttl)
	assert.LessOrEqual(t, ttl, 151*time.Millisecond, "a full bucket leaves no key behind")
}

func TestEachClientKeyAndLimiterHasABucketOfItsOwn(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL
	one, two := limiter(t, url, cluster.LimiterOptions{Rate: 0.01}), limiter(t, url, cluster.LimiterOptions{Name: "two", Rate: 0.01})
	other := limiter(t, url, cluster.LimiterOptions{Prefix: "other", Rate: 0.01})
	for _, l := range []*cluster.Limiter{one, two, other} {
		for _, key := range []string{"192.0.2.1", "2001:db8::", "0b0c", "a{b}c", ""} {
			for i, want := range []bool{true, false} {
				q, err := l.AllowKey(t.Context(), key)
				require.NoError(t, err)
				assert.Equal(t, want, q.OK, "%q, request %d", key, i)
			}
		}
	}
	assert.Zero(t, one.LocalBuckets(), "all were counted in Redis")
	assert.EqualValues(t, 15, connect(t, url).DBSize(t.Context()).Val())
}

// A time left behind by another rate or by a clock that was set back blocks a
// client no longer than an empty bucket does.
func TestABucketThatIsFullInAYearCountsAsEmpty(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL
	l := limiter(t, url, cluster.LimiterOptions{Rate: 10, Burst: 2})
	require.NoError(t, connect(t, url).Set(t.Context(), l.BucketKey(client.String()), time.Now().AddDate(1, 0, 0).UnixMicro(), 0).Err())
	q, err := l.Allow(t.Context(), client)
	require.NoError(t, err)
	assert.False(t, q.OK)
	assert.LessOrEqual(t, q.Retry, 100*time.Millisecond)
	require.NoError(t, connect(t, url).Set(t.Context(), l.BucketKey(client.String()), "damaged", 0).Err())
	q, err = l.Allow(t.Context(), client)
	require.NoError(t, err)
	assert.True(t, q.OK)
}

func TestInvalidLimiterOptionsAreExplained(t *testing.T) {
	c := connect(t, "redis://localhost")
	for want, o := range map[string]cluster.LimiterOptions{
		"Rate 0":                  {},
		"Rate -1":                 {Rate: -1},
		"Rate NaN":                {Rate: math.NaN()},
		"Rate 1.000001e+06":       {Rate: 1000001},
		"Burst -1":                {Rate: 1, Burst: -1},
		"in at most a year":       {Rate: 1e-9, Burst: 100},
		"Burst 0 at Rate 1e-300":  {Rate: 1e-300},
		"Timeout -1ns":            {Rate: 1, Timeout: -1},
		`Name "{x}"`:              {Rate: 1, Name: "{x}"},
		`LimiterOptions.Prefix "`: {Rate: 1, Prefix: "a b"},
	} {
		_, err := cluster.NewLimiter(c, o)
		assert.ErrorContains(t, err, want)
	}
	_, err := cluster.NewLimiter(nil, cluster.LimiterOptions{Rate: -1})
	assert.ErrorContains(t, err, "client is nil")
	assert.ErrorContains(t, err, "Rate -1", "all errors at once")
}

// A Redis that hangs, is away or refuses commands delays a few requests a
// little. The limit still holds.
func TestWithoutRedisEachProcessCountsAndFewRequestsWait(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(*redistest.Server){
		"stopped": (*redistest.Server).Stop,
		"killed":  (*redistest.Server).Kill,
		"refuses": func(s *redistest.Server) {
			s.CLI(t, "config", "set", "requirepass", "secret")
			s.CLI(t, "-a", "secret", "client", "kill", "type", "normal")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, said := redistest.Start(t), new(logged)
			const timeout = 100 * time.Millisecond
			l := limiter(t, s.URL, cluster.LimiterOptions{Rate: 0.01, Burst: 20, Timeout: timeout, Logger: said.logger()})
			q, err := l.Allow(t.Context(), client)
			require.NoError(t, err)
			require.True(t, q.OK)
			require.Zero(t, l.LocalBuckets())
			harm(s)

			stills := proxytest.WatchStandstills(t)
			slow, allowed := 0, 0
			for range 1000 {
				began, before := time.Now(), stills.Total()
				q, err := l.Allow(t.Context(), client)
				require.NoError(t, err)
				if q.OK {
					allowed++
				}
				if time.Since(began)-(stills.Total()-before) > timeout/2 {
					slow++
				}
			}
			assert.LessOrEqual(t, slow, 3)
			assert.Equal(t, 20, allowed, "the burst of this process")
			assert.True(t, l.Open())
			assert.Equal(t, 1, count(said.String(), "counted in this process"), said)
		})
	}
}

func TestFewOfManyConcurrentRequestsWaitForARedisThatHangs(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := limiter(t, s.URL, cluster.LimiterOptions{Rate: 1000, Timeout: 500 * time.Millisecond})
	_, err := l.Allow(t.Context(), client)
	require.NoError(t, err)
	s.Stop()
	began := time.Now()
	wait := make(chan struct{})
	go func() {
		defer close(wait)
		_, _ = l.Allow(context.Background(), client)
	}()
	// until a request does not wait, which happens within a fifth of the
	// timeout
	for l.LocalBuckets() == 0 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, _ = l.Allow(ctx, client)
		cancel()
	}
	assert.Less(t, time.Since(began), 450*time.Millisecond)
	<-wait
}

func TestTheLimitGoesBackToRedisByItself(t *testing.T) {
	t.Parallel()
	s, said := redistest.Start(t), new(logged)
	l := limiter(t, s.URL, cluster.LimiterOptions{Rate: 1000, Timeout: 200 * time.Millisecond, Logger: said.logger()})
	s.Stop()
	proxytest.Eventually(t, "the breaker opens", func() bool {
		_, _ = l.Allow(t.Context(), client)
		return l.Open()
	})
	s.Continue()
	proxytest.Eventually(t, "the breaker closes", func() bool {
		_, _ = l.Allow(t.Context(), client)
		return !l.Open()
	})
	proxytest.Eventually(t, "the log", func() bool { return strings.Contains(said.String(), "counted in Redis again") })
	// this removes the scripts too
	require.NoError(t, connect(t, s.URL).FlushAll(t.Context()).Err())
	require.NoError(t, connect(t, s.URL).ScriptFlush(t.Context()).Err())
	_, err := l.Allow(t.Context(), netip.MustParseAddr("192.0.2.77"))
	require.NoError(t, err)
	assert.EqualValues(t, 1, connect(t, s.URL).Exists(t.Context(), l.BucketKey("192.0.2.77")).Val())
}

// A client disconnect during the wait says nothing about Redis.
func TestRequestsThatEndDoNotOpenTheBreaker(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := limiter(t, s.URL, cluster.LimiterOptions{Rate: 1000})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 10 {
		_, err := l.Allow(ctx, client)
		require.NoError(t, err)
	}
	assert.False(t, l.Open())
}

func TestTheNumberOfBucketsInMemoryIsLimited(t *testing.T) {
	t.Parallel()
	l := limiter(t, "redis://"+proxytest.Refused(t), cluster.LimiterOptions{Rate: 1, Logger: slog.New(slog.DiscardHandler)})
	for i := range cluster.MaxBuckets + 1000 {
		q, err := l.AllowKey(t.Context(), fmt.Sprint(i))
		require.NoError(t, err)
		require.True(t, q.OK)
	}
	assert.LessOrEqual(t, l.LocalBuckets(), cluster.MaxBuckets)
}

func TestABreakerOpensAndCloses(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(1_000_000 + int64(ms)) }
	b := cluster.NewBreaker(10 * time.Millisecond)
	assert.Equal(t, cluster.AskRedis, b.Ask(at(0)))
	assert.Equal(t, cluster.AskRedis, b.Ask(at(10)))
	assert.Equal(t, cluster.AskNot, b.Ask(at(11)), "an answer is overdue")
	b.Fail(at(50))
	b.Fail(at(50))
	assert.Equal(t, cluster.AskRedis, b.Ask(at(51)))
	b.Succeed(at(52))
	for range 3 {
		assert.Equal(t, cluster.AskRedis, b.Ask(at(60)), "failures count in a row")
		b.Fail(at(100))
	}
	assert.Equal(t, cluster.AskNot, b.Ask(at(1099)))
	assert.Equal(t, cluster.AskLater, b.Ask(at(1100)))
	assert.Equal(t, cluster.AskNot, b.Ask(at(1101)), "one probe at a time")
	b.Fail(at(1200))
	assert.Equal(t, cluster.AskNot, b.Ask(at(2199)))
	assert.Equal(t, cluster.AskLater, b.Ask(at(2200)))
	b.Succeed(at(2201))
	assert.Equal(t, cluster.AskRedis, b.Ask(at(2202)))
}
