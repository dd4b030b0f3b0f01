package serve_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/serve"
)

// A request that h1.Request refuses gets an error response; a malformed one
// gets a reset (RFC 9113, 8.1.1). No handler sees either.
func TestAnInvalidRequestIsRefusedOrItsStreamIsReset(t *testing.T) {
	const reset = "reset"
	swap := func(name, value string) []string {
		pairs := of("GET", "/")
		for i := range pairs {
			if pairs[i] == name {
				pairs[i+1] = value
			}
		}
		return pairs
	}
	var served atomic.Int64
	addr := startH2(t, func(http.ResponseWriter, *http.Request) { served.Add(1) })
	for _, tt := range []struct {
		name, outcome string
		more          bool // a body of five bytes follows
		fields        []string
	}{
		{"a length with a letter", "400", true, of("POST", "/", "content-length", "5x")},
		{"a length with a sign", "400", true, of("POST", "/", "content-length", "+5")},
		{"a list of lengths", "400", true, of("POST", "/", "content-length", "5, 5")},
		{"an empty length", "400", true, of("POST", "/", "content-length", "")},
		{"a negative length", "400", true, of("POST", "/", "content-length", "-1")},
		{"a hexadecimal length", "400", true, of("POST", "/", "content-length", "0x5")},
		{"two lengths", "400", true, of("POST", "/", "content-length", "5", "content-length", "6")},
		{"the same length twice", "400", true, of("POST", "/", "content-length", "5", "content-length", "5")},
		{"a length and no body", reset, false, of("POST", "/", "content-length", "7")},
		{"two hosts", "400", false, of("GET", "/", "host", "a.test", "host", "a.test")},
		{"a host that is not the authority", "400", false, of("GET", "/", "host", "b.test")},
		{"an invalid host", "400", false, swap(":authority", "u@a.test")},
		{"no host", "400", false, []string{":method", "GET", ":scheme", "http", ":path", "/"}},
		{"a blank before a value", reset, false, of("GET", "/", "x-a", " b")},
		{"a blank behind a value", reset, false, of("GET", "/", "x-a", "b\t")},
		{"a line break in a value", "400", false, of("GET", "/", "x-a", "b\r\nx-evil: 1")},
		{"a name in upper case", reset, false, of("GET", "/", "X-A", "b")},
		{"a name that is no token", "400", false, of("GET", "/", "x a", "b")},
		{"a field of the connection", reset, false, of("GET", "/", "connection", "x-a")},
		{"a transfer coding", reset, true, of("POST", "/", "transfer-encoding", "chunked")},
		{"a TE that is not trailers", reset, false, of("GET", "/", "te", "gzip")},
		{"a pseudo-field twice", reset, false, of("GET", "/", ":path", "/b")},
		{"a pseudo-field behind others", reset, false, of("GET", "/", "x-a", "b", ":scheme", "http")},
		{"an unknown pseudo-field", reset, false, of("GET", "/", ":x", "b")},
		{"a protocol without CONNECT", reset, false, of("GET", "/", ":protocol", "websocket")},
		{"no path", reset, false, of("GET", "/")[:6]},
		{"an empty path", reset, false, swap(":path", "")},
		{"a path that is a URL", reset, false, swap(":path", "http://b.test/")},
		{"a blank in a path", "400", false, swap(":path", "/a b")},
		{"a fragment", "400", false, swap(":path", "/a#b")},
		{"a scheme other than http and https", "400", false, swap(":scheme", "ftp")},
		{"a method that is no token", "400", false, swap(":method", "G T")},
		{"CONNECT to a host", "501", false, []string{":method", "CONNECT", ":authority", "a.test:443"}},
		{"an unknown expectation", "417", false, of("GET", "/", "expect", "x")},
		{"a large head", "431", false, of("GET", "/", "x-a", strings.Repeat("b", 17<<10))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := dialH2(t, addr)
			p.ask(1, tt.more, tt.fields...)
			if tt.more {
				require.NoError(t, p.WriteData(1, true, []byte("hello")))
			}
			r := p.reply(1)
			outcome := r.status
			if r.reset && outcome == "" {
				outcome = reset
				assert.Equal(t, http2.ErrCodeProtocol, r.code)
			}
			assert.Equal(t, tt.outcome, outcome)
			assert.Zero(t, served.Load())
			p.ask(3, false, of("GET", "/")...)
			assert.Equal(t, "200", p.reply(3).status, "the connection goes on")
			served.Store(0)
		})
	}
}

func TestABodyThatDiffersFromItsContentLengthIsAnError(t *testing.T) {
	for _, tt := range []struct {
		name   string
		pieces []string
		tail   bool // trailers end the body
	}{
		{"too long", []string{"hel", "lo!"}, false},
		{"too short", []string{"hell"}, false},
		{"nothing", []string{""}, false},
		{"too short before trailers", []string{"hell"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			failed := make(chan error, 1)
			p := dialH2(t, startH2(t, func(w http.ResponseWriter, q *http.Request) {
				_, err := io.ReadAll(q.Body)
				failed <- err
				w.WriteHeader(http.StatusBadRequest)
			}))
			p.ask(1, true, of("POST", "/", "content-length", "5")...)
			for i, piece := range tt.pieces {
				require.NoError(t, p.WriteData(1, i == len(tt.pieces)-1 && !tt.tail, []byte(piece)))
			}
			if tt.tail {
				require.NoError(t, p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.fields("x-a", "b"), EndStream: true, EndHeaders: true}))
			}
			assert.ErrorContains(t, <-failed, "Content-Length")
			reset := p.frame("reset", func(s seen) bool { return s.kind == http2.FrameRSTStream })
			assert.Equal(t, http2.ErrCodeProtocol, reset.code)
			p.ask(3, false, of("GET", "/")...)
			assert.NoError(t, <-failed)
		})
	}
}

func TestInvalidTrailersAreAnError(t *testing.T) {
	for _, tt := range []struct {
		name   string
		ends   bool
		fields []string
	}{
		{"a pseudo-field", true, []string{":path", "/"}},
		{"a name in upper case", true, []string{"X-A", "b"}},
		{"a line break", true, []string{"x-a", "b\nc"}},
		{"that do not end the stream", false, []string{"x-a", "b"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			failed := make(chan error, 1)
			p := dialH2(t, startH2(t, func(_ http.ResponseWriter, q *http.Request) {
				_, err := io.ReadAll(q.Body)
				failed <- err
			}))
			p.ask(1, true, of("POST", "/")...)
			require.NoError(t, p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.fields(tt.fields...), EndStream: tt.ends, EndHeaders: true}))
			assert.ErrorContains(t, <-failed, "trailers")
			reset := p.frame("reset", func(s seen) bool { return s.kind == http2.FrameRSTStream })
			assert.Equal(t, http2.ErrCodeProtocol, reset.code)
		})
	}
}

// RFC 9113, 5.1 and 6: frames that are not allowed in the current state are
// connection errors.
func TestFramesOutOfOrderEndTheConnection(t *testing.T) {
	whole := func(p *peer) {
		p.ask(1, false, of("GET", "/")...)
		p.reply(1)
	}
	for _, tt := range []struct {
		name string
		code http2.ErrCode
		send func(p *peer)
	}{
		{"an even stream", http2.ErrCodeProtocol, func(p *peer) { p.ask(2, false, of("GET", "/")...) }},
		{"a stream below another", http2.ErrCodeProtocol, func(p *peer) {
			p.ask(5, false, of("GET", "/")...)
			p.ask(3, false, of("GET", "/")...)
		}},
		{"a head on a stream that has ended", http2.ErrCodeStreamClosed, func(p *peer) {
			whole(p)
			p.ask(1, false, of("GET", "/")...)
		}},
		{"a body on a stream that has ended", http2.ErrCodeStreamClosed, func(p *peer) {
			whole(p)
			_ = p.WriteData(1, true, []byte("x"))
		}},
		{"a body on a stream that the client has reset", http2.ErrCodeStreamClosed, func(p *peer) {
			p.ask(1, true, of("POST", "/wait")...)
			_ = p.WriteRSTStream(1, http2.ErrCodeCancel)
			_ = p.WriteData(1, true, []byte("x"))
		}},
		{"a body after END_STREAM", http2.ErrCodeStreamClosed, func(p *peer) {
			p.ask(1, false, of("GET", "/wait")...)
			_ = p.WriteData(1, true, []byte("x"))
		}},
		{"trailers after END_STREAM", http2.ErrCodeStreamClosed, func(p *peer) {
			p.ask(1, false, of("GET", "/wait")...)
			p.ask(1, false, "x-a", "b")
		}},
		{"a body behind the end of a malformed request", http2.ErrCodeStreamClosed, func(p *peer) {
			p.ask(1, false, of("GET", "/", "X-A", "b")...)
			p.reply(1)
			_ = p.WriteData(1, false, []byte("x"))
		}},
		{"trailers behind the end of a request that has failed", http2.ErrCodeStreamClosed, func(p *peer) {
			p.ask(1, false, of("GET", "/abort")...)
			p.reply(1)
			p.ask(1, false, "x-a", "b")
		}},
		{"a body on a stream that is not open", http2.ErrCodeProtocol, func(p *peer) { _ = p.WriteData(1, true, []byte("x")) }},
		{"a reset of a stream that is not open", http2.ErrCodeProtocol, func(p *peer) { _ = p.WriteRSTStream(1, 0) }},
		{"a window of a stream that is not open", http2.ErrCodeProtocol, func(p *peer) { _ = p.WriteWindowUpdate(1, 1) }},
		{"a window update of zero", http2.ErrCodeProtocol, func(p *peer) { _ = p.WriteWindowUpdate(0, 0) }},
		{"a window beyond the limit", http2.ErrCodeFlowControl, func(p *peer) { _ = p.WriteWindowUpdate(0, 1<<31-1) }},
		{"a stream's window beyond the limit", http2.ErrCodeFlowControl, func(p *peer) {
			p.ask(1, false, of("GET", "/wait")...)
			_ = p.WriteWindowUpdate(1, 1<<31-1)
		}},
		{"a setting out of range", http2.ErrCodeFlowControl, func(p *peer) {
			_ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
		}},
		{"a maximum frame size of zero", http2.ErrCodeProtocol, func(p *peer) {
			_ = p.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 0})
		}},
		{"a frame inside a header block", http2.ErrCodeProtocol, func(p *peer) {
			_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.fields(of("GET", "/")...)})
			_ = p.WritePing(false, [8]byte{})
		}},
		{"a continuation of nothing", http2.ErrCodeProtocol, func(p *peer) { _ = p.WriteContinuation(1, true, nil) }},
		{"a push", http2.ErrCodeProtocol, func(p *peer) {
			_ = p.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		}},
		{"a header block that HPACK cannot decode", http2.ErrCodeCompression, func(p *peer) {
			_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, EndHeaders: true})
		}},
		{"a frame that is too large", http2.ErrCodeFrameSize, func(p *peer) { _ = p.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 1<<14+1)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := dialH2(t, startH2(t, func(_ http.ResponseWriter, q *http.Request) {
				switch q.URL.Path {
				case "/wait":
					<-q.Context().Done()
				case "/abort":
					panic(http.ErrAbortHandler)
				}
			}))
			tt.send(p)
			code, polite := p.closed()
			assert.True(t, polite)
			assert.Equal(t, tt.code, code)
		})
	}
}

func TestUnknownFramesAreIgnored(t *testing.T) {
	p := dialH2(t, startH2(t, func(http.ResponseWriter, *http.Request) {}))
	require.NoError(t, p.WriteRawFrame(0xee, 0xff, 0, []byte("whatever")))
	require.NoError(t, p.WritePriority(7, http2.PriorityParam{StreamDep: 5, Weight: 1}))
	require.NoError(t, p.WriteRawFrame(0x10, 0, 0, []byte("\x00\x00\x00\x01u=1")))
	require.NoError(t, p.WriteSettings(http2.Setting{ID: 0xff, Val: 1}))
	p.ask(1, false, of("GET", "/")...)
	assert.Equal(t, "200", p.reply(1).status)
}

func TestH2CNeedsPriorKnowledge(t *testing.T) {
	t.Run("refused if H2C is disabled", func(t *testing.T) {
		c := serving(t, func(http.ResponseWriter, *http.Request) {})
		c.Send(http2.ClientPreface)
		assert.True(t, strings.HasPrefix(c.Rest(), "HTTP/1.1 505 "))
	})
	s := &serve.Server{H2C: true, Log: slog.New(slog.DiscardHandler), Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, q.Proto) })}
	addr := start(t, s)
	t.Run("refused after an HTTP/1.1 request", func(t *testing.T) {
		c := proxytest.Dial(t, addr)
		c.Send(get)
		assert.Equal(t, "HTTP/1.1", string(c.Response("GET").Content))
		c.Send(http2.ClientPreface)
		assert.True(t, strings.HasPrefix(c.Rest(), "HTTP/1.1 505 "))
	})
	t.Run("an upgrade is ignored", func(t *testing.T) {
		c := proxytest.Dial(t, addr)
		c.Send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
		assert.Equal(t, "HTTP/1.1", string(c.Response("GET").Content))
	})
	t.Run("the preface arrives byte by byte", func(t *testing.T) {
		c := proxytest.Dial(t, addr)
		for _, b := range []byte(http2.ClientPreface) {
			c.Send(string(b))
		}
		p := &peer{t: t, c: c.Conn, Framer: http2.NewFramer(c.Conn, c.Conn)}
		require.NoError(t, p.WriteSettings())
		f, err := p.ReadFrame()
		require.NoError(t, err)
		assert.Equal(t, http2.FrameSettings, f.Header().Type)
	})
}

func TestARefusedStreamHasARecord(t *testing.T) {
	records := make(chan exchange.Record, 1)
	p := dialH2(t, startH2(t, nil, func(s *serve.Server) {
		s.Lane = &serve.Lane{Always: true, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, End: func(r *exchange.Record) { records <- *r },
			Route: func(string, string, *tls.ConnectionState) (serve.Hit, bool) { return serve.Hit{}, false }}
	}))
	// one stream was reset, one answered
	for i, fields := range [][]string{of("GET", "/p", "x-forwarded-for", "9.9.9.9", "connection", "x"), of("GET", "/p", "x-forwarded-for", "9.9.9.9", "content-length", "x")} {
		p.ask(uint32(2*i+1), false, fields...)
		r := <-records
		var fail *exchange.Failure
		require.ErrorAs(t, r.Err, &fail)
		assert.Equal(t, "HTTP/2.0 GET a.test /p 400 client", fmt.Sprint(r.Proto, " ", r.Method, " ", r.Host, " ", r.Path, " ", r.Status, " ", fail.Side))
		assert.Equal(t, "9.9.9.9", r.Client.String())
		p.reply(uint32(2*i + 1))
	}
}
