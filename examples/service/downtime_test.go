//go:build unix

package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

var (
	webSockets = flag.Int("websockets", 500, "WebSockets that are open while processes take over from each other")
	handOvers  = flag.Int("handovers", 3, "how many processes take over from each other")
)

// asks returns a function that posts a body from body with the client.
func asks(c *http.Client, body func() io.Reader) func() error {
	return func() error {
		p, err := c.Post("https://app.localhost/", "text/plain", body())
		if err != nil {
			return err
		}
		defer p.Body.Close()
		text, err := io.ReadAll(p.Body)
		if err == nil && (p.StatusCode != 200 || string(text) != "echo 10") {
			err = fmt.Errorf("%s over %s: %q", p.Status, p.Proto, text)
		}
		return err
	}
}

// many calls do with each number below n, a few at a time.
func many(t *testing.T, n int, do func(i int) error) {
	t.Helper()
	var next atomic.Int64
	var work sync.WaitGroup
	errs := make(chan error, n)
	for range min(n, 16) {
		work.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				errs <- do(i)
			}
		})
	}
	work.Wait()
	for range n {
		require.NoError(t, <-errs)
	}
}

// Processes take over from each other under load: HTTP/1.1 and HTTP/2 requests
// on kept and on new connections, and open WebSockets at each process. Nothing
// fails. Each process ends with its last WebSocket.
func TestNoRequestFailsWhileProcessesTakeOver(t *testing.T) {
	t.Parallel()
	u := activate(t, proxytest.NewEcho(t, "echo").Addr())
	roots := u.Roots(t)
	conf := &tls.Config{RootCAs: roots, ServerName: "app.localhost", NextProtos: []string{"http/1.1"}}
	sockets := make([]*proxytest.WebSocket, *webSockets)
	begin, each := 0, *webSockets/(*handOvers+1)
	fill := func(to int) {
		many(t, to-begin, func(i int) (err error) {
			sockets[begin+i], err = proxytest.OpenWebSocket(u.HTTPS, conf)
			return err
		})
		begin = to
	}
	echoAll := func() { many(t, begin, func(i int) error { return sockets[i].Echo() }) }
	fill(*webSockets - each**handOvers)

	l := new(proxytest.Load)
	for range 2 {
		l.Run(asks(proxytest.HTTPClient(t, u.HTTPS, roots, "h1"), proxytest.Once))
		l.Run(proxytest.AskAnew(u.HTTPS, conf))
	}
	h2 := proxytest.HTTPClient(t, u.HTTPS, roots, "h2")
	for range 4 {
		l.Run(asks(h2, proxytest.Again))
	}
	pid, begun := u.First.Process.Pid, time.Now()
	defer func() { l.Stop(t, begun) }()
	for range *handOvers {
		l.Await(t, 50)
		pid = u.reload(t, pid)
		fill(begin + each)
	}
	echoAll()
	l.Await(t, 50)
	l.Stop(t, begun)
	t.Logf("%d requests, %d WebSockets, %d processes", l.Count(), len(sockets), *handOvers+1)

	echoAll()
	first := make(chan error, 1)
	go func() { first <- u.First.Wait() }()
	assert.Empty(t, first, "the old process stays for its WebSockets")
	for _, w := range sockets {
		w.Close()
	}
	assert.NoError(t, <-first, "the old process ends with its WebSockets")
	h2.CloseIdleConnections()
	u.End(t, pid)
	assert.NotContains(t, u.Log.String(), "level=ERROR")
	assert.NotContains(t, u.Log.String(), "level=WARN")
}

func TestWebSocketsEndWhenTheDrainOfAnOldProcessDoes(t *testing.T) {
	t.Parallel()
	u := activate(t, proxytest.NewEcho(t, "echo").Addr(), "-stay", "300ms")
	w, err := proxytest.OpenWebSocket(u.HTTPS, &tls.Config{RootCAs: u.Roots(t), ServerName: "app.localhost"})
	require.NoError(t, err)
	defer w.Close()
	pid := u.reload(t, u.First.Process.Pid)
	require.NoError(t, w.Echo(), "the WebSocket stays open")
	got, err := w.ReadFrame()
	require.NoError(t, err)
	assert.Equal(t, "\x88\x02\x03\xe9", got, "Close, 1001 (Going Away)")
	w.Close()
	assert.NoError(t, u.First.Wait())
	u.End(t, pid)
}
