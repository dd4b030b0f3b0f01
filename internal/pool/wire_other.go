//go:build !unix || portable

package pool

import (
	"errors"
	"net"
	"os"
	"runtime"
	"time"
)

// A proof tells whether a kept connection is alive: while the connection is
// kept, a goroutine reads one byte, as in net/http's Transport. There is no
// portable way to read a socket without waiting. If a byte or the end arrives,
// the connection is dead.
//
// This costs more than where a socket can be read without waiting: a kept
// connection has a goroutine, taking it allocates the error that interrupts the
// goroutine, and a connection that waits for its target holds a buffer.
type proof struct {
	// the method hear, stored so that the go statement allocates nothing; nil
	// if the connection cannot be proven alive
	hearing func()
	done    chan struct{} // gets a value when hear ends
	heard   bool          // hear has read a byte, or the end
}

// completes says whether the system itself completes a waiting read, so that
// the read misses no byte that has arrived. Elsewhere the runtime is told a
// moment later.
const completes = runtime.GOOS == "windows"

// glance is how long unguard reads once more where completes is false.
const glance = time.Millisecond

// above prepares a connection that carries the bytes of socket.
func (c *Conn) above(net.Conn) { c.hearing, c.done = c.hear, make(chan struct{}, 1) }

// provable reports whether the connection can be proven alive once it was kept.
func (c *Conn) provable() bool { return c.hearing != nil }

// guard starts hear, when the connection is kept. Closing the connection ends
// hear too.
func (c *Conn) guard() {
	c.heard, c.read = false, deadline{}
	_ = c.Conn.SetReadDeadline(time.Time{})
	go c.hearing()
}

// unguard ends hear.
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

// hear waits for a byte, or for the deadline. Under TLS it consumes session
// tickets and key updates.
func (c *Conn) hear() {
	defer func() {
		if recover() != nil { // in the program's connection type; it would end the program
			c.heard = true
		}
		c.done <- struct{}{}
	}()
	n, err := c.stream().Read(c.probe[:])
	c.heard = n > 0 || !errors.Is(err, os.ErrDeadlineExceeded)
}

// quiet reports whether the connection was open and had no byte to read when it
// was taken.
func (c *Conn) quiet() bool { return !c.heard }

// readNow is not called here: no connection has a raw socket to read from.
func readNow(uintptr, []byte) (int, error) { return 0, errAgain }
