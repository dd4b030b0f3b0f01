package forward_test

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/health"
)

// endpoint is the endpoint of a target.
func endpoint(t *testing.T, target string) forward.Endpoint {
	t.Helper()
	u, err := forward.ParseTarget(target)
	require.NoError(t, err)
	return forward.Endpoint{URL: u}
}

// A target that is added while the first exchange starts the checks is checked
// once.
func TestATargetAddedWhileChecksStartIsCheckedOnce(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			checks := make(map[string]int)
			f, err := forward.New(forward.Config{
				Targets: []forward.Endpoint{endpoint(t, "127.0.0.1:1")},
				Retry:   forward.Retry{Attempts: 1},
				Health:  &health.Config{Check: health.Check{Interval: time.Hour, Timeout: time.Second, Rise: 1, Fall: 1}},
				Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
					mu.Lock()
					defer mu.Unlock()
					checks[addr]++
					return nil, errors.New("nobody listens")
				},
			})
			require.NoError(t, err)
			var both sync.WaitGroup
			release := f.HoldBackground()
			both.Go(f.Start)
			letRun()
			both.Go(func() { assert.NoError(t, f.Add([]forward.Endpoint{endpoint(t, "127.0.0.1:2")})) })
			letRun()
			release()
			both.Wait()
			synctest.Wait()
			mu.Lock()
			assert.Equal(t, map[string]int{"127.0.0.1:1": 1, "127.0.0.1:2": 1}, checks)
			mu.Unlock()
			f.CloseIdle()
		})
	}
}

// letRun lets other goroutines run, most likely until they block.
func letRun() {
	for range 100 {
		runtime.Gosched()
	}
}
