package peek

import (
	"net"
	"sync/atomic"
	"syscall"
)

// A Mark is how far a connection has come in sending: two that differ have had
// a byte moved between them. A write that waits does not tell, since systems
// wake a writer only when much of its buffer is free again, and a slow peer may
// take minutes for that.
type Mark struct {
	Written int64 // bytes given to the connection
	Queued  int64 // bytes of them that the peer has not acknowledged; 0 where systems do not tell
}

// MarkOf returns the mark of c, if it is a socket, has a method Mark, or is
// above one that does, as its method NetConn says. It may be called while
// others read and write.
func MarkOf(c any) (m Mark, ok bool) {
	for range maxWrappers {
		switch w := c.(type) {
		case interface{ Mark() Mark }:
			return w.Mark(), true
		case interface{ NetConn() net.Conn }:
			c = w.NetConn()
		case net.Conn:
			s := Socket(w)
			return Mark{Queued: Queued(Raw(s))}, s != nil
		default:
			return Mark{}, false
		}
	}
	return Mark{}, false
}

// Queued returns how many bytes written to c its peer has not acknowledged, or
// 0 where systems do not tell. c may be nil.
func Queued(c syscall.RawConn) (n int64) {
	if c != nil {
		_ = c.Control(func(fd uintptr) { n = queued(fd) })
	}
	return n
}

// A Progress notices whether bytes move out of a connection while a write
// waits. The writer calls Wrote and Moved, anybody Mark.
type Progress struct {
	written atomic.Int64
	seen    Mark // by the writer
}

// Wrote counts n bytes that a write has taken.
func (p *Progress) Wrote(n int) { p.written.Add(int64(n)) }

// Mark returns where the connection is; c is its socket, or nil.
func (p *Progress) Mark(c syscall.RawConn) Mark {
	return Mark{Written: p.written.Load(), Queued: Queued(c)}
}

// Moved reports whether bytes have moved since it was called last.
func (p *Progress) Moved(c syscall.RawConn) bool {
	before := p.seen
	p.seen = p.Mark(c)
	return p.seen != before
}
