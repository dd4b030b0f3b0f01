package certs_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

func TestAPanicInObserveIsLoggedAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		var calls atomic.Int64
		o := with(newIssuer(t, "ca", day(90)))
		o.Logger = log.logger(8) // slog.LevelError
		o.Observe = func(certs.Status) { calls.Add(1); panic("oops") }
		m, _ := start(t, o, names("h%d.example.com", 40)...)
		require.NoError(t, m.Await(t.Context()))
		synctest.Wait()
		assert.EqualValues(t, 40, calls.Load())
		assert.Contains(t, log.String(), "TLS.Observe panicked")
		assert.Contains(t, log.String(), "oops")
	})
}

func TestAnObserveThatBlocksDelaysNeitherHostsNorClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		var log logBuffer
		o := with(newIssuer(t, "ca", day(90)))
		o.Logger = log.logger(4)
		o.Observe = func(certs.Status) { <-release }
		m, _ := start(t, o, names("h%d.example.com", 100)...)
		require.NoError(t, m.Await(t.Context()))
		begin := time.Now()
		require.NoError(t, m.Close())
		assert.LessOrEqual(t, time.Since(begin), 2*time.Second)
		assert.Contains(t, log.String(), "TLS.Observe did not return")
	})
}

func TestReportsThatWaitForASlowObserveAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		var calls atomic.Int64
		release := make(chan struct{})
		o := with(newIssuer(t, "ca", day(90)))
		o.Logger = log.logger(4)
		o.Observe = func(certs.Status) { <-release; calls.Add(1) }
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		synctest.Wait()
		for range 50_000 {
			m.Report(certs.Status{Host: "a.example.com"})
		}
		close(release)
		synctest.Wait()
		assert.EqualValues(t, 10_001, calls.Load())
		assert.Contains(t, log.String(), "TLS.Observe is too slow; reports were dropped")
	})
}
