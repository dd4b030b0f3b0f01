//go:build unix

package main

import (
	"bufio"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
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

// frame is an empty WebSocket frame of a client.
const frame = "\x81\x80\x00\x00\x00\x00"

// echo answers requests with the length of their body, and echoes WebSocket
// frames.
func echo(t *testing.T) *proxytest.Server {
	return proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Upgrade") == "" {
			n, _ := io.Copy(io.Discard, q.Body)
			fmt.Fprint(w, n)
			return
		}
		c, b, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", proxytest.Accept(q.Header))
		got := make([]byte, len(frame))
		for err == nil && got[0] != '\x88' { // an echoed Close would look like the client's own
			if _, err = io.ReadFull(b, got); err == nil && got[0] != '\x88' {
				_, err = c.Write(got)
			}
		}
		_, _ = io.Copy(io.Discard, b)
	}))
}

// A load sends requests to a unit until it is stopped.
type load struct {
	stop   atomic.Bool
	count  atomic.Int64
	failed sync.Map // key: error text; value: when it came
	work   sync.WaitGroup
}

// run calls ask again and again.
func (l *load) run(ask func() error) {
	l.work.Go(func() {
		for !l.stop.Load() {
			if err := ask(); err != nil {
				l.failed.Store(err.Error(), time.Now())
			}
			l.count.Add(1)
		}
	})
}

// asks returns a function that posts a body from body with the client.
func asks(c *http.Client, body func() io.Reader) func() error {
	return func() error {
		p, err := c.Post("https://app.localhost/", "text/plain", body())
		if err != nil {
			return err
		}
		defer p.Body.Close()
		text, err := io.ReadAll(p.Body)
		if err == nil && (p.StatusCode != 200 || string(text) != "10") {
			err = fmt.Errorf("%s over %s: %q", p.Status, p.Proto, text)
		}
		return err
	}
}

// once returns a body that net/http cannot send a second time: it does not
// retry the request.
func once() io.Reader { return io.MultiReader(again()) }

// again returns a body that net/http can send again. Over HTTP/2, net/http
// fails with other bodies if a GOAWAY arrives before it has sent the request.
func again() io.Reader { return strings.NewReader("0123456789") }

// asksAnew returns a function that opens a connection for each request and
// sends the request 5 ms later.
func asksAnew(addr string, conf *tls.Config) func() error {
	pause := time.NewTimer(0)
	return func() error {
		c, err := tls.Dial("tcp", addr, conf)
		if err != nil {
			return err
		}
		defer c.Close()
		pause.Reset(5 * time.Millisecond)
		<-pause.C
		_ = c.SetDeadline(time.Now().Add(proxytest.Patience))
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n"); err != nil {
			return err
		}
		text, err := io.ReadAll(c)
		if err == nil && !strings.HasPrefix(string(text), "HTTP/1.1 200 ") {
			err = fmt.Errorf("over a new connection: %q", text)
		}
		return err
	}
}

// A webSocket is a connection to the echo target.
type webSocket struct {
	net.Conn
	r *bufio.Reader
}

func open(addr string, conf *tls.Config) (*webSocket, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: proxytest.Patience}, "tcp", addr, conf)
	if err != nil {
		return nil, err
	}
	w := &webSocket{c, bufio.NewReaderSize(c, 256)}
	_ = c.SetDeadline(time.Now().Add(4 * proxytest.Patience))
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	p, err2 := http.ReadResponse(w.r, nil)
	switch {
	case err != nil:
		return nil, err
	case err2 != nil:
		return nil, err2
	case p.StatusCode != 101:
		return nil, fmt.Errorf("a WebSocket gets %s", p.Status)
	}
	return w, nil
}

// echoes sends a frame and reads it back.
func (w *webSocket) echoes() error {
	_ = w.SetDeadline(time.Now().Add(2 * proxytest.Patience))
	if _, err := io.WriteString(w, frame); err != nil {
		return err
	}
	got := make([]byte, len(frame))
	if _, err := io.ReadFull(w.r, got); err != nil {
		return err
	}
	if string(got) != frame {
		return fmt.Errorf("a WebSocket echoes %q", got)
	}
	return nil
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
	u := activate(t, echo(t).Addr())
	roots := u.Roots(t)
	conf := &tls.Config{RootCAs: roots, ServerName: "app.localhost", NextProtos: []string{"http/1.1"}}
	sockets := make([]*webSocket, *webSockets)
	begin, each := 0, *webSockets/(*handOvers+1)
	fill := func(to int) {
		many(t, to-begin, func(i int) (err error) {
			sockets[begin+i], err = open(u.HTTPS, conf)
			return err
		})
		begin = to
	}
	echoAll := func() { many(t, begin, func(i int) error { return sockets[i].echoes() }) }
	fill(*webSockets - each**handOvers)

	l := new(load)
	for range 2 {
		l.run(asks(proxytest.HTTPClient(t, u.HTTPS, roots, "h1"), once))
		l.run(asksAnew(u.HTTPS, conf))
	}
	h2 := proxytest.HTTPClient(t, u.HTTPS, roots, "h2")
	for range 4 {
		l.run(asks(h2, again))
	}
	pid := u.First.Process.Pid
	for range *handOvers {
		before := l.count.Load()
		proxytest.Eventually(t, "requests", func() bool { return l.count.Load() > before+50 })
		pid = u.reload(t, pid)
		fill(begin + each)
	}
	echoAll()
	before := l.count.Load()
	proxytest.Eventually(t, "requests", func() bool { return l.count.Load() > before+50 })
	l.stop.Store(true)
	l.work.Wait()
	l.failed.Range(func(err, at any) bool { t.Errorf("failed at %v: %v", at, err); return true })
	t.Logf("%d requests, %d WebSockets, %d processes", l.count.Load(), len(sockets), *handOvers+1)

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
	u := activate(t, echo(t).Addr(), "-stay", "300ms")
	w, err := open(u.HTTPS, &tls.Config{RootCAs: u.Roots(t), ServerName: "app.localhost"})
	require.NoError(t, err)
	defer w.Close()
	pid := u.reload(t, u.First.Process.Pid)
	require.NoError(t, w.echoes(), "the WebSocket stays open")
	got, err := io.ReadAll(io.LimitReader(w.r, 4))
	require.NoError(t, err)
	assert.Equal(t, "\x88\x02\x03\xe9", string(got), "Close, 1001 (Going Away)")
	w.Close()
	assert.NoError(t, u.First.Wait())
	u.End(t, pid)
}
