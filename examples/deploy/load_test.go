//go:build unix

package main

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
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
	loadFor    = flag.Duration("load", 0, "how long to deploy under load; 0 means two rounds")
	webSockets = flag.Int("websockets", 30, "WebSockets that are open meanwhile")
)

// frame is an empty WebSocket frame of a client.
const frame = "\x81\x80\x00\x00\x00\x00"

// newEcho returns a target that answers with its name and echoes WebSocket
// frames.
func newEcho(t *testing.T, name string) *proxytest.Server {
	return proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Upgrade") == "" {
			_, _ = io.Copy(io.Discard, q.Body)
			fmt.Fprint(w, name)
			return
		}
		c, b, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", proxytest.Accept(q.Header))
		got := make([]byte, len(frame))
		for err == nil && got[0] != '\x88' {
			if _, err = io.ReadFull(b, got); err == nil && got[0] != '\x88' {
				_, err = c.Write(got)
			}
		}
		_, _ = io.Copy(io.Discard, b)
	}))
}

// A crowd sends requests to a unit until it is stopped.
type crowd struct {
	stop     atomic.Bool
	requests atomic.Int64
	echoes   atomic.Int64
	closed   atomic.Int64 // WebSockets that were closed with 1001 and opened again
	failed   sync.Map     // key: error text; value: when it came
	work     sync.WaitGroup
}

// run calls ask again and again.
func (l *crowd) run(ask func() error) {
	l.work.Go(func() {
		for !l.stop.Load() {
			if err := ask(); err != nil {
				l.failed.Store(err.Error(), time.Now())
			}
		}
	})
}

// posts returns a function that posts bodies.
func (l *crowd) posts(c *http.Client, body func() io.Reader) func() error {
	return func() error {
		q, err := http.NewRequest("POST", "https://app.localhost/", body())
		if err != nil {
			return err
		}
		if l.requests.Add(1)%5 == 0 {
			q.Header.Set("X-Canary", "1")
		}
		p, err := c.Do(q)
		if err != nil {
			return err
		}
		defer p.Body.Close()
		text, err := io.ReadAll(p.Body)
		if err == nil && (p.StatusCode != 200 || string(text) != "one" && string(text) != "two") {
			err = fmt.Errorf("%s over %s: %q", p.Status, p.Proto, text)
		}
		return err
	}
}

// once returns a body that cannot be sent twice, so net/http does not retry the
// request.
func once() io.Reader { return io.MultiReader(again()) }

// again returns a body that can be sent again, as is required after a GOAWAY.
func again() io.Reader { return strings.NewReader("0123456789") }

// asksAnew returns a function that opens a connection for each request.
func (l *crowd) asksAnew(addr string, conf *tls.Config) func() error {
	return func() error {
		l.requests.Add(1)
		c, err := tls.Dial("tcp", addr, conf)
		if err != nil {
			return err
		}
		defer c.Close()
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

// errGoesAway means that the server has closed a WebSocket with 1001.
var errGoesAway = errors.New("going away")

func open(addr string, conf *tls.Config) (*webSocket, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: proxytest.Patience}, "tcp", addr, conf)
	if err != nil {
		return nil, err
	}
	w := &webSocket{c, bufio.NewReaderSize(c, 256)}
	_ = c.SetDeadline(time.Now().Add(proxytest.Patience))
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	if err == nil {
		var p *http.Response
		if p, err = http.ReadResponse(w.r, nil); err == nil && p.StatusCode != 101 {
			err = fmt.Errorf("a WebSocket gets %s", p.Status)
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return w, nil
}

// echo sends a frame and reads it back. It returns errGoesAway after a Close
// with 1001.
func (w *webSocket) echo() error {
	_ = w.SetDeadline(time.Now().Add(proxytest.Patience))
	_, written := io.WriteString(w, frame) // the WebSocket may be closed already
	var head [2]byte
	if _, err := io.ReadFull(w.r, head[:]); err != nil {
		return fmt.Errorf("a WebSocket ends without a Close frame: %w (%v)", err, written)
	}
	rest := make([]byte, int(head[1]&0x7f))
	if head[1]&0x80 != 0 {
		rest = make([]byte, len(rest)+4)
	}
	if _, err := io.ReadFull(w.r, rest); err != nil {
		return err
	}
	switch {
	case head[0] == 0x88 && len(rest) >= 2 && binary.BigEndian.Uint16(rest) == 1001:
		return errGoesAway
	case string(head[:])+string(rest) != frame:
		return fmt.Errorf("a WebSocket echoes %q", string(head[:])+string(rest))
	}
	return nil
}

// talks returns a function that echoes on a WebSocket, and opens a new one when
// the server goes away.
func (l *crowd) talks(addr string, conf *tls.Config) (ask, end func() error) {
	var w *webSocket
	pause := time.NewTimer(0)
	ask = func() (err error) {
		if w == nil {
			if w, err = open(addr, conf); err != nil {
				return err
			}
		}
		if err = w.echo(); err == nil {
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
		if errors.Is(err, errGoesAway) {
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
		before := l.requests.Load()
		proxytest.Eventually(t, "requests", func() bool { return paused || l.requests.Load() > before+50 })
	}
	return pid
}

// Clients send requests over HTTP/1.1 and HTTP/2, on kept and on new
// connections, and use WebSockets. Meanwhile versions are deployed, tried on a
// canary, promoted and rolled back, and the proxy restarts itself. Nothing
// fails.
func TestNothingFailsUnderLoad(t *testing.T) {
	u := activate(t)
	one, two := newEcho(t, "one").Addr(), newEcho(t, "two").Addr()
	u.must(t, "app", "app.localhost", one)
	roots := u.Roots(t)
	conf := &tls.Config{RootCAs: roots, ServerName: "app.localhost", NextProtos: []string{"http/1.1"}}
	l := new(crowd)
	require.NoError(t, l.asksAnew(u.HTTPS, conf)(), "few clients may wait for the first certificate")
	h2 := proxytest.HTTPClient(t, u.HTTPS, roots, "h2")
	h1 := proxytest.HTTPClient(t, u.HTTPS, roots, "h1")
	l.run(l.asksAnew(u.HTTPS, conf))
	for range 2 {
		l.run(l.posts(h1, once))
		l.run(l.posts(h2, again))
	}
	var ends []func() error
	for range *webSockets {
		ask, end := l.talks(u.HTTPS, conf)
		l.run(ask)
		ends = append(ends, end)
	}
	proxytest.Eventually(t, "WebSockets", func() bool { return l.echoes.Load() > int64(2**webSockets) })
	begin := time.Now()
	defer l.failed.Range(func(err, at any) bool {
		t.Errorf("failed %v after the begin: %v", at.(time.Time).Sub(begin), err)
		return true
	})
	defer l.work.Wait()
	defer l.stop.Store(true)
	pid, rounds := u.First.Process.Pid, 0
	for ; rounds == 0 || rounds == 1 && time.Since(begin) < 5*time.Second || time.Since(begin) < *loadFor; rounds++ {
		pid = l.round(t, u, pid, one, two)
	}
	l.stop.Store(true)
	l.work.Wait()
	t.Logf("%d rounds in %v: %d requests, %d echoes, %d WebSockets closed with 1001 and opened again", rounds, time.Since(begin).Round(time.Millisecond),
		l.requests.Load(), l.echoes.Load(), l.closed.Load())
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
