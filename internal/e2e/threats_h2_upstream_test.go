package e2e_test

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// An h2Upstream is one connection of an upstream that speaks HTTP/2 frame by
// frame, and may break every rule.
type h2Upstream struct {
	*http2.Framer
	c     *proxytest.BackendConn
	block bytes.Buffer
	enc   *hpack.Encoder
}

// speakH2 returns a script that sends its settings, and calls answer with the
// head of each request.
func speakH2(answer func(u *h2Upstream, q *http2.MetaHeadersFrame)) func(*proxytest.BackendConn) {
	return func(c *proxytest.BackendConn) {
		if hello, err := c.ReadString(len(http2.ClientPreface)); err != nil || hello != http2.ClientPreface {
			return
		}
		u := &h2Upstream{Framer: http2.NewFramer(c.Conn, c), c: c}
		u.AllowIllegalWrites, u.ReadMetaHeaders = true, hpack.NewDecoder(4096, nil)
		u.enc = hpack.NewEncoder(&u.block)
		if u.WriteSettings() != nil {
			return
		}
		for f, err := u.ReadFrame(); err == nil; f, err = u.ReadFrame() {
			if q, ok := f.(*http2.MetaHeadersFrame); ok {
				answer(u, q)
			}
		}
	}
}

// say sends pairs of names and values as a header block of the stream.
func (u *h2Upstream) say(stream uint32, end bool, pairs ...string) error {
	u.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		_ = u.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return u.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: u.block.Bytes(), EndHeaders: true, EndStream: end})
}

// overH2C makes the site's target an h2c one.
func overH2C(s *site) { s.upstream = hostproxy.To("h2c://" + s.backend.Addr()) }

// Similar to CVE-2026-33814, threats.md: 1xx floods.
func TestInterimResponsesWithoutEndOverHTTP2AreBounded(t *testing.T) {
	reset := make(chan bool, 64)
	script := speakH2(func(u *h2Upstream, q *http2.MetaHeadersFrame) {
		over := make(chan struct{})
		go func() { // until the proxy resets the stream
			defer close(over)
			for f, err := u.ReadFrame(); err == nil; f, err = u.ReadFrame() {
				if f.Header().Type == http2.FrameRSTStream {
					return
				}
			}
		}()
		for sent := 0; ; sent++ {
			select {
			case <-over:
				reset <- true
				return
			default:
			}
			if sent == 1<<20 {
				reset <- false
				u.c.Close()
				<-over
				return
			}
			_ = u.say(q.StreamID, false, ":status", "103", "link", "</x>")
		}
	})
	overEachLane(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send("POST / HTTP/1.1\r\nHost: a.test\r\n" + sized(""))
		hints := 0
		p := c.Response("POST")
		for ; p.StatusCode == 103; p = c.Response("POST") {
			hints++
		}
		assert.Equal(t, 502, p.StatusCode)
		assert.LessOrEqual(t, hints, 32)
		assert.True(t, <-reset, "the upstream is told")
	}, overH2C)
}

// threats.md, response splitting: bytes that HTTP/1.1 would read as lines are
// invalid in an HTTP/2 field (RFC 9113, 8.2.1).
func TestAnHTTP2UpstreamCannotSplitTheResponse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ about, name, value string }{
		{"CR LF", "x-a", "a\r\nX-Evil: 1"},
		{"LF", "x-a", "a\nX-Evil: 1"},
		{"CR", "x-a", "a\rX-Evil: 1"},
		{"NUL", "x-a", "a\x00X-Evil: 1"},
		{"CR LF in a name", "x-a\r\nx-evil", "1"},
		{"a colon in a name", "x-evil: 1\r\nx-a", "1"},
	} {
		script := speakH2(func(u *h2Upstream, q *http2.MetaHeadersFrame) {
			switch q.PseudoValue("path") {
			case "/head":
				_ = u.say(q.StreamID, true, ":status", "200", tt.name, tt.value)
			case "/hint":
				_ = u.say(q.StreamID, false, ":status", "103", tt.name, tt.value)
				_ = u.say(q.StreamID, true, ":status", "200")
			case "/trailer":
				_ = u.say(q.StreamID, false, ":status", "200")
				_ = u.WriteData(q.StreamID, false, []byte("ok"))
				_ = u.say(q.StreamID, true, tt.name, tt.value)
			default:
				_ = u.say(q.StreamID, false, ":status", "200", "x-a", "fine")
				_ = u.WriteData(q.StreamID, true, []byte("ok"))
			}
		})
		t.Run(tt.about, func(t *testing.T) {
			overEachLane(t, script, func(t *testing.T, s *site) {
				for _, path := range []string{"/head", "/hint", "/trailer"} {
					c := s.dial(t)
					c.Send("POST " + path + " HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nConnection: close\r\n" + sized(""))
					answer := c.Rest()
					assert.NotContains(t, strings.ToLower(answer), "evil", path)
					if path == "/trailer" {
						assert.NotContains(t, answer, "\r\n0\r\n", "the response does not look complete")
					} else {
						assert.True(t, strings.HasPrefix(answer, "HTTP/1.1 502 "), "%s: %q", path, answer)
					}
				}
				p := s.dial(t).Do(get)
				assert.Equal(t, "ok", string(p.Content), "others are served as before")
				assert.Equal(t, []string{"fine"}, field(p.Raw, "X-A"))
			}, overH2C)
		})
	}
}

func TestFramingNamesInTrailersOfHTTP2AreDropped(t *testing.T) {
	script := speakH2(func(u *h2Upstream, q *http2.MetaHeadersFrame) {
		_ = u.say(q.StreamID, false, ":status", "200", "trailer", "content-length, x-sum")
		_ = u.WriteData(q.StreamID, false, []byte("ok"))
		_ = u.say(q.StreamID, true, "content-length", "100", "host", "evil", "set-cookie", "a=b", "authorization", "x", "content-type", "x/y",
			"x-forwarded-for", "6.6.6.6", "trailer", "x-sum", "transfer-encoding", "chunked", "connection", "x-sum", "keep-alive", "x", "x-sum", "7")
	})
	overEachLane(t, script, func(t *testing.T, s *site) {
		p := s.dial(t).Do("GET / HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\n\r\n")
		assert.Equal(t, "ok", string(p.Content))
		assert.Equal(t, map[string][]string{"X-Sum": {"7"}}, map[string][]string(p.Trailer))
	}, overH2C)
}

// A proxy that asks for gzip by itself would have to decompress, and the
// target's response could cost more than the client's.
func TestTargetsAreAskedOnlyForCodingsThatTheClientNames(t *testing.T) {
	var coded bytes.Buffer
	z := gzip.NewWriter(&coded)
	_, err := z.Write(bytes.Repeat([]byte("ok"), 10_000))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	h := func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		if q.URL.Path == "/flushed" {
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = w.Write(coded.Bytes())
	}
	overEachProtocol(t, h, func(t *testing.T, client *http.Client, backend *proxytest.Server) {
		for _, method := range []string{"GET", "PURGE"} {
			for _, path := range []string{"/", "/flushed"} {
				p, body := do(t, client, newRequest(t, method, path, nil))
				assert.Equal(t, []string{"gzip"}, p.Header["Content-Encoding"])
				assert.True(t, body == coded.String(), "byte for byte")
				assert.False(t, p.Uncompressed)
				assert.NotContains(t, backend.Last(t).Header, "Accept-Encoding")
			}
		}
	})
}

// CVE-2026-33814: with a frame size of 0, a body would be sent for ever. The
// setting arrives in the middle of a connection, before the body is sent.
func TestAnHTTP2UpstreamThatTakesFramesOfNoSizeIs502(t *testing.T) {
	asked := make(chan struct{}, 64)
	script := speakH2(func(u *h2Upstream, q *http2.MetaHeadersFrame) {
		if q.PseudoValue("method") == "GET" {
			_ = u.say(q.StreamID, true, ":status", "200")
			return
		}
		_ = u.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 0})
		_ = u.WritePing(false, [8]byte{})
		for f, err := u.ReadFrame(); err == nil; f, err = u.ReadFrame() {
			if f.Header().Type == http2.FramePing { // the answer: the settings were read
				break
			}
		}
		asked <- struct{}{}
	})
	overEachLane(t, script, func(t *testing.T, s *site) {
		assert.Equal(t, 200, s.dial(t).Do(get).StatusCode)
		c := s.dial(t)
		start := time.Now()
		c.Send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\n")
		<-asked
		_ = c.Conn.Send("hello") // fails when the answer was first
		assert.Equal(t, 502, c.Response("POST").StatusCode)
		assert.Less(t, time.Since(start), proxytest.Patience/2)
		assert.Equal(t, 200, s.dial(t).Do(get).StatusCode, "the next connection is as good as the first")
	}, overH2C)
}
