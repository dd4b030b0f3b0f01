package e2e_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A wrapping is a listener that wraps its connections.
type wrapping struct {
	net.Listener
	wrap func(*net.TCPConn) net.Conn
}

func (l *wrapping) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.wrap(c.(*net.TCPConn)), nil
}

// A proxied connection begins with a line for its listener, as with the PROXY
// protocol. Its buffer may have bytes after that line.
type proxied struct {
	*net.TCPConn
	r *bufio.Reader
}

func (c *proxied) Read(p []byte) (int, error) {
	if c.r == nil {
		c.r = bufio.NewReader(c.TCPConn)
		if _, err := c.r.ReadString('\n'); err != nil {
			return 0, err
		}
	}
	return c.r.Read(p)
}

// A candid connection is a proxied one with a method that says when its buffer
// is empty.
type candid struct {
	*proxied
	bare *atomic.Int64
}

func (c *candid) Unbuffered() net.Conn {
	if c.r == nil || c.r.Buffered() > 0 {
		return nil
	}
	c.bare.Add(1)
	return c.TCPConn
}

// A metered connection counts the bytes that pass, and changes them.
type metered struct {
	*net.TCPConn
	in, out *atomic.Int64
}

func (c *metered) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.in.Add(int64(n))
	copy(p, bytes.ReplaceAll(p[:n], []byte("?"), []byte("/")))
	return n, err
}

func (c *metered) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	c.out.Add(int64(n))
	return n, err
}

// wrapped serves a.test over the lane, on a listener with wrap.
func wrapped(t *testing.T, l lane, log *slog.Logger, target string, wrap func(*net.TCPConn) net.Conn) *site {
	t.Helper()
	s := &site{router: new(hostproxy.Router), upstream: hostproxy.To(target), lane: l}
	s.router.Logger = log
	s.router.Handle("a.test", s.upstream)
	s.listen = func(ln net.Listener) net.Listener { return &wrapping{ln, wrap} }
	s.start(t)
	return s
}

// wrappedBody is long enough for splice.
var wrappedBody = strings.Repeat("0123456789abcdef", 16<<10) // Read-only.

func wrappedTarget(w http.ResponseWriter, q *http.Request) {
	body, _ := io.ReadAll(q.Body)
	w.Header().Set("Content-Length", fmt.Sprint(len(q.URL.Path)+len(body)+len(wrappedBody)))
	fmt.Fprint(w, q.URL.Path, string(body), wrappedBody)
}

// A listener's connections are read and written by their own methods: a type
// that embeds a *net.TCPConn may buffer bytes, or inspect all bytes.
func TestConnectionsOfOtherTypesAreUsedByTheirMethods(t *testing.T) {
	proxytest.NoLeaks(t)
	target := proxytest.NewServer(t, http.HandlerFunc(wrappedTarget))
	var in, out, bare atomic.Int64
	tests := []struct {
		name, first, path string
		seen              string // the bytes that the target sees
		wrap              func(*net.TCPConn) net.Conn
		plain             bool // it changes bytes, which TLS would notice
	}{
		{"a buffer behind a first line", "PROXY\n", "/a", "/a", func(c *net.TCPConn) net.Conn { return &proxied{TCPConn: c} }, false},
		{"a buffer that says when it is empty", "PROXY\n", "/a", "/a", func(c *net.TCPConn) net.Conn { return &candid{&proxied{TCPConn: c}, &bare} }, false},
		{"a count of all bytes", "", "/a?b", "/a/b", func(c *net.TCPConn) net.Conn { return &metered{c, &in, &out} }, true},
	}
	for _, l := range lanes {
		for _, tt := range tests {
			if l.secure && tt.plain {
				continue
			}
			t.Run(l.name+"/"+tt.name, func(t *testing.T) {
				s := wrapped(t, l, panicsFail(t), target.Addr(), tt.wrap)
				in.Store(0)
				out.Store(0)
				c := s.dialAfter(t, tt.first)
				sent := len(tt.first)
				for range 3 { // the second one arrives together with the first
					one := "POST " + tt.path + " HTTP/1.1\r\nHost: a.test\r\n" + sized("hello")
					require.NoError(t, c.Conn.Send(one+one))
					sent += 2 * len(one)
					for range 2 {
						p := c.Response("POST")
						require.Equal(t, 200, p.StatusCode)
						assert.True(t, tt.seen+"hello"+wrappedBody == string(p.Content), "the answer is whole")
					}
				}
				if tt.plain {
					assert.EqualValues(t, sent, in.Load())
					proxytest.Eventually(t, "the count of the last write", func() bool { return out.Load() > int64(6*len(wrappedBody)) })
				}
			})
		}
	}
	assert.Positive(t, bare.Load(), "the one that can say so is asked")
}
