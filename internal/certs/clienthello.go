package certs

import (
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// errHeard ends a handshake that was for listening only.
var errHeard = errors.New("heard enough")

// maxHello bounds what is read in search of a ClientHello: crypto/tls takes
// handshake messages of up to 64 KiB, and each byte might be a record.
const maxHello = 1 << 20

// peekClientHello reads a ClientHello from c and returns the server name in it
// as the client wrote it, "" if none, and all that was read: more than one
// packet, maybe more than one record, and whatever the client sent too early.
// It is the parser of crypto/tls that reads it, so that it says what the
// handshake will.
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

// A recorder is a connection to read from only. It remembers what was read.
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
