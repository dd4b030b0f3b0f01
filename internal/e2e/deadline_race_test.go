package e2e_test

import (
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// An arming connection is slow to set a read deadline of the server, so that a
// handler can set another one meanwhile.
type arming struct {
	net.Conn
	began chan struct{} // gets a value when the server's deadline is being set
	past  atomic.Bool   // a deadline in the past was set
}

func (c *arming) SetReadDeadline(at time.Time) error {
	switch {
	case at.IsZero():
	case time.Until(at) < 0:
		defer c.past.Store(true)
	case time.Until(at) > 50*time.Second:
		select {
		case c.began <- struct{}{}:
			happens(2*moment, c.past.Load)
		default:
		}
	}
	return c.Conn.SetReadDeadline(at)
}

// The read deadline that a handler sets stays, even if it is set while a Read
// of the body begins.
func TestADeadlineThatComesWhileAReadBeginsHolds(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	began := make(chan struct{})
	r := &hostproxy.Router{Logger: panicsFail(t)}
	failed := make(chan error, 1)
	r.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		read := make(chan error, 1)
		go func() {
			_, err := q.Body.Read(make([]byte, 10))
			read <- err
		}()
		<-began
		assert.NoError(t, http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)))
		select {
		case err := <-read:
			failed <- err
		case <-time.After(proxytest.Patience):
			failed <- nil
		}
	}))
	s := &site{listen: func(ln net.Listener) net.Listener {
		return &wrapping{ln, func(c *net.TCPConn) net.Conn { return &arming{Conn: c, began: began} }}
	}}
	c := proxytest.Dial(t, proxytest.StartPlain(t, s.runner(&hostproxy.Server{Router: r, IdleTimeout: proxytest.Patience, ReadHeaderTimeout: proxytest.Patience})).Plain)
	c.Send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\n")
	assert.Error(t, <-failed)
}
