package proxytest

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A Load repeats requests until it is stopped.
type Load struct {
	stop   atomic.Bool
	count  atomic.Int64
	failed sync.Map // key: error text; value: when it came
	work   sync.WaitGroup
}

// Run calls ask again and again.
func (l *Load) Run(ask func() error) {
	l.work.Go(func() {
		for !l.stop.Load() {
			if err := ask(); err != nil {
				l.failed.Store(err.Error(), time.Now())
			}
			l.count.Add(1)
		}
	})
}

// Count returns how many requests have ended.
func (l *Load) Count() int64 { return l.count.Load() }

// Await waits until another n requests have ended.
func (l *Load) Await(t testing.TB, n int64) {
	t.Helper()
	before := l.Count()
	Eventually(t, "requests", func() bool { return l.Count() >= before+n })
}

// Stop waits for the requests in flight, and reports each error once, with the
// time since begin. Later calls do nothing.
func (l *Load) Stop(t testing.TB, begin time.Time) {
	t.Helper()
	l.stop.Store(true)
	l.work.Wait()
	l.failed.Range(func(err, at any) bool {
		t.Errorf("failed %v after the begin: %v", at.(time.Time).Sub(begin), err)
		return true
	})
	l.failed.Clear()
}

// Once returns a body of ten bytes that net/http cannot send a second time: it
// does not retry the request.
func Once() io.Reader { return io.MultiReader(Again()) }

// Again returns a body of ten bytes that net/http can send again. Over HTTP/2,
// net/http fails with other bodies if a GOAWAY arrives before it has sent the
// request.
func Again() io.Reader { return strings.NewReader("0123456789") }

// AskAnew returns a function for Load.Run that opens a connection for each
// request to conf's ServerName, and sends the request 5 ms later.
func AskAnew(addr string, conf *tls.Config) func() error {
	pause := time.NewTimer(0)
	return func() error {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: Patience}, "tcp", addr, conf)
		if err != nil {
			return err
		}
		defer c.Close()
		pause.Reset(5 * time.Millisecond)
		<-pause.C
		_ = c.SetDeadline(time.Now().Add(Patience))
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+conf.ServerName+"\r\nConnection: close\r\n\r\n"); err != nil {
			return err
		}
		text, err := io.ReadAll(c)
		if err == nil && !strings.HasPrefix(string(text), "HTTP/1.1 200 ") {
			err = fmt.Errorf("over a new connection: %q", text)
		}
		return err
	}
}

// frame is an empty WebSocket frame of a client.
const frame = "\x81\x80\x00\x00\x00\x00"

// NewEcho returns a target that answers with its name and the length of the
// request's body, as in "one 10", and echoes the frames of a [WebSocket].
func NewEcho(t testing.TB, name string) *Server {
	return NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Upgrade") == "" {
			n, _ := io.Copy(io.Discard, q.Body)
			fmt.Fprintf(w, "%s %d", name, n)
			return
		}
		c, b, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", Accept(q.Header))
		got := make([]byte, len(frame))
		for err == nil && got[0] != '\x88' { // an echoed Close would look like the client's own
			if _, err = io.ReadFull(b, got); err == nil && got[0] != '\x88' {
				_, err = c.Write(got)
			}
		}
		_, _ = io.Copy(io.Discard, b)
	}))
}

// A WebSocket is a connection to an echo.
type WebSocket struct {
	net.Conn
	r *bufio.Reader
}

// ErrGoingAway means that the server has closed a WebSocket with 1001.
var ErrGoingAway = errors.New("going away")

// OpenWebSocket opens a WebSocket to conf's ServerName at addr. The caller
// closes it.
func OpenWebSocket(addr string, conf *tls.Config) (*WebSocket, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: Patience}, "tcp", addr, conf)
	if err != nil {
		return nil, err
	}
	w := &WebSocket{c, bufio.NewReaderSize(c, 256)} // a test has thousands of them
	_ = c.SetDeadline(time.Now().Add(4 * Patience))
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+conf.ServerName+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	if err == nil {
		var p *http.Response
		if p, err = http.ReadResponse(w.r, nil); err == nil && p.StatusCode != http.StatusSwitchingProtocols {
			err = fmt.Errorf("a WebSocket gets %s", p.Status)
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return w, nil
}

// Echo sends a frame and reads it back. It returns ErrGoingAway after a Close
// with 1001.
func (w *WebSocket) Echo() error {
	_ = w.SetDeadline(time.Now().Add(2 * Patience))
	_, written := io.WriteString(w, frame) // the WebSocket may be closed already
	got, err := w.ReadFrame()
	if err != nil {
		return fmt.Errorf("a WebSocket ends without a Close frame: %w (%v)", err, written)
	}
	switch {
	case got[0] == '\x88' && len(got) >= 4 && binary.BigEndian.Uint16([]byte(got[2:])) == 1001:
		return ErrGoingAway
	case got != frame:
		return fmt.Errorf("a WebSocket echoes %q", got)
	}
	return nil
}

// ReadFrame returns the next frame, head and content. It must be short.
func (w *WebSocket) ReadFrame() (string, error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(w.r, head); err != nil {
		return "", err
	}
	n := int(head[1] & 0x7f)
	if head[1]&0x80 != 0 {
		n += 4 // the mask
	}
	rest := make([]byte, n)
	_, err := io.ReadFull(w.r, rest)
	return string(append(head, rest...)), err
}
