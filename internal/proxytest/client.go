package proxytest

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
)

// A Client is a raw client connection. Its methods fail the test immediately on
// any error; methods of the embedded [Conn] that it does not redefine return
// their errors.
type Client struct {
	*Conn
	t testing.TB
}

// Dial connects to addr over TCP. The connection is closed at the end of the
// test.
func Dial(t testing.TB, addr string) *Client {
	t.Helper()
	nc, err := net.DialTimeout("tcp", addr, Patience)
	if err != nil {
		t.Fatalf("proxytest: dial: %v", err)
	}
	t.Cleanup(func() { nc.Close() })
	return &Client{Conn: NewConn(nc), t: t}
}

// DialTLS connects to addr over TCP and makes a TLS handshake with config.
func DialTLS(t testing.TB, addr string, config *tls.Config) *Client {
	t.Helper()
	c := Dial(t, addr)
	tc := tls.Client(c.Conn.Conn, config)
	if err := tc.Handshake(); err != nil {
		t.Fatalf("proxytest: handshake: %v", err)
	}
	c.Conn = NewConn(tc)
	return c
}

// Send writes s as it is.
func (c *Client) Send(s string) {
	c.t.Helper()
	if err := c.Conn.Send(s); err != nil {
		c.t.Fatalf("proxytest: send: %v", err)
	}
}

// Response reads one whole response to a request of the given method; it may be
// a 1xx.
func (c *Client) Response(method string) *Response {
	c.t.Helper()
	p, err := c.ReadResponse(method)
	if err != nil {
		c.t.Fatalf("proxytest: read response: %v", err)
	}
	return p
}

// Do sends raw and reads its final response, skipping any 1xx. The method is
// raw's first word.
func (c *Client) Do(raw string) *Response {
	c.t.Helper()
	c.Send(raw)
	method, _, _ := strings.Cut(raw, " ")
	for {
		if p := c.Response(method); p.StatusCode >= 200 || p.StatusCode == 101 {
			return p
		}
	}
}

// Head reads up to and including the next empty line.
func (c *Client) Head() string {
	c.t.Helper()
	head, err := c.ReadHead()
	if err != nil {
		c.t.Fatalf("proxytest: read head: %v, after %q", err, head)
	}
	return head
}

// Expect reads len(want) bytes and fails the test if they differ from want.
func (c *Client) Expect(want string) {
	c.t.Helper()
	if got, err := c.ReadString(len(want)); got != want {
		c.t.Fatalf("proxytest: read %q, want %q (%v)", got, want, err)
	}
}

// Rest reads until the other end closes the connection, with a FIN or a reset,
// and returns what was read.
func (c *Client) Rest() string {
	c.t.Helper()
	rest, err := c.ReadAll()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("proxytest: the connection stays open, after %q", rest)
	}
	return rest
}
