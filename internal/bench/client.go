package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"time"
)

// A client is one HTTP/1.1 connection of the in-tree load generator, used by
// one goroutine. The generator does what wrk cannot: a fixed rate, one
// connection per request, WebSocket messages, and runs below a second.
type client struct {
	conn net.Conn
	r    *bufio.Reader
}

// tlsConfig trusts any certificate. It fixes the key exchange and the protocol,
// so that every peer's handshake does the same work regardless of its
// preferences.
func (l *load) tlsConfig() *tls.Config {
	return &tls.Config{
		ServerName:         hostName,
		InsecureSkipVerify: true,
		NextProtos:         []string{l.proto.name()},
		CurvePreferences:   []tls.CurveID{tls.X25519},
	}
}

// dialClient connects to l.addr in the load's protocol.
func dialClient(ctx context.Context, l *load) (*client, error) {
	if l.proto.secure() {
		return dialTLS(ctx, l, l.tlsConfig())
	}
	conn, err := dialTCP(ctx, l)
	if err != nil {
		return nil, err
	}
	return newClient(conn), nil
}

func dialTLS(ctx context.Context, l *load, conf *tls.Config) (*client, error) {
	conn, err := dialTCP(ctx, l)
	if err != nil {
		return nil, err
	}
	secure := tls.Client(conn, conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return newClient(secure), nil
}

func dialTCP(ctx context.Context, l *load) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: grace}).DialContext(ctx, "tcp", l.addr)
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(l.duration + grace))
	}
	return conn, err
}

func newClient(conn net.Conn) *client {
	return &client{conn: conn, r: bufio.NewReaderSize(conn, 16<<10)}
}

// requestBytes returns the whole request for path, with the headers that wrk
// sends.
func (l *load) requestBytes(path string, fields ...string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s:%s\r\n", l.verb(), path, hostName, portOf(l.addr))
	for _, f := range fields {
		b.WriteString(f + "\r\n")
	}
	if l.upload > 0 {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", l.upload)
	}
	b.WriteString("\r\n")
	b.Write(bytes.Repeat([]byte("x"), l.upload))
	return b.Bytes()
}

// exchange sends the request and reads the response, which must be a 200.
func (c *client) exchange(request []byte) error {
	if _, err := c.conn.Write(request); err != nil {
		return err
	}
	status, length, err := c.readHead()
	if err != nil {
		return err
	}
	if status != 200 {
		return fmt.Errorf("status %d", status)
	}
	if length >= 0 {
		_, err := io.CopyN(io.Discard, c.r, length)
		return err
	}
	if _, err := io.Copy(io.Discard, httputil.NewChunkedReader(c.r)); err != nil {
		return err
	}
	if end, err := c.r.ReadSlice('\n'); err != nil || len(end) != 2 {
		return fmt.Errorf("after the last chunk: %q, %v", end, err)
	}
	return nil
}

// streamBytes returns everything that an HTTP/2 client sends to request l.path:
// the preface, SETTINGS, and HEADERS without Huffman coding.
func (l *load) streamBytes() []byte {
	block := []byte{0x82, 0x87} // GET, https
	block = append(append(block, 1, byte(len(hostName))), hostName...)
	block = append(append(block, 4, byte(len(l.path))), l.path...)
	b := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	return append(append(b, 0, 0, byte(len(block)), 1, 5, 0, 0, 0, 1), block...)
}

// exchange2 is like exchange, for the bytes from streamBytes. It acknowledges
// the server's SETTINGS.
func (c *client) exchange2(request []byte) error {
	if _, err := c.conn.Write(request); err != nil {
		return err
	}
	for {
		var head [9]byte
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			return err
		}
		kind, flags, stream := head[3], head[4], head[8]
		if _, err := io.CopyN(io.Discard, c.r, int64(head[0])<<16|int64(head[1])<<8|int64(head[2])); err != nil {
			return err
		}
		switch {
		case kind == 4 && flags == 0:
			if _, err := c.conn.Write([]byte{0, 0, 0, 4, 1, 0, 0, 0, 0}); err != nil {
				return err
			}
		case stream == 1 && kind <= 1 && flags&1 != 0:
			return nil
		case stream == 1 && kind == 3, kind == 7:
			return fmt.Errorf("frame of type %d", kind)
		}
	}
}

// readHead reads the head of a response. length is -1 for a chunked body.
func (c *client) readHead() (status int, length int64, err error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, 0, err
	}
	if len(line) < len("HTTP/1.1 200") {
		return 0, 0, fmt.Errorf("status line %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, 0, fmt.Errorf("status line %q", line)
	}
	framed := false
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, 0, err
		}
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(":"))
		switch {
		case len(name) == 0:
			if !framed && status == 200 {
				return 0, 0, errors.New("neither Content-Length nor Transfer-Encoding")
			}
			return status, length, nil
		case bytes.EqualFold(name, []byte("Content-Length")):
			framed = true
			if length, err = strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64); err != nil {
				return 0, 0, err
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			framed, length = true, -1
		}
	}
}
