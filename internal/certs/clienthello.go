package certs

import (
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// errHeard ends a handshake that only serves to read the ClientHello.
var errHeard = errors.New("heard enough")

// maxHello limits what is read in search of a ClientHello: crypto/tls accepts
// handshake messages of up to 64 KiB, and each byte might be its own record.
const maxHello = 1 << 20

// peekClientHello reads a ClientHello from c. It returns the server name as the
// client wrote it, "" if there is none, and all bytes that were read: these may
// be several packets and records, and include what the client sent too early.
// The parser is that of crypto/tls, so the result agrees with the handshake.
func peekClientHello(c net.Conn) (sni string, heard []byte, ok bool) {
	r := &recorder{Conn: c}
	_ = tls.Server(r, &tls.Config{
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			sni, ok = hello.ServerName, true
			return nil, errHeard
		},
	}).Handshake()
	return sni, r.heard, ok
}

// A recorder is a read-only connection. It keeps what was read.
type recorder struct {
	net.Conn
	heard []byte
}

func (r *recorder) Read(p []byte) (int, error) {
	if len(r.heard) >= maxHello {
		return 0, errHeard
	}
	n, err := r.Conn.Read(p)
	r.heard = append(r.heard, p[:n]...)
	return n, err
}

func (r *recorder) Write(p []byte) (int, error)      { return len(p), nil }
func (r *recorder) Close() error                     { return nil }
func (r *recorder) SetDeadline(time.Time) error      { return nil }
func (r *recorder) SetReadDeadline(time.Time) error  { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }
