package forward_test

import (
	"errors"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/limit"
)

// An exchange may have waited for long before its first attempt, in a pause or
// in a handler, and its handler may have called other Upstreams.
func TestTheLimitsOfRetriesCountFromTheFirstAttempt(t *testing.T) {
	failed := forward.Outcome{Failure: &exchange.Failure{Op: "dial", Side: exchange.SideUpstream, Err: errors.New("x")}, Whole: true}
	for _, tt := range []struct {
		about         string
		before        time.Duration // from the start of the exchange
		others, taken int           // attempts of others, and of another lane
		between       time.Duration // before each retry
		want          int           // attempts of its own
	}{
		{about: "it has waited", before: time.Minute, between: 4 * time.Second, want: 3},
		{about: "others have tried", others: 5, between: 4 * time.Second, want: 3},
		{about: "another lane has tried", taken: 1, between: 4 * time.Second, want: 2},
		{about: "other Upstreams, and another lane", others: 5, taken: 2, between: 4 * time.Second, want: 1},
		{about: "out of time", before: time.Minute, between: 6 * time.Second, want: 2},
		{about: "another lane has taken the time", taken: 1, before: time.Minute, want: 1},
	} {
		t.Run(tt.about, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var to []forward.Endpoint
				for _, host := range []string{"a.test", "b.test", "c.test", "d.test"} {
					to = append(to, forward.Endpoint{URL: &url.URL{Scheme: "http", Host: host}})
				}
				f, err := forward.New(forward.Config{Targets: to, Retry: forward.Retry{Attempts: 3, Timeout: 10 * time.Second}})
				require.NoError(t, err)
				x := &exchange.Exchange{Earlier: tt.others, Tried: make([]string, tt.taken)}
				x.Start, x.Attempts = time.Now(), tt.others+tt.taken
				time.Sleep(tt.before)
				v := &visitor{gone: make(chan struct{})}
				v.Take(f)
				v.TakeOver(x)
				require.Nil(t, v.Begin(&x.Record, v))
				own := 1
				for ; ; own++ {
					time.Sleep(tt.between)
					if next, _ := v.Next(failed); next != forward.NextAttempt {
						break
					}
				}
				assert.Equal(t, tt.want, own)
				v.End()
			})
		})
	}
}

// A handler may take long before it calls the Upstream. Meanwhile other
// requests of the client take tokens, and these come back.
func TestTheLimitOfAnUpstreamReadsTheClockWhenItIsCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rule, err := limit.NewRule(limit.Spec{Config: limit.Config{Rate: 1, Burst: 1}})
		require.NoError(t, err)
		f, err := forward.New(forward.Config{Targets: []forward.Endpoint{{URL: &url.URL{Scheme: "http", Host: "a.test"}}},
			Retry: forward.Retry{Attempts: 1}, Guard: forward.Guard{Limit: rule}})
		require.NoError(t, err)
		begun := time.Now()
		time.Sleep(5 * time.Second)
		quick, fail := visit(f)
		require.Nil(t, fail)
		quick.End()
		time.Sleep(5 * time.Second)
		v := &visitor{gone: make(chan struct{}), rec: exchange.Record{Start: begun}}
		v.Take(f)
		assert.Nil(t, v.Begin(&v.rec, v))
		v.End()
		_, fail = visit(f)
		require.NotNil(t, fail)
		assert.Equal(t, 429, fail.Status)
	})
}

// The set of targets may change while the fast lane tries one that leaves it.
func TestTheTimeOfRetriesCountsFromAnAttemptAtATargetThatHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, err := forward.New(forward.Config{Targets: []forward.Endpoint{{URL: &url.URL{Scheme: "http", Host: "a.test"}}, {URL: &url.URL{Scheme: "http", Host: "b.test"}}},
			Retry: forward.Retry{Attempts: 3, Timeout: 10 * time.Second}})
		require.NoError(t, err)
		// its target has left
		x := &exchange.Exchange{Record: exchange.Record{Start: time.Now(), Attempts: 1}}
		time.Sleep(9 * time.Second)
		v := &visitor{gone: make(chan struct{})}
		v.Take(f)
		v.Timed()
		v.TakeOver(x)
		require.Nil(t, v.Begin(&x.Record, v))
		assert.True(t, x.Timeline[0].Retry)
		time.Sleep(2 * time.Second)
		failed := forward.Outcome{Failure: &exchange.Failure{Op: "dial", Side: exchange.SideUpstream, Err: errors.New("x")}, Whole: true}
		next, _ := v.Next(failed)
		assert.Equal(t, forward.NextFailure, next)
		v.End()
	})
}
