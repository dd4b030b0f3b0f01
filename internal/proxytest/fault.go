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

// A FaultMode is what a Fault does to the bytes that it forwards.
type FaultMode int32

// The modes of a Fault. A mode applies when the bytes of a request arrive, on
// open connections too.
const (
	Pass       FaultMode = iota // nothing
	Refuse                      // connections are refused
	Hang                        // requests are read but not answered
	Reset                       // the connection is reset at the request
	ResetLate                   // the connection is reset within the response
	Truncate                    // the connection ends within the response
	Garbage                     // the answer is not HTTP
	HalfClose                   // the answering direction is closed at the request
	Slow                        // each piece is delayed
	faultModes                  // number of modes
)

// A Fault is a listener in front of a server. It forwards bytes both ways, and
// simulates network failures.
type Fault struct {
	addr string
	to   string
	mode atomic.Int32

	failed, cut atomic.Int64 // see Harm

	work sync.WaitGroup
	mu   sync.Mutex // guards the rest
	ln   net.Listener
	open map[net.Conn]*pulse // value is nil for a connection to the server
	over bool
}

// A pulse records when bytes passed over a connection.
type pulse struct {
	asked atomic.Bool  // an answer is expected and has not begun
	last  atomic.Int64 // nanoseconds of the wall clock
}

func (p *pulse) beat(asked bool) {
	p.asked.Store(asked)
	p.last.Store(time.Now().UnixNano())
}

// busy reports whether an exchange may be in progress: once an answer has
// begun, bytes pass continuously.
func (p *pulse) busy() bool {
	return p != nil && (p.asked.Load() || time.Now().UnixNano()-p.last.Load() < int64(100*time.Millisecond))
}

// NewFault starts a Fault in front of the server at to. It is closed when the
// test ends.
func NewFault(t testing.TB, to string) *Fault {
	t.Helper()
	ln := Listen(t)
	f := &Fault{addr: ln.Addr().String(), to: to, ln: ln, open: make(map[net.Conn]*pulse)}
	f.work.Go(func() { f.accept(ln) })
	t.Cleanup(f.close)
	return f
}

// Addr returns the host:port on which f listens, except while it refuses.
func (f *Fault) Addr() string { return f.addr }

// Set changes the mode.
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
		for c, p := range f.open {
			if p.busy() {
				f.cutOff()
			}
			c.Close()
		}
	case f.ln == nil:
		ln, err := net.Listen("tcp", f.addr)
		if err != nil {
			return // the port is taken: keep refusing
		}
		f.ln = ln
		f.work.Go(func() { f.accept(ln) })
	}
}

// Change sets a random mode, drawn from r.
func (f *Fault) Change(r *rand.Rand) { f.Set(FaultMode(r.IntN(int(faultModes)))) }

// Harm returns how many connections f has made fail, except refused ones, and
// how many of them may have had an answer cut off.
func (f *Fault) Harm() (failed, cut int64) { return f.failed.Load(), f.cut.Load() }

// cutOff notes that a connection ends while an answer may be in progress.
func (f *Fault) cutOff() {
	f.failed.Add(1)
	f.cut.Add(1)
}

func (f *Fault) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		if p := new(pulse); f.keep(c, p) {
			f.work.Go(func() { f.pass(c, p) })
		}
	}
}

// keep records an open connection, or closes it if none is allowed.
func (f *Fault) keep(c net.Conn, p *pulse) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over || f.ln == nil {
		c.Close()
		return false
	}
	f.open[c] = p
	return true
}

func (f *Fault) forget(c net.Conn) {
	c.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, c)
}

// pass forwards bytes between c and the server, according to the mode.
func (f *Fault) pass(c net.Conn, p *pulse) {
	defer f.forget(c)
	up, err := net.DialTimeout("tcp", f.to, Patience)
	if err != nil {
		return
	}
	if !f.keep(up, nil) {
		return
	}
	defer f.forget(up)
	var late atomic.Bool // the response must be cut off
	f.work.Go(func() {
		defer c.Close()
		f.answers(c, up, p, &late)
	})
	buf := make([]byte, 16<<10)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		p.beat(true)
		m := FaultMode(f.mode.Load())
		switch m {
		case Hang, Reset, Garbage, HalfClose:
			f.failed.Add(1)
		}
		switch m {
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

// answers forwards the server's bytes to c.
func (f *Fault) answers(c, up net.Conn, p *pulse, late *atomic.Bool) {
	buf := make([]byte, 16<<10)
	for {
		n, err := up.Read(buf)
		if err != nil {
			return
		}
		p.beat(false)
		m := FaultMode(f.mode.Load())
		if late.Load() {
			f.cutOff()
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
