package e2e_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// An h2 is a client that speaks HTTP/2 frame by frame, and may break every
// rule. After listen it reads frames in the background.
type h2 struct {
	*http2.Framer
	c      *proxytest.Conn
	block  bytes.Buffer // encoded header fields
	enc    *hpack.Encoder
	frames chan heard      // closed with the connection
	over   <-chan struct{} // closes with the test
}

// heard is a frame from the server, or the status of a response.
type heard struct {
	kind   http2.FrameType
	stream uint32
	status string
	code   http2.ErrCode
}

// plainH2 starts a fast lane over TLS whose target answers each request, and
// its client. There are no records.
func plainH2(t *testing.T) (*track, *h2) {
	t.Helper()
	k := newFast(t, shape{secure: true})
	k.records = nil
	k.mirror.answer.Store(&say)
	p := newH2(t, k)
	p.listen()
	return k, p
}

// newH2 connects to the track and sends the preface and settings.
func newH2(t testing.TB, k *track, settings ...http2.Setting) *h2 {
	t.Helper()
	over := *k
	if k.tls != nil {
		over.tls = k.tls.Clone()
		over.tls.NextProtos = []string{"h2"}
	}
	p := &h2{c: over.connect(t), frames: make(chan heard, 1<<16), over: t.Context().Done()}
	if k.tls != nil {
		require.Equal(t, "h2", p.protocol(t))
	}
	p.Framer = http2.NewFramer(p.c.Conn, p.c.Conn)
	p.AllowIllegalWrites = true
	p.enc = hpack.NewEncoder(&p.block)
	require.NoError(t, p.c.Send(http2.ClientPreface))
	require.NoError(t, p.WriteSettings(settings...))
	return p
}

func (p *h2) protocol(t testing.TB) string {
	t.Helper()
	c := p.c.Conn.(*tls.Conn)
	require.NoError(t, c.Handshake())
	return c.ConnectionState().NegotiatedProtocol
}

// listen reads the server's frames. Without it, the client reads nothing.
func (p *h2) listen() {
	p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	go func() {
		defer close(p.frames)
		for {
			f, err := p.ReadFrame()
			if err != nil {
				return
			}
			h := heard{kind: f.Header().Type, stream: f.Header().StreamID}
			switch f := f.(type) {
			case *http2.MetaHeadersFrame:
				h.status = f.PseudoValue("status")
			case *http2.RSTStreamFrame:
				h.code = f.ErrCode
			case *http2.GoAwayFrame:
				h.code = f.ErrCode
			}
			select {
			case p.frames <- h:
			case <-p.over: // the test is over
				return
			}
		}
	}()
}

// fields encodes pairs of names and values.
func (p *h2) fields(pairs ...string) []byte {
	p.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		_ = p.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return bytes.Clone(p.block.Bytes())
}

// ask sends a request, or trailers, in as many frames as necessary.
func (p *h2) ask(stream uint32, endStream bool, pairs ...string) error {
	const most = 16 << 10 // bytes of a frame
	block := p.fields(pairs...)
	n := min(len(block), most)
	err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block[:n], EndStream: endStream, EndHeaders: n == len(block)})
	for block = block[n:]; len(block) > 0 && err == nil; block = block[n:] {
		n = min(len(block), most)
		err = p.WriteContinuation(stream, n == len(block), block[:n])
	}
	return err
}

// outcome waits for the outcome of a stream: a status, or "reset" or "closed".
func (p *h2) outcome(t testing.TB, stream uint32) string {
	t.Helper()
	timeout := time.After(proxytest.Patience)
	for {
		select {
		case h, open := <-p.frames:
			switch {
			case !open, h.kind == http2.FrameGoAway:
				return "closed"
			case h.stream != stream:
			case h.kind == http2.FrameRSTStream:
				return "reset"
			case h.status != "":
				return h.status
			}
		case <-timeout:
			t.Fatalf("stream %d got neither a response nor a reset", stream)
		}
	}
}

// told reports whether the connection has ended or the server has sent GOAWAY.
func (p *h2) told() bool {
	for {
		select {
		case h, open := <-p.frames:
			if !open || h.kind == http2.FrameGoAway {
				return true
			}
		default:
			return false
		}
	}
}

// pour sends frames until the connection breaks, and reports that. It stops
// after a few thousand frames or, if ends is true, after a flood.
func (p *h2) pour(once func(p *h2, stream uint32) error, ends bool) (cut bool) {
	var out bytes.Buffer
	p.Framer = http2.NewFramer(&out, p.c.Conn)
	p.AllowIllegalWrites = true
	for sent, stream := 0, uint32(1); ends && sent < flood || stream < 4000; {
		for out.Len() < 16<<10 && stream < 1<<30 {
			if once(p, stream) != nil {
				return false
			}
			stream += 2
		}
		if p.c.Send(out.String()) != nil {
			return true
		}
		sent += out.Len()
		out.Reset()
	}
	return false
}

var ordinary = []string{":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/"}

// A well-formed request passes, and becomes HTTP/1.1. For others, see
// ownRefusals.
func TestAWellFormedHTTP2RequestBecomesHTTP11(t *testing.T) {
	k, p := plainH2(t)
	require.NoError(t, p.ask(1, true, append(slices.Clone(ordinary), "cookie", "a=1", "cookie", "b=2", "x_forwarded_for", "1.1.1.1", "x-forwarded-for", "1.1.1.1", "te", "trailers", "via", "1.0 x")...))
	assert.Equal(t, "200", p.outcome(t, 1))
	raw := k.mirror.taken()[0].Raw
	assert.Equal(t, "GET / HTTP/1.1", lines(raw)[0])
	assert.Equal(t, []string{"a=1; b=2"}, field(raw, "Cookie"))
	assert.Equal(t, []string{"127.0.0.1"}, field(raw, "X-Forwarded-For"))
	assert.Empty(t, field(raw, "X_Forwarded_For"))
	assert.Regexp(t, "^1.0 x,2.0 hostproxy-[a-z2-7]{8}$", strings.Join(field(raw, "Via"), ","))
}

// A body of another length than its Content-Length must not become a request
// after another one.
func TestHTTP2BodiesOfTheWrongLengthReachNoTargetWhole(t *testing.T) {
	k := newFast(t, shape{secure: true})
	k.records = nil
	k.mirror.answer.Store(&say)
	for _, tt := range []struct{ about, length, data string }{
		{"too short", "50", "hello"},
		{"too long", "5", "hello" + smuggled},
		{"none at all", "5", ""},
		{"more than nothing", "0", smuggled},
		{"five and a letter", "5x", "hello"},
		{"five with a sign", "+5", "hello"},
		{"five, twice", "5, 5", "hello"},
		{"nothing at all", "", "hello"},
		{"less than nothing", "-1", "hello"},
		{"five in another base", "0x5", "hello"},
	} {
		t.Run(tt.about, func(t *testing.T) {
			p := newH2(t, k)
			p.listen()
			require.NoError(t, p.ask(1, false, ":method", "POST", ":scheme", "https", ":authority", "a.test", ":path", "/", "content-length", tt.length))
			require.NoError(t, p.WriteData(1, true, []byte(tt.data)))
			outcomes := []string{"reset", "closed", "400"}
			if tt.length == "0" { // the request is whole before the data comes
				outcomes = append(outcomes, "200")
			}
			assert.Contains(t, outcomes, p.outcome(t, 1))
			for _, q := range k.mirror.taken() {
				assert.NotContains(t, string(q.Raw), "smuggled")
				assert.Empty(t, q.Content)
			}
		})
	}
}

// CVE-2023-44487, CVE-2025-8671 and the floods of 2019: a client that resets
// its streams, or makes the proxy reset them, does not cause more backend
// requests at a time than its limit of streams. A header block without end is
// cut off.
func TestHTTP2FloodsAreBounded(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		about string
		once  func(p *h2, stream uint32) error
		ends  bool // the server has to cut the connection
	}{ // a flood of frames that cost nothing need not end
		{"rapid reset", func(p *h2, stream uint32) error {
			if err := p.ask(stream, true, ordinary...); err != nil {
				return err
			}
			return p.WriteRSTStream(stream, http2.ErrCodeCancel)
		}, false},
		{"made you reset", func(p *h2, stream uint32) error {
			if err := p.ask(stream, true, ordinary...); err != nil {
				return err
			}
			return p.WriteWindowUpdate(stream, 0)
		}, false},
		{"pings", func(p *h2, stream uint32) error { return p.WritePing(false, [8]byte{}) }, false},
		{"settings", func(p *h2, stream uint32) error { return p.WriteSettings() }, false},
		{"continuations", func(p *h2, stream uint32) error {
			part := bytes.Repeat([]byte{0x82}, 16<<10)
			if stream == 1 {
				return p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: part})
			}
			return p.WriteContinuation(1, false, part)
		}, true},
		{"empty continuations", func(p *h2, stream uint32) error {
			if stream == 1 {
				return p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.fields(ordinary...)})
			}
			return p.WriteContinuation(1, false, nil)
		}, false},
		{"frames of unknown kinds", func(p *h2, stream uint32) error {
			return p.WriteRawFrame(http2.FrameType(0x0a+stream/2%0xf6), http2.Flags(stream), 0, []byte("whatever"))
		}, false},
	} {
		t.Run(tt.about, func(t *testing.T) {
			t.Parallel()
			var open, most atomic.Int64
			backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
				for {
					q, err := c.ReadRequest()
					if err != nil {
						return
					}
					if q.RequestURI == "/probe" {
						_ = c.Send(ok)
						continue
					}
					most.Store(max(most.Load(), open.Add(1)))
					_, _ = c.ReadAll() // until the proxy gives up
					open.Add(-1)
				}
			})
			k := newFast(t, shape{secure: true, change: func(u *hostproxy.Upstream) { u.Targets[0].Host = backend.Addr() }})
			k.records = nil
			p := newH2(t, k)
			cut := p.pour(tt.once, tt.ends)
			assert.True(t, cut || !tt.ends, "the connection is cut")
			p.c.Close()
			proxytest.Eventually(t, "the requests at the backend to end", func() bool { return open.Load() == 0 })
			assert.LessOrEqual(t, most.Load(), int64(300), "requests at a time: MaxConcurrentStreams is 250")

			again := newH2(t, k)
			again.listen()
			require.NoError(t, again.ask(1, true, ":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/probe"))
			assert.Equal(t, "200", again.outcome(t, 1), "others are served as before")
		})
	}
}

// forwarding.md, Abuse: incomplete header blocks and streams without a window
// end after a limit.
func TestHTTP2StreamsThatStallEnd(t *testing.T) {
	t.Parallel()
	impatient := func(u *hostproxy.Upstream) { u.IdleTimeout = 4 * moment }
	t.Run("an unfinished header block", func(t *testing.T) {
		k := newFast(t, shape{secure: true, tune: func(s *hostproxy.Server) { s.IdleTimeout = 4 * moment }})
		// again if the connection may have ended before the block arrived
		for took := time.Duration(0); took == 0 || took > 2*moment; {
			began := time.Now()
			p := newH2(t, k)
			wrote := p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.fields(ordinary...)})
			took = time.Since(began)
			if _, err := io.Copy(io.Discard, p.c); took <= 2*moment {
				require.NoError(t, wrote)
				assert.NoError(t, err, "the connection is closed")
			}
		}
	})
	k := newFast(t, shape{secure: true, change: impatient}) // with default limits of connections
	t.Run("a body that does not come", func(t *testing.T) {
		k.mirror.answer.Store(&say)
		p := newH2(t, k)
		p.listen()
		require.NoError(t, p.ask(1, false, ":method", "POST", ":scheme", "https", ":authority", "a.test", ":path", "/"))
		assert.Contains(t, []string{"408", "reset"}, p.outcome(t, 1))
		k.expectFailure(t, hostproxy.SideClient, 408)
	})
	t.Run("no window for the answer", func(t *testing.T) {
		k.mirror.answer.Store(&answer{raw: "HTTP/1.1 200 OK\r\n" + sized(strings.Repeat("x", 1<<20))})
		p := newH2(t, k, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		p.listen()
		require.NoError(t, p.ask(1, true, ordinary...))
		assert.Equal(t, "200", p.outcome(t, 1))
		assert.Contains(t, []string{"reset", "closed"}, p.outcome(t, 1))
		k.expectFailure(t, hostproxy.SideClient, 499)
	})
}

// CVE-2022-27664: a drain ends although a client keeps sending.
func TestADrainEndsDuringAnHTTP2Flood(t *testing.T) {
	k, p := plainH2(t)
	require.NoError(t, p.ask(1, true, ordinary...))
	require.Equal(t, "200", p.outcome(t, 1))
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for p.WritePing(false, [8]byte{}) == nil {
		}
	}()
	assert.NoError(t, k.running.Stop())
	p.c.Close()
	<-stopped
}

// Trailers without a Trailer field reach the target.
func TestTrailersThatAreNotAnnouncedCrossFromHTTP2(t *testing.T) {
	k, p := plainH2(t)
	require.NoError(t, p.ask(1, false, ":method", "POST", ":scheme", "https", ":authority", "a.test", ":path", "/"))
	require.NoError(t, p.WriteData(1, false, []byte("body")))
	require.NoError(t, p.ask(1, true, "x-sum", "1"))
	require.Equal(t, "200", p.outcome(t, 1))
	q := k.mirror.taken()[0]
	assert.Equal(t, "body", string(q.Content))
	assert.Equal(t, "1", q.Trailer.Get("X-Sum"))
}

// RFC 9110, 6.5: in HTTP/1.1, trailers require chunks. In HTTP/2 they can also
// follow a body with a Content-Length.
func TestTrailersThatAreAnnouncedCrossFromHTTP2BehindALength(t *testing.T) {
	k, p := plainH2(t)
	for i, tt := range []struct {
		trailer, length string // at the target
		more            []string
	}{
		{"1", "", []string{"trailer", "x-sum"}},
		{"", "4", nil},
		{"", "4", []string{"trailer", "content-encoding"}}, // not allowed as a trailer
	} {
		stream := uint32(2*i + 1)
		require.NoError(t, p.ask(stream, false, append([]string{":method", "POST", ":scheme", "https", ":authority", "a.test", ":path", "/", "content-length", "4"}, tt.more...)...))
		require.NoError(t, p.WriteData(stream, false, []byte("body")))
		require.NoError(t, p.ask(stream, true, "x-sum", "1"))
		require.Equal(t, "200", p.outcome(t, stream))
		q := k.mirror.taken()[0]
		assert.Equal(t, "body", string(q.Content))
		assert.Equal(t, tt.trailer, q.Trailer.Get("X-Sum"))
		assert.Equal(t, tt.length, q.Header.Get("Content-Length"))
	}
}
