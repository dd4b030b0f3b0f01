package hostproxy_test

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
)

var million = flag.Bool("million", false, "measure a million hosts")

// tenants returns n routes to one upstream.
func tenants(n int) map[string]http.Handler {
	rs, u := make(map[string]http.Handler, n), hostproxy.To("localhost:4000")
	for i := range n {
		rs[fmt.Sprintf("tenant-%d.apps.example.com", i)] = u
	}
	return rs
}

// heap returns the bytes of heap in use.
func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// The figure includes all memory that only the Router refers to, the names too.
func TestARouteTakesAtMost170Bytes(t *testing.T) {
	n := 100_000
	if *million {
		n = 1_000_000
	}
	var r hostproxy.Router
	before := heap()
	rs := tenants(n)
	for range 2 { // first from nothing, then from the same routes
		start := time.Now()
		require.NoError(t, r.Replace(rs))
		t.Logf("Replace of %d hosts: %v", n, time.Since(start))
		rs["one.more.example.com"] = says("x")
	}
	rs = nil
	each := (heap() - before) / n
	t.Logf("%d bytes a host, its name included", each)
	assert.LessOrEqual(t, each, 170)
	runtime.KeepAlive(&r)
}

// A stopwatch counts at most 20 ms between two calls of look. So it also stops,
// more or less, while the machine stands still.
type stopwatch struct {
	last time.Time
	ran  time.Duration
}

func (w *stopwatch) look() {
	now := time.Now()
	// the scheduler interrupts a loop after half of that
	w.ran += min(now.Sub(w.last), 20*time.Millisecond)
	w.last = now
}

// Replace yields by itself. So on one processor, another goroutine gets many
// more turns beside it than beside a loop that the scheduler has to interrupt.
func TestReplaceLetsOtherGoroutinesRun(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	rs := tenants(20_000)
	turns := func(f func()) (n int, ran time.Duration) {
		w := stopwatch{last: time.Now()}
		besides(func() { n++; w.look(); runtime.Gosched() }, f)
		return n, w.ran
	}
	var r hostproxy.Router
	replacing, ran := turns(func() { require.NoError(t, r.Replace(rs)) })
	looping, _ := turns(func() {
		for w := (stopwatch{last: time.Now()}); w.ran < ran; w.look() {
		}
	})
	t.Logf("%d turns in %v, %d beside a loop", replacing, ran, looping)
	assert.Greater(t, replacing, 3*looping)
}

func TestOneChangeAllocatesLittleHoweverManyRoutesThereAre(t *testing.T) {
	var r hostproxy.Router
	require.NoError(t, r.Replace(tenants(100_000)))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const changes = 100
	for i := range changes {
		require.NoError(t, r.Set(fmt.Sprintf("new-%d.example.com", i), says("x")))
		require.True(t, r.Remove(fmt.Sprintf("new-%d.example.com", i)))
	}
	runtime.ReadMemStats(&after)
	bytes := (after.TotalAlloc - before.TotalAlloc) / (2 * changes)
	t.Logf("%d bytes a change", bytes)
	assert.Less(t, bytes, uint64(32<<10))
}

// What is left is 64 bytes for the route and some 60 for the table.
func TestReplaceLeavesLittleGarbage(t *testing.T) {
	const hosts = 100_000
	rs := tenants(hosts)
	var r hostproxy.Router
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	require.NoError(t, r.Replace(rs))
	runtime.ReadMemStats(&after)
	each := (after.TotalAlloc - before.TotalAlloc) / hosts
	t.Logf("%d bytes a host", each)
	assert.Less(t, each, uint64(215))
}

func BenchmarkSet(b *testing.B) {
	for _, n := range []int{100, 1_000_000} {
		var r hostproxy.Router
		require.NoError(b, r.Replace(tenants(n)))
		b.Run(fmt.Sprintf("hosts=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = r.Set("new.example.com", says("x"))
			}
		})
	}
}

func TestReplaceWhoseContextIsDoneNamesNoOtherChange(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	u := hostproxy.To("127.0.0.1:1")
	for range 20 { // it is not left to chance
		err := u.Replace(ctx, "127.0.0.1:1")
		require.ErrorIs(t, err, hostproxy.ErrNotReady)
		require.ErrorIs(t, err, context.Canceled)
		require.NotContains(t, err.Error(), "another change")
	}
}
