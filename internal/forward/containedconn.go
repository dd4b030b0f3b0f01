package forward

import (
	"fmt"
	"net"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// A containedConn is a connection from the user's Dial for an http.Transport,
// which uses it on goroutines of its own: there a panic would end the program.
// A panic of Conn becomes an error, and so does an impossible count of bytes,
// with which the http.Transport would panic.
type containedConn struct{ net.Conn }

// inConn is the hook of a panic in such a connection.
const inConn = "a connection"

// containConn returns nc, or a containedConn if nc has methods of the user's.
func containConn(nc net.Conn) net.Conn {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		return nc
	}
	return containedConn{nc}
}

// Read implements net.Conn.
func (c containedConn) Read(p []byte) (n int, err error) {
	defer exchange.Contain(inConn, &err)
	n, err = c.Conn.Read(p)
	return possible("Read", n, len(p), err)
}

// Write implements net.Conn.
func (c containedConn) Write(p []byte) (n int, err error) {
	defer exchange.Contain(inConn, &err)
	n, err = c.Conn.Write(p)
	return possible("Write", n, len(p), err)
}

// possible returns n and err, or an error if n is impossible.
func possible(method string, n, most int, err error) (int, error) {
	if n < 0 || n > most {
		return 0, fmt.Errorf("%s of a connection returned %d for %d bytes", method, n, most)
	}
	return n, err
}

// Close implements net.Conn.
func (c containedConn) Close() (err error) {
	defer exchange.Contain(inConn, &err)
	return c.Conn.Close()
}

// SetDeadline implements net.Conn.
func (c containedConn) SetDeadline(t time.Time) (err error) {
	defer exchange.Contain(inConn, &err)
	return c.Conn.SetDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c containedConn) SetReadDeadline(t time.Time) (err error) {
	defer exchange.Contain(inConn, &err)
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c containedConn) SetWriteDeadline(t time.Time) (err error) {
	defer exchange.Contain(inConn, &err)
	return c.Conn.SetWriteDeadline(t)
}

// LocalAddr implements net.Conn.
func (c containedConn) LocalAddr() (a net.Addr) {
	defer exchange.Contain(inConn, new(error))
	return c.Conn.LocalAddr()
}

// RemoteAddr implements net.Conn.
func (c containedConn) RemoteAddr() (a net.Addr) {
	defer exchange.Contain(inConn, new(error))
	return c.Conn.RemoteAddr()
}
