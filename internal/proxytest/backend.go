package proxytest

import (
	"crypto/sha1"
	"encoding/base64"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// A Backend is an upstream at the level of raw bytes: it records what it
// receives, and a script answers.
type Backend struct {
	t      testing.TB
	ln     net.Listener
	script func(*BackendConn)
	done   chan struct{} // closed when the test ends
	wg     sync.WaitGroup

	mu       sync.Mutex
	conns    []*BackendConn
	requests []*Request
	arrived  chan struct{} // closed and replaced at each new request or connection
}

// A BackendConn is one accepted connection, used by the script.
type BackendConn struct {
	*Conn
	Number int // from 0, in order of accept

	backend *Backend
}

// NewBackend starts a Backend that runs script on each connection, in its own
// goroutine, and closes the connection when script returns.
func NewBackend(t testing.TB, script func(*BackendConn)) *Backend {
	t.Helper()
	return NewBackendOn(t, Listen(t), script)
}

// NewBackendOn is NewBackend on an existing listener.
func NewBackendOn(t testing.TB, ln net.Listener, script func(*BackendConn)) *Backend {
	b := &Backend{t: t, ln: ln, script: script, done: make(chan struct{}), arrived: make(chan struct{})}
	b.wg.Go(b.accept)
	t.Cleanup(b.close)
	return b
}

// Reply returns a script that answers the requests of a connection with the
// elements of raw, in turn; the last one is repeated. An empty string closes
// the connection.
func Reply(raw ...string) func(*BackendConn) {
	return func(c *BackendConn) {
		for i := 0; ; i++ {
			if _, err := c.ReadRequest(); err != nil {
				return
			}
			answer := raw[min(i, len(raw)-1)]
			if answer == "" || c.Send(answer) != nil {
				return
			}
		}
	}
}

// Addr returns the host:port on which b listens.
func (b *Backend) Addr() string { return b.ln.Addr().String() }

// Requests returns the requests that the script has read so far.
func (b *Backend) Requests() []*Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.requests)
}

// Conns returns the number of connections accepted so far.
func (b *Backend) Conns() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns)
}

// WaitRequests waits until the script has read n requests, and returns them.
func (b *Backend) WaitRequests(n int) []*Request {
	b.t.Helper()
	b.wait("requests", func() bool { return len(b.requests) >= n })
	return b.Requests()
}

// WaitConns waits until n connections have been accepted.
func (b *Backend) WaitConns(n int) {
	b.t.Helper()
	b.wait("connections", func() bool { return len(b.conns) >= n })
}

// ReadRequest reads one whole request and records it.
func (c *BackendConn) ReadRequest() (*Request, error) {
	q, err := c.Conn.ReadRequest()
	if q != nil {
		q.Conn = c.Number
		b := c.backend
		b.mu.Lock()
		b.requests = append(b.requests, q)
		b.notify()
		b.mu.Unlock()
	}
	return q, err
}

// Wait waits until ch is closed or has a value. It returns false if the test
// ends first.
func (c *BackendConn) Wait(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	case <-c.backend.done:
		return false
	}
}

func (b *Backend) accept() {
	for {
		nc, err := b.ln.Accept()
		if err != nil {
			return
		}
		c := &BackendConn{Conn: NewConn(nc), backend: b}
		b.mu.Lock()
		c.Number = len(b.conns)
		b.conns = append(b.conns, c)
		b.notify()
		b.mu.Unlock()
		b.wg.Go(c.run)
	}
}

func (c *BackendConn) run() {
	defer c.Close()
	c.backend.script(c)
}

// notify wakes the waiters. The caller holds mu.
func (b *Backend) notify() {
	close(b.arrived)
	b.arrived = make(chan struct{})
}

// wait waits until enough, called with mu held, reports true.
func (b *Backend) wait(what string, enough func() bool) {
	b.t.Helper()
	timeout := time.NewTimer(Patience)
	defer timeout.Stop()
	for {
		b.mu.Lock()
		ok, arrived := enough(), b.arrived
		b.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-arrived:
		case <-timeout.C:
			b.t.Fatalf("proxytest: still waiting for %s after %v", what, Patience)
		}
	}
}

func (b *Backend) close() {
	close(b.done)
	b.ln.Close()
	b.mu.Lock()
	for _, c := range b.conns {
		c.Close()
	}
	b.mu.Unlock()
	b.wg.Wait()
}

// Accept returns the Sec-WebSocket-Accept for a request with the header h (RFC
// 6455, 4.2.2).
func Accept(h http.Header) string {
	sum := sha1.Sum([]byte(h.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
