package main

import (
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/cluster/internal/redistest"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

var long = flag.Bool("long", false, "run the long matrix: more rolling restarts, harm to Redis between them")

// A load sends requests until it is stopped.
type load struct {
	lane   string
	stop   atomic.Bool
	count  atomic.Int64
	mu     sync.Mutex
	failed map[string]int // number of failures by error
	work   sync.WaitGroup
}

// begin starts workers that call ask again and again.
func begin(lane string, workers int, ask func() error) *load {
	l := &load{lane: lane, failed: map[string]int{}}
	for range workers {
		l.work.Go(func() {
			for !l.stop.Load() {
				if err := ask(); err != nil {
					l.mu.Lock()
					l.failed[err.Error()]++
					l.mu.Unlock()
				}
				l.count.Add(1)
			}
		})
	}
	return l
}

// posts is the lane of requests that clients must not retry.
const posts = "h1, TLS through HAProxy, body 0123456789"

// end stops the load and requires that nothing failed. stood is how long the
// machine stood still meanwhile.
func (l *load) end(t *testing.T, stood time.Duration) int64 {
	t.Helper()
	l.stop.Store(true)
	l.work.Wait()
	t.Logf("%s: %d requests", l.lane, l.count.Load())
	for err, n := range l.failed {
		// No server can help a client that stands still, and then sends a
		// request that must not be retried on a connection that has just ended.
		if l.lane == posts && strings.HasSuffix(err, ": EOF") && stood > 200*time.Millisecond {
			t.Logf("the machine stood still for %v; %s: %d failed: %s", stood, l.lane, n, err)
			continue
		}
		t.Errorf("%s: %d of %d requests failed: %s", l.lane, n, l.count.Load(), err)
	}
	return l.count.Load()
}

// asks returns a function that sends a request, with or without a body, and
// requires its echo.
func asks(c *http.Client, url, body string) func() error {
	return func() error {
		method, content := http.MethodGet, io.Reader(nil)
		if body != "" {
			method, content = http.MethodPost, strings.NewReader(body)
		}
		q, err := http.NewRequest(method, url, content)
		if err != nil {
			return err
		}
		p, err := c.Do(q)
		if err != nil {
			return err
		}
		defer p.Body.Close()
		text, err := io.ReadAll(p.Body)
		switch {
		case err != nil:
			return err
		case p.StatusCode != 200:
			return fmt.Errorf("%s over %s: %q", p.Status, p.Proto, text)
		case string(text) != "got "+body:
			return errors.New("another response")
		}
		return nil
	}
}

// echo answers with the request's body after a short time.
var echo = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { // Read-only.
	body, _ := io.ReadAll(q.Body)
	<-time.NewTimer(time.Millisecond).C
	fmt.Fprintf(w, "got %s", body)
})

// lanes starts the loads of all lanes.
func lanes(t *testing.T, b *balancer, pool *x509.CertPool) []*load {
	t.Helper()
	client := func(addr, protocol string) *http.Client { return proxytest.HTTPClient(t, addr, pool, protocol) }
	secure, plain := "https://"+host+"/", "http://"+host+"/"
	var all []*load
	for _, body := range []string{"", "0123456789"} {
		all = append(all,
			begin("h1, TLS through HAProxy, body "+body, 2, asks(client(b.through, "h1"), secure, body)),
			begin("h2, TLS through HAProxy, body "+body, 4, asks(client(b.through, "h2"), secure, body)),
			begin("h1, HAProxy speaks h1, body "+body, 2, asks(client(b.h1, "h1"), plain, body)),
			begin("h2c, HAProxy speaks h2, body "+body, 4, asks(client(b.h2, "h2c"), plain, body)),
		)
	}
	return all
}

// Each of three processes is ended and restarted while clients send requests
// over HTTP/1.1 and HTTP/2.
func TestARollingRestartFailsNoRequest(t *testing.T) {
	redis, backend := redistest.Start(t), proxytest.NewServer(t, echo)
	args := []string{"-redis", redis.URL, "-tickets", "-delay", "1s", "-proxy-protocol", "127.0.0.0/8", host + "=" + backend.Addr()}
	var proxies []*process
	for range 3 {
		proxies = append(proxies, join(t, args...))
	}
	b := balance(t, proxies)
	for i := range proxies {
		b.await(t, i)
	}
	pool := roots(t, storage(t, redis.URL))
	stills := proxytest.WatchStandstills(t)
	loads := lanes(t, b, pool)
	rounds := 1
	if *long {
		rounds = 10
	}
	for range rounds {
		for i, p := range proxies {
			before := total(loads)
			proxytest.Eventually(t, "requests", func() bool { return total(loads) > before+200 })
			p.end(syscall.SIGTERM)
			assert.Equal(t, 0, p.cmd.ProcessState.ExitCode(), p.said())
			proxies[i] = p.at(t, args...)
			require.True(t, proxies[i].listens(t), proxies[i].said())
			b.await(t, i)
		}
	}
	for _, l := range loads {
		assert.Positive(t, l.end(t, stills.Total()))
	}
}

// total returns the number of requests so far.
func total(loads []*load) (n int64) {
	for _, l := range loads {
		n += l.count.Load()
	}
	return n
}
