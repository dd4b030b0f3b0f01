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
)

// The target of the first attempt is removed meanwhile.
func TestARetryAfterAChangeOfTargetsIsMarkedAsRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, err := forward.New(forward.Config{Targets: []forward.Endpoint{{URL: &url.URL{Scheme: "http", Host: "a.test"}}}, Retry: forward.Retry{Attempts: 3}})
		require.NoError(t, err)
		v := &visitor{gone: make(chan struct{}), rec: exchange.Record{Start: time.Now()}}
		v.Take(f)
		v.Timed()
		require.Nil(t, v.Begin(&v.rec, v))
		require.NoError(t, f.Add([]forward.Endpoint{{URL: &url.URL{Scheme: "http", Host: "b.test"}}}))
		require.NoError(t, f.Remove([]forward.Endpoint{{URL: &url.URL{Scheme: "http", Host: "a.test"}}}))
		next, fail := v.Next(forward.Outcome{Failure: &exchange.Failure{Op: "dial", Side: exchange.SideUpstream, Err: errors.New("x")}, Whole: true})
		require.Nil(t, fail)
		require.Equal(t, forward.NextAttempt, next)
		require.Len(t, v.rec.Timeline, 2)
		assert.True(t, v.rec.Timeline[1].Retry)
		v.End()
	})
}
