package peek

import (
	"net"
	"sync/atomic"
	"syscall"
)

// A Mark is the progress of a connection in sending: if two marks differ, bytes
// have moved between them. A waiting write alone does not show that. Systems
// wake a writer only when much of its buffer is free again, and with a slow
// peer that may take minutes.
type Mark struct {
	Written int64 // bytes given to the connection
	Queued  int64 // bytes of these that the peer has not acknowledged; 0 if not known
}

// MarkOf returns the mark of c. c must be a socket, have a method Mark, or have
// a method NetConn that leads to one of these. MarkOf may be called during
// reads and writes.
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

// Queued returns the number of bytes written to c that its peer has not
// acknowledged, or 0 if the system does not tell. c may be nil.
func Queued(c syscall.RawConn) (n int64) {
	if c != nil {
		_ = c.Control(func(fd uintptr) { n = queued(fd) })
	}
	return n
}

// A Progress notices whether bytes leave a connection during a write. Only the
// writer calls Wrote and Moved; any goroutine may call Mark.
type Progress struct {
	written atomic.Int64
	seen    Mark // used by the writer
}

// Wrote counts n bytes that were written.
func (p *Progress) Wrote(n int) { p.written.Add(int64(n)) }

// Mark returns the current mark; c is the connection's socket, or nil.
func (p *Progress) Mark(c syscall.RawConn) Mark {
	return Mark{Written: p.written.Load(), Queued: Queued(c)}
}

// Moved reports whether bytes have moved since its last call.
func (p *Progress) Moved(c syscall.RawConn) bool {
	before := p.seen
	p.seen = p.Mark(c)
	return p.seen != before
}
