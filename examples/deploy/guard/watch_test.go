package guard_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/deploy/guard"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

const (
	before  = "10.0.0.1:80"
	after   = "10.0.0.2:80"
	pattern = "app.example.com"
)

// A world is a route to targets that answer after a time, in a synctest bubble.
type world struct {
	meter  guard.Meter
	router hostproxy.Router
	app    *hostproxy.Upstream
	sick   atomic.Int64 // status that after answers with; 0 hangs
	pause  atomic.Int64 // time until after answers
	served sync.Map     // number of requests by target
}

// RoundTrip answers as a target. Health checks always succeed.
func (w *world) RoundTrip(q *http.Request) (*http.Response, error) {
	status, pause := 200, 10*time.Millisecond
	if q.Body != nil {
		_, _ = io.Copy(io.Discard, q.Body)
	}
	if q.URL.Path != "/up" && q.URL.Host == after {
		status, pause = int(w.sick.Load()), time.Duration(w.pause.Load())
	}
	if q.URL.Path != "/up" {
		n, _ := w.served.LoadOrStore(q.URL.Host, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
	}
	if status == 0 {
		<-q.Context().Done()
		return nil, q.Context().Err()
	}
	rest(pause)
	if status == 1 {
		return nil, errors.New("connection reset")
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("ok")), Request: q}, nil
}

func (w *world) count(target string) int64 {
	n, ok := w.served.Load(target)
	if !ok {
		return 0
	}
	return n.(*atomic.Int64).Load()
}

// rest waits for a time, in a synctest bubble.
func rest(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

func newWorld(t *testing.T) *world {
	w := &world{}
	w.sick.Store(200)
	w.pause.Store(int64(10 * time.Millisecond))
	w.app = w.upstream(before)
	w.router.BeginAttempt, w.router.Observe = w.meter.BeginAttempt, w.meter.Observe
	w.router.Handle(pattern, w.app)
	return w
}

func (w *world) upstream(target string) *hostproxy.Upstream {
	u := hostproxy.To(target)
	u.Transport = w
	u.Health = &hostproxy.HealthCheck{Path: "/up", Interval: -1}
	u.Retry.Attempts = 1
	u.DrainTimeout = 20 * time.Second
	return u
}

// asks sends n requests, one every 20 ms, and returns when they have ended.
func (w *world) asks(n int) {
	var work sync.WaitGroup
	for range n {
		work.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			w.router.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "https://"+pattern+"/", nil))
		})
		rest(20 * time.Millisecond)
	}
	work.Wait()
}

// stalls makes after stand still for a time from now on.
func (w *world) stalls(d time.Duration) {
	w.pause.Store(int64(d))
	time.AfterFunc(d, func() { w.pause.Store(int64(10 * time.Millisecond)) })
}

func TestAStandstillIsNotTakenForASlowTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.stalls(400 * time.Millisecond)
		w.asks(200)
		result := make(chan error, 1)
		go func() { result <- w.meter.Replace(context.Background(), pattern, w.app, guard.Limits{}, after) }()
		rest(time.Second)
		w.stalls(400 * time.Millisecond) // 20 requests then take longer than 60 ms
		w.asks(1000)
		require.NoError(t, <-result)
		assert.Equal(t, []string{after}, guard.Names(w.app))
		require.NoError(t, w.router.Close())
	})
}

// replace replaces before by after while clients send requests.
func (w *world) replace(l guard.Limits, requests int) error {
	w.asks(200)
	result := make(chan error, 1)
	go func() { result <- w.meter.Replace(context.Background(), pattern, w.app, l, after) }()
	w.asks(requests)
	return <-result
}

func TestReplaceGoesBackIfTheNewTargetIsWorse(t *testing.T) {
	for _, tt := range []struct {
		about  string
		status int64
		pause  time.Duration
		want   string // "" keeps the new target
		most   int64  // maximum of requests at the new target
	}{
		{"it is as good", 200, 10 * time.Millisecond, "", 500},
		{"it is a little slower", 200, 40 * time.Millisecond, "", 500},
		{"it fails", 500, 10 * time.Millisecond, "3 of 3 requests failed", 4},
		{"it is not HTTP", 1, 10 * time.Millisecond, "3 of 3 requests failed", 4},
		{"it answers 404, as the old one may have done", 404, 10 * time.Millisecond, "", 500},
		{"it is slow", 200, time.Second, "requests took longer than 60ms", 50},
		{"it hangs", 0, 0, "requests took longer than 60ms", 50},
	} {
		t.Run(tt.about, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.sick.Store(tt.status)
				w.pause.Store(int64(tt.pause))
				err := w.replace(guard.Limits{}, 100)
				if tt.want == "" {
					require.NoError(t, err)
					assert.Equal(t, []string{after}, guard.Names(w.app))
					assert.GreaterOrEqual(t, w.count(after), int64(50))
				} else {
					require.ErrorContains(t, err, tt.want)
					assert.Equal(t, []string{before}, guard.Names(w.app))
				}
				assert.LessOrEqual(t, w.count(after), tt.most)
				require.NoError(t, w.router.Close())
			})
		})
	}
}

func TestAWatchEndsWithoutRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		start := time.Now()
		require.NoError(t, w.meter.Replace(t.Context(), pattern, w.app, guard.Limits{For: 30 * time.Second}, after))
		assert.InDelta(t, 30, time.Since(start).Seconds(), 1)
		assert.Equal(t, []string{after}, guard.Names(w.app))
		require.NoError(t, w.router.Close())
	})
}

func TestACanaryThatIsWorseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.asks(100)
		w.sick.Store(503)
		next := w.upstream(after)
		result := make(chan error, 1)
		go func() {
			result <- w.meter.Canary(context.Background(), pattern, w.app, next, 1, guard.Limits{})
		}()
		w.asks(60)
		var worse *guard.WorseError
		require.ErrorAs(t, <-result, &worse)
		assert.LessOrEqual(t, w.count(after), int64(4))
		require.NoError(t, w.router.Close())
	})
}

func TestClientsThatDisconnectDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.sick.Store(0) // hangs; clients wait for 40 ms, which is not slow
		watch, err := w.meter.Watch(pattern, guard.Limits{}, guard.Baseline{}, before, after)
		require.NoError(t, err)
		defer watch.Stop()
		require.NoError(t, w.app.Replace(t.Context(), after))
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), 40*time.Millisecond)
			w.router.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "https://"+pattern+"/", nil))
			cancel()
		}
		assert.Zero(t, watch.Requests())
		require.NoError(t, w.router.Close())
	})
}

func TestInvalidLimitsAreErrors(t *testing.T) {
	var m guard.Meter
	for want, l := range map[string]guard.Limits{
		"Limits.Requests is -1":    {Requests: -1},
		"Limits.Worse is 2":        {Worse: 2},
		"Limits.FalseAlarms is 1:": {FalseAlarms: 1},
		"Limits.Slower is 0.5":     {Slower: 0.5},
		"negative duration":        {For: -1},
	} {
		_, err := m.Watch(pattern, l, guard.Baseline{}, after)
		assert.ErrorContains(t, err, want)
	}
}

func TestReplaceWithAnInvalidTargetChangesNothing(t *testing.T) {
	var m guard.Meter
	u := hostproxy.To(before)
	assert.ErrorContains(t, m.Replace(t.Context(), pattern, u, guard.Limits{}, "nowhere"), `"nowhere"`)
	assert.Equal(t, []string{before}, guard.Names(u))
}
