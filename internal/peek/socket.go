package peek

import (
	"net"
	"syscall"
)

// Socket returns the TCP or unix connection that carries the bytes of c
// unchanged: c itself, or the one that the method Unbuffered of c leads to. It
// returns nil if there is none. A type that embeds a *net.TCPConn does not
// count: it may have its own Read.
func Socket(c net.Conn) net.Conn {
	for range maxWrappers {
		switch w := c.(type) {
		case *net.TCPConn:
			if w == nil {
				return nil
			}
			return w
		case *net.UnixConn:
			if w == nil {
				return nil
			}
			return w
		case interface{ Unbuffered() net.Conn }:
			c = w.Unbuffered()
		default:
			return nil
		}
	}
	return nil
}

// maxWrappers limits the search for a socket below a connection, in case a
// wrapper returns itself.
const maxWrappers = 16

// Raw returns the socket of c for system calls, and nil if there is none.
func Raw(c net.Conn) syscall.RawConn {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}
