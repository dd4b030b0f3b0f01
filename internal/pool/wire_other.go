//go:build !unix || portable

package pool

import (
	"errors"
	"net"
	"os"
	"runtime"
	"time"
)

// A proof that a kept connection is alive is a goroutine that reads one byte
// for as long as it is kept, as in net/http's Transport: no portable way is
// known to read a socket without waiting. A byte, and the end, prove it dead.
//
// What differs from systems with such a way: a kept connection costs a
// goroutine, and taking it allocates the error that interrupts the goroutine;
// and one that waits for its target holds a buffer.
type proof struct {
	// the method hear, kept so that go allocates nothing; nil if the connection
	// cannot be proven alive
	hearing func()
	done    chan struct{} // has a value when hear has ended
	heard   bool          // hear has read something, or the end
}

// completes says that a read that waits is the system's to complete, so that
// none of what has come is unknown to it. Elsewhere the runtime hears of that a
// moment later.
const completes = runtime.GOOS == "windows"

// glance is how long one more look takes where a read does not complete by
// itself.
const glance = time.Millisecond

// above prepares a connection whose bytes are those of socket.
func (c *Conn) above(net.Conn) { c.hearing, c.done = c.hear, make(chan struct{}, 1) }

// provable reports whether the connection can be proven alive once it was kept.
func (c *Conn) provable() bool { return c.hearing != nil }

// guard begins the time in which the connection is kept. Closing it ends that
// too.
func (c *Conn) guard() {
	c.heard, c.read = false, deadline{}
	_ = c.Conn.SetReadDeadline(time.Time{})
	go c.hearing()
}

// unguard ends it.
func (c *Conn) unguard() {
	_ = c.Conn.SetReadDeadline(longAgo())
	<-c.done
	if !c.heard && !completes {
		_ = c.Conn.SetReadDeadline(time.Now().Add(glance))
		c.hear()
		<-c.done
	}
	_ = c.Conn.SetReadDeadline(time.Time{})
}

// hear waits for something to read, or for the deadline. Under TLS, session
// tickets and key updates are consumed on the way.
func (c *Conn) hear() {
	defer func() {
		if recover() != nil { // in a connection type of the embedding program, which would end here
			c.heard = true
		}
		c.done <- struct{}{}
	}()
	n, err := c.stream().Read(c.probe[:])
	c.heard = n > 0 || !errors.Is(err, os.ErrDeadlineExceeded)
}

// quiet reports whether the connection was open and had nothing to read when it
// was taken.
func (c *Conn) quiet() bool { return !c.heard }

// readNow is not called here: no connection has a raw socket to read from.
func readNow(uintptr, []byte) (int, error) { return 0, errAgain }
