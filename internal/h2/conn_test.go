package h2_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/h2"
)

// A conn is the smallest server that can be made of the package. It answers
// each request with what it has received, one after the other.
type conn struct {
	net.Conn
	parser  h2.Parser
	block   h2.Block
	decoder h2.Decoder
	list    h2.List
	encoder h2.Encoder
	peer    h2.Settings
	window  h2.Window // window of the connection
	inflow  h2.Inflow // inflow of the connection
	request h1.Request
	said    string // the answer to the request
	out     []byte
}

// serve serves until the client leaves, in reads of at most size bytes.
func (c *conn) serve(size int) error {
	if _, err := io.ReadFull(c, make([]byte, len(h2.Preface))); err != nil {
		return err
	}
	c.peer, c.window, c.inflow = h2.DefaultSettings(), h2.InitialWindow, h2.NewInflow(h2.InitialWindow)
	ours := h2.DefaultSettings()
	c.out = h2.AppendSettings(c.out, &ours)
	in, have := make([]byte, size), 0
	for {
		n, err := c.parser.Parse(in[:have])
		switch {
		case err == nil:
			if err := c.frame(&c.parser.Frame); err != nil {
				return err
			}
			have = copy(in, in[n:have])
			continue
		case err != h2.ErrMore:
			return err
		}
		if _, err := c.Write(c.out); err != nil {
			return err
		}
		c.out = c.out[:0]
		n, err = c.Read(in[have:])
		if have += n; n == 0 {
			return err
		}
	}
}

func (c *conn) frame(f *h2.Frame) error {
	switch f.Type {
	case h2.SettingsFrame:
		c.peer.Apply(f.Payload)
		if f.Ends && !f.Ack() {
			c.out = h2.AppendSettingsAck(c.out)
		}
	case h2.Ping:
		c.out = h2.AppendPingAck(c.out, f.Payload)
	case h2.WindowUpdate:
		return c.window.Grow(f.Increment)
	case h2.Headers, h2.Continuation:
		return c.headers(f)
	case h2.Data:
		c.said += string(f.Payload)
		if err := c.inflow.Receive(f.Counted); err != nil {
			return err
		}
		if n := c.inflow.Return(f.Counted); n > 0 {
			c.out = h2.AppendWindowUpdate(c.out, 0, n)
		}
		if f.EndStream() {
			c.answer(f.Stream, nil)
		} else if f.Counted > 0 {
			c.out = h2.AppendWindowUpdate(c.out, f.Stream, f.Counted)
		}
	}
	return nil
}

func (c *conn) headers(f *h2.Frame) error {
	if f.Type == h2.Headers && f.Begins {
		c.list.EndStream = false
	}
	c.list.EndStream = c.list.EndStream || f.EndStream()
	block, done, err := c.block.Add(f)
	if err != nil || !done {
		return err
	}
	if err := c.decoder.Decode(&c.list, block); err != nil {
		return err
	}
	if len(c.said) > 0 { // the head was received earlier
		trailers, err := c.list.Trailers()
		c.answer(f.Stream, trailers)
		return err
	}
	err = c.list.Request(&c.request)
	if err != nil && err != h1.ErrUnusual {
		return err
	}
	c.said = fmt.Sprintf("%s %s of %s: ", c.request.Method, c.request.Path, c.request.Host)
	if c.list.EndStream {
		c.answer(f.Stream, nil)
	}
	return nil
}

func (c *conn) answer(stream uint32, trailers []h1.Field) {
	start := len(c.out)
	c.out = c.encoder.AppendResponse(h2.OpenHeaders(c.out), 200, []h1.Field{{Name: []byte("X-Long"), Value: []byte(strings.Repeat("x", 40000))}})
	c.out = h2.CloseHeaders(c.out, start, stream, 0, int(c.peer.MaxFrame))
	window := h2.Window(c.peer.InitialWindow)
	body := c.said[:h2.Take(len(c.said), &window, &c.window)]
	c.out = append(h2.AppendHead(c.out, h2.Data, 0, stream, len(body)), body...)
	start = len(c.out)
	c.out = c.encoder.AppendTrailers(h2.OpenHeaders(c.out), append(trailers, h1.Field{Name: []byte("X-Sum"), Value: fmt.Append(nil, len(body))}))
	c.out = h2.CloseHeaders(c.out, start, stream, h2.FlagEndStream, int(c.peer.MaxFrame))
	c.said = ""
}

func TestNetHTTPUnderstandsAServerBuiltFromThisPackage(t *testing.T) {
	for _, size := range []int{32, 100, 16 << 10} {
		t.Run(fmt.Sprint("reads of ", size), func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer ln.Close()
			near, err := net.Dial("tcp", ln.Addr().String())
			require.NoError(t, err)
			far, err := ln.Accept()
			require.NoError(t, err)
			ended := make(chan error, 1)
			go func() {
				c := conn{Conn: far}
				ended <- c.serve(size)
				far.Close()
			}()
			transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return near, nil }, Protocols: new(http.Protocols)}
			transport.Protocols.SetUnencryptedHTTP2(true)
			for range 3 {
				askEcho(t, transport)
			}
			near.Close()
			assert.ErrorIs(t, <-ended, io.EOF)
		})
	}
}

// askEcho sends one request with trailers and one without a body.
func askEcho(t *testing.T, transport http.RoundTripper) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), "POST", "http://a.test/x", io.MultiReader(strings.NewReader("hello, "), strings.NewReader("world")))
	require.NoError(t, err)
	q.Trailer = http.Header{"X-Last": {"word"}}
	res, err := transport.RoundTrip(q)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "POST /x of a.test: hello, world", string(body))
	require.Len(t, res.Header.Get("X-Long"), 40000)
	require.Equal(t, http.Header{"X-Last": {"word"}, "X-Sum": {"31"}}, res.Trailer)

	q, err = http.NewRequestWithContext(t.Context(), "GET", "http://a.test/y", nil)
	require.NoError(t, err)
	res, err = transport.RoundTrip(q)
	require.NoError(t, err)
	body, err = io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "GET /y of a.test: ", string(body))
}
