package serve_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestAStreamCarriesARequestAndItsResponse(t *testing.T) {
	proxytest.NoLeaks(t)
	p := dialH2(t, startH2(t, func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		_, hijacks := w.(http.Hijacker)
		_, pushes := w.(http.Pusher)
		w.Header().Set("X-Saw", fmt.Sprint(q.Method, " ", q.RequestURI, " ", q.Host, " ", q.Proto, " ", q.ProtoMajor, q.ProtoMinor, " ", q.ContentLength, " ",
			string(body), " ", err, " ", q.Trailer, " ", q.Header["Cookie"], " ", hijacks, pushes, " ", q.TransferEncoding))
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "X-T")
		io.WriteString(w, "answer")
		w.Header().Set("X-T", "t")
		w.Header().Set(http.TrailerPrefix+"X-U", "u")
	}))
	p.ask(1, true, of("POST", "/a?b", "cookie", "a=1", "cookie", "b=2")...)
	require.NoError(t, p.WriteData(1, false, []byte("bo")))
	require.NoError(t, p.WriteData(1, false, []byte("dy")))
	require.NoError(t, p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.fields("x-sent", "1"), EndStream: true, EndHeaders: true}))
	r := p.reply(1)
	assert.Equal(t, "200", r.status)
	assert.Contains(t, r.fields, "x-saw: POST /a?b a.test HTTP/2.0 2 0 -1 body <nil> map[X-Sent:[1]] [a=1; b=2] false false []")
	assert.Equal(t, []string{"103"}, r.interim)
	assert.Equal(t, "answer", r.body)
	assert.Equal(t, []string{"x-t: t", "x-u: u"}, r.trailers)
	assert.False(t, r.reset)
}

func TestAStreamEndsWithItsResponseOrWithAReset(t *testing.T) {
	p := dialH2(t, startH2(t, func(w http.ResponseWriter, q *http.Request) {
		switch q.URL.Path {
		case "/sized":
			w.Header().Set("Content-Length", "4")
			io.WriteString(w, "body")
		case "/204":
			w.Header().Set("Content-Length", "4")
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("Content-Length", "4")
			w.WriteHeader(304)
		case "/101": // not allowed in HTTP/2 (RFC 9113, 8.6)
			w.WriteHeader(101)
		case "/short":
			w.Header().Set("Content-Length", "4")
			io.WriteString(w, "bo")
		case "/panic":
			panic(http.ErrAbortHandler)
		case "/both":
			w.Header().Set("Content-Length", "4")
			w.Header().Set("Trailer", "X-T")
			io.WriteString(w, "body")
			w.Header().Set("X-T", "t")
		}
	}))
	for i, tt := range []struct {
		method, path, status, length, body string
		reset                              bool
		trailers                           []string
	}{
		{"GET", "/sized", "200", "4", "body", false, nil},
		{"HEAD", "/sized", "200", "4", "", false, nil},
		{"GET", "/204", "204", "", "", false, nil},
		{"GET", "/304", "304", "4", "", false, nil},
		{"GET", "/nothing", "200", "0", "", false, nil},
		{"GET", "/101", "200", "0", "", false, nil},
		{"GET", "/short", "", "", "", true, nil},
		{"GET", "/panic", "", "", "", true, nil},
		{"GET", "/both", "200", "4", "body", false, []string{"x-t: t"}},
	} {
		stream := uint32(2*i + 1)
		p.ask(stream, false, of(tt.method, tt.path)...)
		r := p.reply(stream)
		assert.Equal(t, tt.reset, r.reset, tt.path)
		if tt.reset {
			assert.Equal(t, http2.ErrCodeInternal, r.code, tt.path)
			continue
		}
		assert.Equal(t, tt.status, r.status, tt.path)
		assert.Equal(t, tt.body, r.body, tt.path)
		assert.Equal(t, tt.length != "", slices.Contains(r.fields, "content-length: "+tt.length), "%s %v", tt.path, r.fields)
		assert.Equal(t, tt.trailers, r.trailers, tt.path)
	}
}

// RFC 9113, 8.1: RST_STREAM with NO_ERROR tells the client that the rest of the
// request is not needed.
func TestAnEarlyResponseIsFollowedByAResetWithoutError(t *testing.T) {
	p := dialH2(t, startH2(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }))
	p.ask(1, true, of("POST", "/")...)
	assert.Equal(t, "403", p.reply(1).status)
	reset := p.frame("reset", func(s seen) bool { return s.kind == http2.FrameRSTStream })
	assert.Equal(t, http2.ErrCodeNo, reset.code)
	require.NoError(t, p.WriteData(1, false, make([]byte, 1000)), "frames that were in flight")
	require.NoError(t, p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.fields("x-sent", "1"), EndStream: true, EndHeaders: true}))
	p.ask(3, false, of("GET", "/")...)
	assert.Equal(t, "403", p.reply(3).status, "the connection goes on")
}

func TestAStreamCarriesBothDirectionsAtOnce(t *testing.T) {
	p := dialH2(t, startH2(t, func(w http.ResponseWriter, q *http.Request) {
		buf := make([]byte, 100)
		for {
			n, err := q.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			_ = http.NewResponseController(w).Flush()
			if err != nil {
				return
			}
		}
	}))
	p.ask(1, true, of("POST", "/")...)
	said := ""
	for _, word := range []string{"one", "two", "three"} {
		said += word
		require.NoError(t, p.WriteData(1, word == "three", []byte(word)))
		p.wait(word, func(all []seen, _ bool) bool {
			got := ""
			for _, s := range all {
				got += s.data
			}
			return strings.HasSuffix(got, said)
		})
	}
	assert.True(t, p.reply(1).ended)
}

// A body never exceeds the flow-control windows, and all of it arrives.
func TestAResponseObeysTheClientsWindows(t *testing.T) {
	const size = 300 << 10
	p := dialH2(t, startH2(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, size)) }),
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	p.ask(1, false, of("GET", "/")...)
	received := func() (n int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, s := range p.seen {
			n += len(s.data)
		}
		return n
	}
	granted := 10
	grant := func(n uint32) {
		proxytest.Eventually(t, "the window to be used", func() bool { return received() == granted })
		require.NoError(t, p.WriteWindowUpdate(1, n))
		granted += int(n)
	}
	grant(1)
	grant(50_000)
	proxytest.Eventually(t, "the window to be used", func() bool { return received() == granted })
	require.NoError(t, p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}), "the window is now below zero")
	require.NoError(t, p.WriteWindowUpdate(1, 10))
	require.NoError(t, p.WriteWindowUpdate(1, 5000))
	granted += 5000
	proxytest.Eventually(t, "the window to be used", func() bool { return received() == granted })
	require.NoError(t, p.WriteWindowUpdate(1, size))
	proxytest.Eventually(t, "the connection's window to be used", func() bool { return received() == 65535 })
	require.NoError(t, p.WriteWindowUpdate(0, size))
	r := p.reply(1)
	assert.True(t, r.ended)
	assert.Len(t, r.body, size)
}

// Only bytes that were read are given back to the flow-control window.
func TestReadingAnUploadExtendsItsWindow(t *testing.T) {
	read := make(chan int)
	p := dialH2(t, startH2(t, func(_ http.ResponseWriter, q *http.Request) {
		for n := range read {
			_, _ = io.ReadFull(q.Body, make([]byte, n))
		}
		_, _ = io.Copy(io.Discard, q.Body)
	}))
	p.ask(1, true, of("POST", "/")...)
	for range 4 {
		require.NoError(t, p.WriteData(1, false, make([]byte, 16<<10)))
	}
	p.WritePing(false, [8]byte{1})
	p.frame("ping", func(s seen) bool { return s.kind == http2.FramePing })
	updates := func(all []seen) (n uint32) {
		for _, s := range all {
			if s.kind == http2.FrameWindowUpdate && s.stream == 1 {
				n += s.by
			}
		}
		return n
	}
	assert.Zero(t, updates(p.wait("ping", func([]seen, bool) bool { return true })), "nothing was read")
	read <- 64 << 10
	read <- 1 // the next read gives the earlier bytes back to the window
	close(read)
	p.wait("window", func(all []seen, _ bool) bool { return updates(all) >= 64<<10 })
	require.NoError(t, p.WriteData(1, true, make([]byte, 10)))
	assert.Equal(t, "200", p.reply(1).status)
}

// RFC 9113, 6.9.1: DATA beyond the window is a connection error.
func TestDataBeyondTheWindowEndsTheConnection(t *testing.T) {
	p := dialH2(t, startH2(t, func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() }))
	p.ask(1, true, of("POST", "/")...)
	for range 5 {
		_ = p.WriteData(1, false, make([]byte, 16<<10))
	}
	code, _ := p.closed()
	assert.Equal(t, http2.ErrCodeFlowControl, code)
}

func TestALargeBodyDoesNotStarveOtherStreams(t *testing.T) {
	asked := make(chan struct{})
	p := dialH2(t, startH2(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/large" {
			_, _ = w.Write(make([]byte, 8<<20))
			return
		}
		io.WriteString(w, "small")
		close(asked)
	}), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	received := func() (of map[uint32]int, ended bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		of = map[uint32]int{}
		for _, s := range p.seen {
			of[s.stream] += len(s.data)
			of[0] += len(s.data)
			ended = ended || s.stream == 5 && s.end
		}
		return of, ended
	}
	granted := 65535
	used := func() bool {
		of, _ := received()
		return of[0] == granted
	}
	p.ask(1, false, of("GET", "/large")...)
	p.ask(3, false, of("GET", "/large")...)
	proxytest.Eventually(t, "the connection's window to be used", used)
	p.ask(5, false, of("GET", "/small")...)
	<-asked
	small := false
	for granted < 4<<20 {
		require.NoError(t, p.WriteWindowUpdate(0, 64<<10))
		granted += 64 << 10
		proxytest.Eventually(t, "the connection's window to be used", used)
		_, ended := received()
		small = small || ended
	}
	assert.True(t, small, "the small one ends first")
	of, _ := received()
	assert.Greater(t, of[1], granted/3, "and the large ones take turns")
	assert.Greater(t, of[3], granted/3)
	require.NoError(t, p.WriteRSTStream(1, http2.ErrCodeCancel))
	require.NoError(t, p.WriteRSTStream(3, http2.ErrCodeCancel))
}

// CVE-2023-44487: a stream that was reset counts against the limit until its
// handler has returned.
func TestTheStreamLimitCountsResetStreamsWhoseHandlersRun(t *testing.T) {
	proxytest.NoLeaks(t)
	var running, most atomic.Int64
	release := make(chan struct{})
	p := dialH2(t, startH2(t, func(_ http.ResponseWriter, q *http.Request) {
		for n := running.Add(1); ; {
			if old := most.Load(); n <= old || most.CompareAndSwap(old, n) {
				break
			}
		}
		<-release // even if the client has left
		running.Add(-1)
	}))
	for stream := uint32(1); stream < 2*30; stream += 2 {
		p.ask(stream, false, of("GET", "/")...)
	}
	proxytest.Eventually(t, "handlers to be called", func() bool { return running.Load() == 30 })
	for stream := uint32(1); stream < 2*30; stream += 2 {
		require.NoError(t, p.WriteRSTStream(stream, http2.ErrCodeCancel))
	}
	for stream := uint32(2*30 + 1); stream < 2*340; stream += 2 {
		p.ask(stream, false, of("GET", "/")...)
	}
	for stream := uint32(2*300 + 1); stream < 2*340; stream += 2 {
		r := p.reply(stream)
		assert.Equal(t, http2.ErrCodeRefusedStream, r.code)
	}
	proxytest.Eventually(t, "streams to run", func() bool { return running.Load() == 250 })
	close(release)
	proxytest.Eventually(t, "streams to end", func() bool { return running.Load() == 0 })
	assert.EqualValues(t, 250, most.Load())
	p.ask(1001, false, of("GET", "/")...)
	assert.Equal(t, "200", p.reply(1001).status)
}

func TestAResetEndsTheRequestsContext(t *testing.T) {
	began, ended := make(chan struct{}), make(chan error, 1)
	p := dialH2(t, startH2(t, func(_ http.ResponseWriter, q *http.Request) {
		close(began)
		<-q.Context().Done()
		_, err := q.Body.Read(make([]byte, 1))
		ended <- err
	}))
	p.ask(1, true, of("POST", "/")...)
	<-began
	require.NoError(t, p.WriteRSTStream(1, http2.ErrCodeCancel))
	assert.Error(t, <-ended)
}

func TestADrainServesStreamsOpenedBeforeTheLastGOAWAY(t *testing.T) {
	proxytest.NoLeaks(t)
	release := make(chan struct{})
	var once sync.Once
	open := func() { once.Do(func() { close(release) }) }
	defer open()
	addr, drain := startDraining(t, func(w http.ResponseWriter, _ *http.Request) {
		<-release
		io.WriteString(w, "whole")
	})
	p := dialH2(t, addr)
	p.frame("settings", func(s seen) bool { return s.kind == http2.FrameSettings })
	p.ask(1, false, of("GET", "/")...)
	done := drain()
	first := p.frame("GOAWAY", func(s seen) bool { return s.kind == http2.FrameGoAway })
	assert.Equal(t, uint32(1<<31-1), first.last)
	p.ask(3, false, of("GET", "/")...)
	ping := p.frame("PING", func(s seen) bool { return s.kind == http2.FramePing })
	require.NoError(t, p.WritePing(true, [8]byte([]byte(ping.data))))
	p.frame("the last GOAWAY", func(s seen) bool { return s.kind == http2.FrameGoAway && s.last == 3 })
	p.ask(5, false, of("GET", "/")...)
	open()
	assert.Equal(t, "whole", p.reply(1).body)
	assert.Equal(t, "whole", p.reply(3).body, "it was opened before the last GOAWAY")
	code, polite := p.closed()
	assert.True(t, polite)
	assert.Equal(t, http2.ErrCodeNo, code)
	p.mu.Lock()
	assert.False(t, slices.ContainsFunc(p.seen, func(s seen) bool { return s.stream == 5 }), "too late")
	p.mu.Unlock()
	p.c.Close()
	assert.NoError(t, <-done)
}

func TestAStreamSends100ContinueWhenTheBodyIsRead(t *testing.T) {
	p := dialH2(t, startH2(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/read" {
			_, _ = io.Copy(w, q.Body)
		}
	}))
	p.ask(1, true, of("POST", "/read", "expect", "100-continue")...)
	p.frame("100", func(s seen) bool { return s.status() == "100" })
	require.NoError(t, p.WriteData(1, true, []byte("body")))
	assert.Equal(t, "body", p.reply(1).body)
	p.ask(3, true, of("POST", "/unread", "expect", "100-continue")...)
	r := p.reply(3)
	assert.Empty(t, r.interim)
	assert.Equal(t, "200", r.status)
}

// RFC 9113, 6.8: a client that has sent GOAWAY gets its responses; then the
// connection closes.
func TestAClientThatSendsGOAWAYGetsItsResponses(t *testing.T) {
	release := make(chan struct{})
	p := dialH2(t, startH2(t, func(w http.ResponseWriter, _ *http.Request) {
		<-release
		io.WriteString(w, "whole")
	}))
	p.ask(1, false, of("GET", "/")...)
	require.NoError(t, p.WriteGoAway(0, http2.ErrCodeNo, nil))
	close(release)
	assert.Equal(t, "whole", p.reply(1).body)
	code, polite := p.closed()
	assert.True(t, polite)
	assert.Equal(t, http2.ErrCodeNo, code)
}

// The heads of all streams together have a limit. A stream beyond it may be
// retried (REFUSED_STREAM).
func TestRequestHeadsHaveALimitPerConnection(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	p := dialH2(t, startH2(t, func(http.ResponseWriter, *http.Request) { <-release }))
	large := strings.Repeat("x", 15<<10)
	for i := range 80 {
		p.ask(uint32(2*i+1), false, of("GET", "/", "x-large", large)...)
	}
	refused := p.frame("refusal", func(s seen) bool { return s.kind == http2.FrameRSTStream })
	assert.Equal(t, http2.ErrCodeRefusedStream, refused.code)
	assert.InDelta(t, 2*(1<<20)/(15<<10), refused.stream, 10)
}

// bytewise is a connection that sends each byte by itself.
type bytewise struct{ net.Conn }

func (b bytewise) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := b.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func TestFramesMayArriveInPieces(t *testing.T) {
	addr := startH2(t, func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		fmt.Fprint(w, string(body), " ", err, " ", q.Trailer.Get("X-T"), " ", q.Header.Get("X-A"))
	})
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	p := newPeer(t, bytewise{c}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 15})
	p.listen()
	block := p.fields(of("POST", "/", "x-a", "b")...)
	require.NoError(t, p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:5], PadLength: 3, Priority: http2.PriorityParam{Weight: 1}}))
	require.NoError(t, p.WriteContinuation(1, false, block[5:9]))
	require.NoError(t, p.WriteContinuation(1, true, block[9:]))
	require.NoError(t, p.WriteDataPadded(1, false, []byte("bo"), make([]byte, 200)))
	require.NoError(t, p.WritePing(false, [8]byte{1}))
	require.NoError(t, p.WriteData(1, false, []byte("dy")))
	require.NoError(t, p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.fields("x-t", "t"), EndStream: true, EndHeaders: true}))
	assert.Equal(t, "body <nil> t b", p.reply(1).body)
}
