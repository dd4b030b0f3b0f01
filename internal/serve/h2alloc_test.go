//go:build !race && !portable

package serve_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A link2 is an HTTP/2 client connection that repeats a request without
// allocating.
type link2 struct {
	net.Conn
	t       testing.TB
	request []byte // frames of a stream
	heads   []int  // offsets of these frames
	stream  uint32
	buf     []byte
	n       int
}

func newLink2(t testing.TB, r *hostproxy.Router, body string, pairs ...string) *link2 {
	t.Helper()
	c, err := net.Dial("tcp", proxytest.StartPlain(t, &hostproxy.Server{Router: r, H2C: true}).Plain)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	var block, out bytes.Buffer
	enc := hpack.NewEncoder(&block)
	enc.SetMaxDynamicTableSize(0)
	for i := 0; i < len(pairs); i += 2 {
		require.NoError(t, enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}))
	}
	_, err = io.WriteString(c, http2.ClientPreface)
	require.NoError(t, err)
	f := http2.NewFramer(c, nil)
	require.NoError(t, f.WriteSettings())
	require.NoError(t, f.WriteWindowUpdate(0, 1<<30))
	l := &link2{Conn: c, t: t, stream: 1, buf: make([]byte, 1<<16), heads: []int{0}}
	f = http2.NewFramer(&out, nil)
	require.NoError(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: body == "", EndHeaders: true}))
	if body != "" {
		l.heads = append(l.heads, out.Len())
		require.NoError(t, f.WriteData(1, true, []byte(body)))
	}
	l.request = out.Bytes()
	return l
}

// do sends a request and waits for the end of its response.
func (l *link2) do() {
	for _, at := range l.heads {
		binary.BigEndian.PutUint32(l.request[at+5:], l.stream)
	}
	_, err := l.Write(l.request)
	for over := false; err == nil && !over; {
		n := 0
		n, err = l.Read(l.buf[l.n:])
		l.n += n
		at := 0
		for l.n-at >= 9 {
			size := int(l.buf[at])<<16 | int(l.buf[at+1])<<8 | int(l.buf[at+2])
			if l.n-at < 9+size {
				break
			}
			kind, flags, stream := l.buf[at+3], l.buf[at+4], binary.BigEndian.Uint32(l.buf[at+5:])
			if kind == byte(http2.FrameRSTStream) || kind == byte(http2.FrameGoAway) {
				l.t.Fatalf("frame %d", kind)
			}
			over = over || stream == l.stream && kind <= 1 && flags&1 != 0
			at += 9 + size
		}
		l.n = copy(l.buf, l.buf[at:l.n])
	}
	if err != nil {
		l.t.Fatal(err)
	}
	l.stream += 2
}

// perRequest returns the allocations of the process per request.
func (l *link2) perRequest() float64 {
	for range 200 {
		l.do()
	}
	return perCall(l.do)
}

func TestAPrefixAllocatesNothingOnAStream(t *testing.T) {
	proxytest.NoLeaks(t)
	u := hostproxy.To(backend(t, "HTTP/1.1 201 Created\r\nLocation: /v2/x\r\nSet-Cookie: a=b; Path=/v2\r\nContent-Length: 2\r\n\r\nok"))
	u.StripPrefix, u.AddPrefix = "/p", "/v2"
	var r hostproxy.Router
	r.Handle("a.test/p", u)
	l := newLink2(t, &r, "", ":method", "GET", ":scheme", "http", ":authority", "a.test", ":path", "/p/x?q")
	assert.Less(t, l.perRequest(), 0.05)
}

func TestAStreamOfTheFastLaneAllocatesNothing(t *testing.T) {
	proxytest.NoLeaks(t)
	for _, tt := range []struct {
		name, method, body, answer string
		more                       []string
	}{
		{"GET, sized", "GET", "", "HTTP/1.1 200 OK\r\nServer: x\r\nDate: Mon, 23 Nov 2026 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nok", []string{"user-agent", "x", "cookie", "a=b", "cookie", "c=d"}},
		{"GET, chunked, no Date", "GET", "", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", nil},
		{"POST, sized", "POST", "bodyEND", "HTTP/1.1 204 No Content\r\n\r\n", []string{"content-length", "7"}},
		{"POST, chunked", "POST", "body", "HTTP/1.1 204 No Content\r\n\r\n", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r hostproxy.Router
			r.RateLimit = &hostproxy.RateLimit{Rate: 1e6, MaxInFlight: 10, By: hostproxy.LimitKey{Cookie: "c"}}
			r.ResponseHeader = hostproxy.HeaderEdit{Remove: []string{"Server"}, Set: http.Header{"X-Frame-Options": {"DENY"}}}
			r.Handle("a.test", hostproxy.To(backend(t, tt.answer)))
			pairs := append([]string{":method", tt.method, ":scheme", "http", ":authority", "a.test", ":path", "/p?q"}, tt.more...)
			assert.Less(t, newLink2(t, &r, tt.body, pairs...).perRequest(), 0.05)
		})
	}
}
