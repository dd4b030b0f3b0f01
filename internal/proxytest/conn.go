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

// A Conn is one end of a TCP or TLS connection that keeps the bytes of what it
// reads. Each of its methods that reads or writes fails after [Patience], or at
// the deadline that the test has set. One goroutine reads and one writes at a
// time.
type Conn struct {
	net.Conn
	own atomic.Bool // the test has set a deadline
	r   *bufio.Reader
	raw *bytes.Buffer // what r took from the connection, the unread part of r's buffer included
}

// NewConn wraps c.
func NewConn(c net.Conn) *Conn {
	raw := new(bytes.Buffer)
	_ = c.SetDeadline(time.Now().Add(Patience))
	return &Conn{Conn: c, r: bufio.NewReader(io.TeeReader(c, raw)), raw: raw}
}

// SetDeadline sets the deadline of all that follows.
func (c *Conn) SetDeadline(at time.Time) error {
	c.own.Store(true)
	return c.Conn.SetDeadline(at)
}

// SetReadDeadline is SetDeadline for reads.
func (c *Conn) SetReadDeadline(at time.Time) error {
	c.own.Store(true)
	return c.Conn.SetReadDeadline(at)
}

// begin gives a method its time: a connection does not fail for its age. The
// time is for both directions, since a TLS handshake that is left to the first
// read writes too.
func (c *Conn) begin() {
	if !c.own.Load() {
		_ = c.Conn.SetDeadline(time.Now().Add(Patience))
	}
}

// A Request is a request as it came off the wire.
type Request struct {
	*http.Request        // as net/http reads it; its Body is consumed
	Conn          int    // the connection it came on, counted from 0 in order of accept
	Raw           []byte // every byte of it: head, body and trailers
	Content       []byte // the body without its framing
}

// A Response is a response as it came off the wire.
type Response struct {
	*http.Response        // as net/http reads it; its Body is consumed
	Raw            []byte // every byte of it: head, body and trailers
	Content        []byte // the body without its framing
}

// ReadRequest reads one whole request. At the end of the connection the error
// is io.EOF.
func (c *Conn) ReadRequest() (*Request, error) {
	c.begin()
	q, err := http.ReadRequest(c.r)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(q.Body)
	return &Request{Request: q, Raw: c.take(), Content: content}, err
}

// ReadHead reads up to and including the next empty line and returns it as it
// came.
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

// ReadResponse reads one whole response to a request of the given method, a 1xx
// too. With an error, the Response holds what had come before it, and is nil
// when not even a head had.
func (c *Conn) ReadResponse(method string) (*Response, error) {
	c.begin()
	p, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(p.Body)
	return &Response{Response: p, Raw: c.take(), Content: content}, err
}

// Read reads what is buffered first, then from the connection.
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

// ReadAll reads until the other end closes. A reset counts as an end, a timeout
// is an error.
func (c *Conn) ReadAll() (string, error) {
	c.begin()
	p, err := io.ReadAll(c.r)
	c.take()
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return string(p), err
}

// Send writes s as it is.
func (c *Conn) Send(s string) error {
	c.begin()
	_, err := io.WriteString(c.Conn, s)
	return err
}

// CloseWrite ends the writing side: a FIN, and close_notify over TLS.
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

// take returns the bytes read since the last take, without those that r holds
// unread.
func (c *Conn) take() []byte {
	return bytes.Clone(c.raw.Next(c.raw.Len() - c.r.Buffered()))
}
