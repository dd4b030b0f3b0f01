package main

import (
	"net/http"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/cluster/internal/redistest"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// Redis hangs, loses everything and is killed, while two processes count each
// request in it. No request fails, and few of them wait.
func TestARedisThatHangsOrIsEmptiedOrKilledFailsNoRequest(t *testing.T) {
	redis, backend := redistest.Start(t), proxytest.NewServer(t, echo)
	args := []string{"-redis", redis.URL, "-tickets", "-rate", "1000000", "-delay", "0", host + "=" + backend.Addr()}
	one, two := join(t, args...), join(t, args...)
	pool := roots(t, storage(t, redis.URL))
	leaf, _ := one.leaf(t, anyone())

	stills := proxytest.WatchStandstills(t)
	var slow atomic.Int64
	timed := func(c *http.Client) func() error {
		ask := asks(c, "https://"+host+"/", "0123456789")
		return func() error {
			began, before := time.Now(), stills.Total()
			err := ask()
			if time.Since(began)-(stills.Total()-before) > 50*time.Millisecond {
				slow.Add(1)
			}
			return err
		}
	}
	var loads []*load
	for _, p := range []*process{one, two} {
		loads = append(loads, begin("h1", 2, timed(proxytest.HTTPClient(t, p.https, pool, "h1"))),
			begin("h2", 4, timed(proxytest.HTTPClient(t, p.https, pool, "h2"))))
	}
	more := func() {
		before := total(loads)
		proxytest.Eventually(t, "requests", func() bool { return total(loads) > before+1000 })
	}
	more()
	slow.Store(0) // the connections are open now
	redis.Stop()
	more()
	redis.Continue()
	more()
	redis.CLI(t, "flushall")
	redis.CLI(t, "script", "flush")
	more()
	redis.Kill()
	more()
	for _, l := range loads {
		l.end(t, stills.Total())
	}
	t.Logf("%d of %d requests took more than 50 ms", slow.Load(), total(loads))
	assert.LessOrEqual(t, slow.Load(), int64(36), "three times the number of concurrent requests")
	for _, p := range []*process{one, two} {
		same, _ := p.leaf(t, anyone())
		assert.Equal(t, leaf.SerialNumber, same.SerialNumber)
		assert.Contains(t, p.said(), "rate limits are counted in this process")
		p.end(syscall.SIGTERM)
		assert.Equal(t, 0, p.cmd.ProcessState.ExitCode(), p.said())
	}
}

// Running processes write back what Redis has lost. A process that starts later
// then serves the same certificate. This takes up to five minutes.
func TestWhatRedisHasLostIsWrittenBack(t *testing.T) {
	if !*long {
		t.Skip("takes minutes: -long")
	}
	redis, backend := redistest.Start(t), proxytest.NewServer(t, echo)
	args := []string{"-redis", redis.URL, "-delay", "0", host + "=" + backend.Addr()}
	one := join(t, args...)
	leaf, _ := one.leaf(t, anyone())
	redis.CLI(t, "flushall")
	s := storage(t, redis.URL)
	require.Eventually(t, func() bool {
		keys, err := s.List(t.Context(), "certificates", true)
		return err == nil && len(keys) == 3
	}, 6*time.Minute, time.Second)
	two := join(t, args...)
	same, _ := two.leaf(t, anyone())
	assert.Equal(t, leaf.SerialNumber, same.SerialNumber)
}
