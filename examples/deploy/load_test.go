//go:build unix

package main

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

var (
	loadFor    = flag.Duration("load", 0, "how long to deploy under load; 0 means two rounds")
	webSockets = flag.Int("websockets", 30, "WebSockets that are open meanwhile")
)

// A crowd sends requests to a unit until it is stopped.
type crowd struct {
	proxytest.Load
	posted atomic.Int64
	echoes atomic.Int64
	closed atomic.Int64 // WebSockets that were closed with 1001 and opened again
}

// posts returns a function that posts bodies.
func (l *crowd) posts(c *http.Client, body func() io.Reader) func() error {
	return func() error {
		q, err := http.NewRequest("POST", "https://app.localhost/", body())
		if err != nil {
			return err
		}
		if l.posted.Add(1)%5 == 0 {
			q.Header.Set("X-Canary", "1")
		}
		p, err := c.Do(q)
		if err != nil {
			return err
		}
		defer p.Body.Close()
		text, err := io.ReadAll(p.Body)
		if err == nil && (p.StatusCode != 200 || string(text) != "one 10" && string(text) != "two 10") {
			err = fmt.Errorf("%s over %s: %q", p.Status, p.Proto, text)
		}
		return err
	}
}

// talks returns a function that echoes on a WebSocket, and opens a new one when
// the server goes away.
func (l *crowd) talks(addr string, conf *tls.Config) (ask, end func() error) {
	var w *proxytest.WebSocket
	pause := time.NewTimer(0)
	ask = func() (err error) {
		if w == nil {
			if w, err = proxytest.OpenWebSocket(addr, conf); err != nil {
				return err
			}
		}
		if err = w.Echo(); err == nil {
			// the next WebSocket is opened at the process that serves then
			if l.echoes.Add(1)%20 == 0 {
				err, w = w.Close(), nil
			}
			pause.Reset(20 * time.Millisecond)
			<-pause.C
			return err
		}
		w.Close()
		w = nil
		if errors.Is(err, proxytest.ErrGoingAway) {
			l.closed.Add(1)
			return nil
		}
		return err
	}
	return ask, func() error {
		if w == nil {
			return nil
		}
		return w.Close()
	}
}

// round runs the commands one after the other, with requests in between. pid is
// the process that serves before; the result is the one that serves afterwards.
func (l *crowd) round(t *testing.T, u unit, pid int, one, two string) int {
	t.Helper()
	paused := false
	for _, words := range []string{
		"app app.localhost " + two, "rollback app", "canary app " + two + " -share 50% -header X-Canary=1", "canary app -share 100%",
		"canary app -end", "restart", "canary app " + two + " -share 30%", "canary app -promote", "pause app", "app app.localhost " + one,
		"resume app", "app app.localhost " + two + " -guard 400ms", "restart", "rollback app",
	} {
		u.must(t, strings.Fields(words)...)
		switch words {
		case "restart":
			pid = u.Next(t)
		case "pause app":
			paused = true
		case "resume app":
			paused = false
		}
		before := l.posted.Load()
		proxytest.Eventually(t, "requests", func() bool { return paused || l.posted.Load() > before+50 })
	}
	return pid
}

// Clients send requests over HTTP/1.1 and HTTP/2, on kept and on new
// connections, and use WebSockets. Meanwhile versions are deployed, tried on a
// canary, promoted and rolled back, and the proxy restarts itself. Nothing
// fails.
func TestNothingFailsUnderLoad(t *testing.T) {
	u := activate(t)
	one, two := proxytest.NewEcho(t, "one").Addr(), proxytest.NewEcho(t, "two").Addr()
	u.must(t, "app", "app.localhost", one)
	roots := u.Roots(t)
	conf := &tls.Config{RootCAs: roots, ServerName: "app.localhost", NextProtos: []string{"http/1.1"}}
	l := new(crowd)
	require.NoError(t, proxytest.AskAnew(u.HTTPS, conf)(), "few clients may wait for the first certificate")
	h2 := proxytest.HTTPClient(t, u.HTTPS, roots, "h2")
	h1 := proxytest.HTTPClient(t, u.HTTPS, roots, "h1")
	l.Run(proxytest.AskAnew(u.HTTPS, conf))
	for range 2 {
		l.Run(l.posts(h1, proxytest.Once))
		l.Run(l.posts(h2, proxytest.Again))
	}
	var ends []func() error
	for range *webSockets {
		ask, end := l.talks(u.HTTPS, conf)
		l.Run(ask)
		ends = append(ends, end)
	}
	proxytest.Eventually(t, "WebSockets", func() bool { return l.echoes.Load() > int64(2**webSockets) })
	begin := time.Now()
	defer func() { l.Stop(t, begin) }()
	pid, rounds := u.First.Process.Pid, 0
	for ; rounds == 0 || rounds == 1 && time.Since(begin) < 5*time.Second || time.Since(begin) < *loadFor; rounds++ {
		pid = l.round(t, u, pid, one, two)
	}
	l.Stop(t, begin)
	t.Logf("%d rounds in %v: %d requests with a body, %d echoes, %d WebSockets closed with 1001 and opened again", rounds, time.Since(begin).Round(time.Millisecond),
		l.posted.Load(), l.echoes.Load(), l.closed.Load())
	assert.Positive(t, l.closed.Load())
	for _, end := range ends { // this ends the old processes too
		_ = end()
	}
	h1.CloseIdleConnections()
	h2.CloseIdleConnections()
	u.End(t, pid)
	_ = u.First.Wait()
	assert.NotContains(t, u.Log.String(), "level=ERROR")
	assert.NotContains(t, u.Log.String(), "level=WARN")
}
