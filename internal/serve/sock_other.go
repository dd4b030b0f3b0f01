//go:build !unix || portable

package serve

import (
	"io/fs"
	"sync/atomic"
	"time"
)

// canTry is false: there is no portable way to read a socket without waiting.
const canTry = false

func (c *conn) tryRead(uintptr) bool { return true }

func (c *conn) readNow([]byte) int { return 0 }

// A lookahead replaces the sweeper's peek on these systems: it notices a client
// that leaves while its exchange runs on the fast lane. A goroutine reads what
// the client sends meanwhile, below TLS, and Read returns that later. The
// sweeper starts it, so that short exchanges cost nothing; the exchange ends
// it.
//
// Two clients are noticed later than with a peek. One sends more than maxAhead
// bytes before it leaves. The other leaves while its request waits in the
// handler lane with an unread body. They are noticed when these bytes are read.
type lookahead struct {
	looks chan struct{} // closed when look has ended; nil if it does not run
	ahead []byte        // bytes that look has read
	ended atomic.Bool   // nothing comes after ahead
}

// maxAhead limits how much is read ahead.
const maxAhead = 2 << 10

// lookAhead starts to look, unless it already has. Nothing else may read from c
// until lookBack.
func (c *conn) lookAhead() {
	if c.looks != nil || c.ended.Load() || len(c.ahead) >= maxAhead {
		return
	}
	c.looks = make(chan struct{})
	_ = c.Conn.SetReadDeadline(time.Time{})
	go c.look()
}

func (c *conn) look() {
	defer close(c.looks)
	defer c.contain()
	if c.ahead == nil {
		c.ahead = make([]byte, 0, maxAhead)
	}
	for len(c.ahead) < maxAhead {
		n, err := c.Conn.Read(c.ahead[len(c.ahead):maxAhead])
		c.ahead = c.ahead[:len(c.ahead)+n]
		if err != nil {
			c.ended.Store(!isTimeout(err))
			return
		}
	}
}

// lookBack ends lookAhead and removes any read deadline.
func (c *conn) lookBack() {
	if c.looks == nil {
		return
	}
	c.interrupt()
	<-c.looks
	c.looks = nil
	c.readArmed = time.Time{}
	_ = c.Conn.SetReadDeadline(time.Time{})
}

// endSeen reports whether the client is known to have closed its side.
func (c *conn) endSeen() bool { return c.ended.Load() }

// Read implements io.Reader.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.ahead) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.ahead)
	if c.ahead = c.ahead[:copy(c.ahead, c.ahead[n:])]; len(c.ahead) == 0 {
		c.ahead = nil
	}
	return n, nil
}

// narrowMode does nothing: the file gets its mode once the listener is open.
func narrowMode(uintptr, fs.FileMode) {}
