//go:build !unix || portable

package serve

import (
	"io/fs"
	"sync/atomic"
	"time"
)

// canTry: no portable way is known to read a socket without waiting.
const canTry = false

func (c *conn) tryRead(uintptr) bool { return true }

func (c *conn) readNow([]byte) int { return 0 }

// A lookahead is how the sweeper sees a client leave while its exchange runs on
// the fast lane, where it cannot peek: a goroutine reads what the client sends
// meanwhile, below TLS, and Read returns that later. The sweeper begins it, so
// that short exchanges cost nothing; the exchange ends it.
//
// What differs from systems where it can peek: a client that leaves behind more
// than maxAhead bytes is noticed when those are read, and so is one that leaves
// a body behind which its request waits in the handler lane.
type lookahead struct {
	looks chan struct{} // closed when look has ended; nil without one
	ahead []byte        // what look has read
	ended atomic.Bool   // and behind that, that nothing comes any more
}

// maxAhead is how much is read ahead.
const maxAhead = 2 << 10

// lookAhead begins to look, unless that has been done. Nobody reads from c
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

// lookBack ends lookAhead, and any deadline of reads.
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

// endSeen reports whether it is known that the client has closed its side.
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

// narrowMode does nothing: the file has its mode when the listener is open.
func narrowMode(uintptr, fs.FileMode) {}
