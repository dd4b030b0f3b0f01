package e2e_test

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// siegeTime is how long the healthy host is measured under siege. The default
// is short, and proves nothing about latency:
//
//	go test ./internal/e2e -run TestAHealthyHostIsServedUnderSiege -v -siege 30s
var siegeTime = flag.Duration("siege", 0, "time of TestAHealthyHostIsServedUnderSiege; 0 is a short one with fewer clients")

// A hanging CA, clients that connect to pending hosts again and again, and one
// healthy host with 200 full handshakes a second.
func TestAHealthyHostIsServedUnderSiege(t *testing.T) {
	clients, rate, length := 150, 25, 2*time.Second
	if *siegeTime == 0 {
		t.Parallel() // most of the time is spent waiting
	} else {
		clients, rate, length = 2_000, 200, *siegeTime
	}
	hosts := make([]string, 30)
	for i := range hosts {
		hosts[i] = fmt.Sprintf("h%d.example.com", i)
	}
	s := besiege(t, nil, hosts...)
	measure(t, s, rate, length/4) // warm-up
	alone := measure(t, s, rate, length)
	end := s.crowd(t, hosts, clients)
	dawdle(length / 2)
	most := 0
	for st := range s.router.Certificates() {
		most = max(most, st.Waiting)
	}
	under := measure(t, s, rate, length)
	end()
	t.Logf("%d clients of %d pending hosts, %d full handshakes a second of a healthy one, %v\n%s",
		clients, len(hosts), rate, length, table(alone, under))
	assert.Zero(t, under.failed)
	assert.LessOrEqual(t, most, 64)
	if *siegeTime > 0 {
		assert.LessOrEqual(t, under.at(0.99), 20*time.Millisecond, "p99")
		assert.Less(t, under.memory, alone.memory+96<<20, "memory, that of the clients included")
	}
}

// crowd keeps n clients waiting for the hosts, a quarter of them for the first
// one. A refused client tries again after a second.
func (s *siege) crowd(t *testing.T, hosts []string, n int) (end func()) {
	t.Helper()
	hellos := make([][]byte, len(hosts))
	for i, host := range hosts {
		hellos[i] = helloOf(t, &tls.Config{ServerName: host})
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range n {
		hello := hellos[0]
		if i%4 != 0 {
			hello = hellos[i%len(hosts)]
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				pester(ctx, s.addr, hello)
				select {
				case <-ctx.Done():
				case <-time.After(time.Second + rand.N(time.Second/4)):
				}
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// pester begins a handshake and waits for its end.
func pester(ctx context.Context, addr string, hello []byte) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	_, _ = c.Write(hello)
	for answer := make([]byte, 64); err == nil; {
		_, err = c.Read(answer)
	}
}

// A measured has the times of the healthy host's clients, the shortest first.
type measured struct {
	took   []time.Duration
	failed int
	memory uint64 // the most memory that the process had from the system
}

func (m *measured) at(q float64) time.Duration {
	if len(m.took) == 0 {
		return 0
	}
	return m.took[int(q*float64(len(m.took)-1))]
}

// unhindered is longer than a handshake takes on a busy machine, and shorter
// than one that waits for the others, which have 10 s.
const unhindered = 9 * time.Second

// measure makes full handshakes with the healthy host, at a rate that does not
// depend on the responses. Times are measured by the clients, in this process,
// from before they connect.
func measure(t *testing.T, s *siege, rate int, length time.Duration) *measured {
	t.Helper()
	conf := &tls.Config{RootCAs: s.roots, ServerName: "a.test"}
	var m measured
	var mu sync.Mutex
	var wg sync.WaitGroup
	ticks := time.NewTicker(time.Second / time.Duration(rate))
	defer ticks.Stop()
	for n := range int(length.Seconds() * float64(rate)) {
		<-ticks.C
		wg.Go(func() {
			begin := time.Now()
			c, err := tls.DialWithDialer(&net.Dialer{Timeout: unhindered}, "tcp", s.addr, conf)
			took := time.Since(begin)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				m.failed++
				return
			}
			m.took = append(m.took, took)
			_ = c.NetConn().Close()
		})
		if n%rate == 0 {
			var mem runtime.MemStats
			runtime.ReadMemStats(&mem)
			m.memory = max(m.memory, mem.Sys-mem.HeapReleased)
		}
	}
	wg.Wait()
	require.NotEmpty(t, m.took)
	slices.Sort(m.took)
	return &m
}

func table(alone, under *measured) string {
	text := "| | handshakes | failed | p50 | p99 | longest | memory |\n|---|---|---|---|---|---|---|\n"
	for i, m := range []*measured{alone, under} {
		ms := func(q float64) float64 { return float64(m.at(q).Microseconds()) / 1000 }
		text += fmt.Sprintf("| %s | %d | %d | %.1f ms | %.1f ms | %.1f ms | %d MB |\n",
			[]string{"alone", "under siege"}[i], len(m.took)+m.failed, m.failed, ms(0.5), ms(0.99), ms(1), m.memory>>20)
	}
	return text
}
