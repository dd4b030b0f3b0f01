package proxytest

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A FaultMode is what a Fault does to the bytes that pass.
type FaultMode int32

// The modes of a Fault. Each decides at the bytes of a request, on connections that are open already too.
const (
	Pass       FaultMode = iota // nothing
	Refuse                      // nobody listens
	Hang                        // requests are taken, and nothing comes back
	Reset                       // the connection is reset at the request
	ResetLate                   // the connection is reset within the response
	Truncate                    // the connection ends within the response
	Garbage                     // something that is not HTTP is the answer
	HalfClose                   // the answer's direction is closed at the request
	Slow                        // each piece waits for a while
	faultModes                  // how many there are
)

// A Fault is a listener in front of a server that passes bytes both ways, and does what goes wrong in networks.
type Fault struct {
	addr string
	to   string
	mode atomic.Int32

	work sync.WaitGroup
	mu   sync.Mutex // guards what follows
	ln   net.Listener
	open map[net.Conn]struct{}
	over bool
}

// NewFault starts a Fault in front of the server at to. It ends with the test.
func NewFault(t testing.TB, to string) *Fault {
	t.Helper()
	ln := Listen(t)
	f := &Fault{addr: ln.Addr().String(), to: to, ln: ln, open: make(map[net.Conn]struct{})}
	f.work.Go(func() { f.accept(ln) })
	t.Cleanup(f.close)
	return f
}

// Addr returns the host:port on which f listens, unless it refuses.
func (f *Fault) Addr() string { return f.addr }

// Set changes what goes wrong.
func (f *Fault) Set(m FaultMode) {
	f.mode.Store(int32(m))
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.over:
	case m == Refuse:
		if f.ln != nil {
			f.ln.Close()
			f.ln = nil
		}
		for c := range f.open {
			c.Close()
		}
	case f.ln == nil:
		ln, err := net.Listen("tcp", f.addr)
		if err != nil {
			return // somebody has the port: it goes on refusing
		}
		f.ln = ln
		f.work.Go(func() { f.accept(ln) })
	}
}

// Change sets a mode drawn by r.
func (f *Fault) Change(r *rand.Rand) { f.Set(FaultMode(r.IntN(int(faultModes)))) }

func (f *Fault) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		if f.keep(c) {
			f.work.Go(func() { f.pass(c) })
		}
	}
}

// keep notes an open connection, or closes it if there is to be none.
func (f *Fault) keep(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over || f.ln == nil {
		c.Close()
		return false
	}
	f.open[c] = struct{}{}
	return true
}

func (f *Fault) forget(c net.Conn) {
	c.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, c)
}

// pass carries bytes between c and the server, as the mode says.
func (f *Fault) pass(c net.Conn) {
	defer f.forget(c)
	up, err := net.DialTimeout("tcp", f.to, Patience)
	if err != nil {
		return
	}
	if !f.keep(up) {
		return
	}
	defer f.forget(up)
	var late atomic.Bool // the response is to be cut off
	f.work.Go(func() {
		defer c.Close()
		f.answers(c, up, &late)
	})
	buf := make([]byte, 16<<10)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		switch FaultMode(f.mode.Load()) {
		case Hang:
			_, _ = io.Copy(io.Discard, c)
			return
		case Reset:
			reset(c)
			return
		case Garbage:
			_, _ = io.WriteString(c, "\x16\x03\x01 this is not HTTP\r\n\r\n")
			return
		case HalfClose:
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, c)
			return
		case ResetLate, Truncate:
			late.Store(true)
		case Slow:
			wait(2 * time.Millisecond)
		}
		if _, err := up.Write(buf[:n]); err != nil {
			return
		}
	}
}

// answers carries the server's bytes to c.
func (f *Fault) answers(c, up net.Conn, late *atomic.Bool) {
	buf := make([]byte, 16<<10)
	for {
		n, err := up.Read(buf)
		if err != nil {
			return
		}
		m := FaultMode(f.mode.Load())
		if late.Load() {
			_, _ = c.Write(buf[:rand.IntN(n)])
			if m != Truncate {
				reset(c)
			}
			return
		}
		if m == Slow {
			wait(2 * time.Millisecond)
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

func wait(d time.Duration) { <-time.After(d) }

func (f *Fault) close() {
	f.mu.Lock()
	f.over = true
	if f.ln != nil {
		f.ln.Close()
	}
	for c := range f.open {
		c.Close()
	}
	f.mu.Unlock()
	f.work.Wait()
}
