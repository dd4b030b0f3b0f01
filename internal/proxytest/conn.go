package proxytest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// A Conn is one end of a TCP or TLS connection that keeps the raw bytes that it
// reads. Each method that reads or writes fails after [Patience], or at the
// deadline that the test has set. One goroutine may read and one may write at a
// time.
type Conn struct {
	net.Conn
	own atomic.Bool // the test has set a deadline
	r   *bufio.Reader
	raw *bytes.Buffer // all bytes that r has read, including the unread part of r's buffer
}

// NewConn wraps c.
func NewConn(c net.Conn) *Conn {
	raw := new(bytes.Buffer)
	_ = c.SetDeadline(time.Now().Add(Patience))
	return &Conn{Conn: c, r: bufio.NewReader(io.TeeReader(c, raw)), raw: raw}
}

// SetDeadline sets the deadline of all later calls.
func (c *Conn) SetDeadline(at time.Time) error {
	c.own.Store(true)
	return c.Conn.SetDeadline(at)
}

// SetReadDeadline is SetDeadline for reads.
func (c *Conn) SetReadDeadline(at time.Time) error {
	c.own.Store(true)
	return c.Conn.SetReadDeadline(at)
}

// begin sets the deadline of one method: a connection must not fail because of
// its age. It is set for both directions, since the first read may start a TLS
// handshake, which also writes.
func (c *Conn) begin() {
	if !c.own.Load() {
		_ = c.Conn.SetDeadline(time.Now().Add(Patience))
	}
}

// A Request is a request as it was received.
type Request struct {
	*http.Request        // as net/http reads it; its Body is consumed
	Conn          int    // its connection, counted from 0 in order of accept
	Raw           []byte // every byte of it: head, body and trailers
	Content       []byte // the body without its framing
}

// A Response is a response as it was received.
type Response struct {
	*http.Response        // as net/http reads it; its Body is consumed
	Raw            []byte // every byte of it: head, body and trailers
	Content        []byte // the body without its framing
}

// ReadRequest reads one whole request. At the end of the connection it returns
// io.EOF.
func (c *Conn) ReadRequest() (*Request, error) {
	c.begin()
	q, err := http.ReadRequest(c.r)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(q.Body)
	return &Request{Request: q, Raw: c.take(), Content: content}, err
}

// ReadHead reads up to and including the next empty line and returns these
// bytes unchanged.
func (c *Conn) ReadHead() (string, error) {
	c.begin()
	var head []byte
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		line, err := c.r.ReadBytes('\n')
		head = append(head, line...)
		if err != nil {
			return string(head), err
		}
	}
	c.take()
	return string(head), nil
}

// ReadResponse reads one whole response to a request of the given method; it
// may be a 1xx. On an error, the Response holds what was read before it, and is
// nil if not even the head was read.
func (c *Conn) ReadResponse(method string) (*Response, error) {
	c.begin()
	p, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(p.Body)
	return &Response{Response: p, Raw: c.take(), Content: content}, err
}

// Read returns buffered bytes first, then reads from the connection.
func (c *Conn) Read(p []byte) (int, error) {
	c.begin()
	n, err := c.r.Read(p)
	c.take()
	return n, err
}

// ReadString reads exactly n bytes.
func (c *Conn) ReadString(n int) (string, error) {
	c.begin()
	p := make([]byte, n)
	n, err := io.ReadFull(c.r, p)
	c.take()
	return string(p[:n]), err
}

// ReadAll reads until the other end closes the connection. A reset counts as
// the end; a timeout is an error.
func (c *Conn) ReadAll() (string, error) {
	c.begin()
	p, err := io.ReadAll(c.r)
	c.take()
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return string(p), err
}

// Write writes p.
func (c *Conn) Write(p []byte) (int, error) {
	c.begin()
	return c.Conn.Write(p)
}

// Send writes s as it is.
func (c *Conn) Send(s string) error {
	_, err := io.WriteString(c, s)
	return err
}

// CloseWrite closes the writing side: it sends a FIN, after close_notify over
// TLS.
func (c *Conn) CloseWrite() error {
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

// Reset closes the connection with a RST: the other end reads "connection reset
// by peer".
func (c *Conn) Reset() error {
	under := c.Conn
	if t, ok := under.(*tls.Conn); ok {
		under = t.NetConn()
	}
	return errors.Join(under.(*net.TCPConn).SetLinger(0), under.Close())
}

// take returns the bytes read since the last take, without those still unread
// in r.
func (c *Conn) take() []byte {
	return bytes.Clone(c.raw.Next(c.raw.Len() - c.r.Buffered()))
}
