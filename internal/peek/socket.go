package peek

import (
	"net"
	"syscall"
)

// Socket returns the TCP or unix connection whose bytes are those of c: c
// itself, or what is below it if c has a method Unbuffered that returns it. It
// returns nil if there is none. A type that embeds a *net.TCPConn is none: its
// Read may be another one.
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

// maxWrappers is how deep a socket may be below a connection, so that a wrapper
// that returns itself does no harm.
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
