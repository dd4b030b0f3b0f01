package pool

import (
	"os"
	"sync"
	"time"
)

// A Pipe moves bytes from one socket to another within the kernel. It keeps the
// bytes that the second socket has not taken yet, so a deadline loses none.
type Pipe struct {
	pipeEnds
	held int   // bytes in it
	room int   // most bytes for fill to move
	err  error // of the last system call

	// Out moves bytes to a socket until the pipe is empty or the socket takes
	// no more. It reports false to wait for the socket. syscall.RawConn.Write
	// calls it.
	Out func(fd uintptr) bool

	in func(fd uintptr) bool
}

// maxHeld is the size of a pipe that is requested from the system, as in
// package net.
const maxHeld = 1 << 20

// pipes keeps open pipes. When it drops one, a cleanup closes it.
var pipes sync.Pool

func takePipe() *Pipe {
	if p, _ := pipes.Get().(*Pipe); p != nil {
		return p
	}
	return newPipe()
}

// giveBack keeps the pipe for reuse, or closes it if it is not empty.
func (p *Pipe) giveBack() {
	if p.held > 0 {
		p.close()
		return
	}
	p.err = nil
	pipes.Put(p)
}

// Held returns how many bytes are in the pipe.
func (p *Pipe) Held() int { return p.held }

// Err returns the error of the last system call, or nil.
func (p *Pipe) Err() error { return p.err }

// A Sink is a socket that SpliceTo writes to.
type Sink interface {
	// Pump empties p into the socket. It fails when the socket takes nothing
	// for too long.
	Pump(p *Pipe) error
}

// SpliceTo moves n bytes to dst within the kernel, and returns how many dst has
// taken: fewer at the end of the stream, none under TLS and where the system
// cannot do it. It fails when the target sends nothing for idle; zero means no
// limit. There is no least rate. All buffered bytes must have been read before.
func (c *Conn) SpliceTo(dst Sink, n int64, idle time.Duration) (moved int64, err error) {
	if !c.splices || c.tls != nil || c.r < c.w || n <= 0 {
		return 0, nil
	}
	p := takePipe()
	if p == nil {
		return 0, nil
	}
	defer p.giveBack()
	for moved < n && err == nil {
		if idle > 0 {
			_ = c.SetReadDeadline(time.Now().Add(idle))
		}
		p.room = int(min(n-moved, maxHeld))
		if err = c.drainTo(p); p.held == 0 {
			break
		}
		held := p.held
		err = dst.Pump(p)
		moved += int64(held - p.held)
	}
	if err != nil && c.aborted() {
		err = ErrAborted
	}
	return moved, err
}

// drainTo waits for bytes of the target and moves them into p. It moves none at
// the end of the stream, and where the system cannot do this.
func (c *Conn) drainTo(p *Pipe) error {
	for {
		err := c.raw.Read(p.in)
		switch {
		case err == nil && p.err != nil && !unspliceable(p.err):
			return os.NewSyscallError("splice", p.err)
		case err == nil || !c.rearmRead(err):
			return err
		}
	}
}
