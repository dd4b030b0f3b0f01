package main

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// limited runs a proxy in plain HTTP that allows so many requests per second and client, over all proxies at that Redis.
func limited(t *testing.T, url string, rate int) (addr string) {
	t.Helper()
	r := &hostproxy.Router{RateLimit: &hostproxy.RateLimit{Rate: float64(rate), Limiter: open(t, url).limiter(rate)}}
	r.Handle("a.test", hostproxy.To(proxytest.NewServer(t, nil).Addr()))
	return proxytest.StartPlain(t, &hostproxy.Server{Router: r}).Plain
}

// ask returns the answer of the proxy at addr.
func ask(t *testing.T, addr string) *http.Response {
	t.Helper()
	return proxytest.Dial(t, addr).Do("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").Response
}

func TestTwoProxiesShareOneLimit(t *testing.T) {
	s := startRedis(t)
	proxies := []string{limited(t, s.url, 10), limited(t, s.url, 10)}
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
	assert.LessOrEqual(t, float64(served), most, "of both together")
	require.NotNil(t, refused)
	assert.Equal(t, 429, refused.StatusCode)
	wait, err := strconv.Atoi(refused.Header.Get("Retry-After"))
	assert.NoError(t, err)
	assert.Equal(t, 1, wait)
	assert.Contains(t, refused.Header.Get("RateLimit"), "r=0")
}

// A Redis that is away limits nobody, and costs nobody more than a moment.
func TestWithoutRedisEverybodyIsServed(t *testing.T) {
	s := startRedis(t)
	addr := limited(t, s.url, 1)
	stills := proxytest.WatchStandstills(t)
	assert.Equal(t, 200, ask(t, addr).StatusCode)
	for ask(t, addr).StatusCode != 429 { // the machine may stand still until another one is allowed
		require.Greater(t, stills.Total(), time.Second/2)
	}
	s.stop()
	began, before := time.Now(), stills.Total()
	for range 5 {
		assert.Equal(t, 200, ask(t, addr).StatusCode)
	}
	assert.Less(t, time.Since(began)-(stills.Total()-before), 3*time.Second)
}
