package serve_test

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/serve"
	"github.com/hostproxy/hostproxy/internal/status"
)

// pour calls once and sends what it writes, up to most times or until the
// connection breaks, and returns the number of calls.
func (p *peer) pour(most int, once func(p *peer, i int)) (sent int) {
	var out bytes.Buffer
	to := p.Framer
	defer func() { p.Framer = to }()
	p.Framer = http2.NewFramer(&out, nil)
	p.AllowIllegalWrites = true
	for sent < most {
		for range 20 {
			once(p, sent)
			sent++
		}
		if _, err := p.c.Write(out.Bytes()); err != nil {
			break
		}
		out.Reset()
	}
	return sent
}

// Frames that cost the server more than the client end the connection:
// CVE-2019-9512, 9513, 9515, 9518, 2023-44487, 2023-45288, 2024-27316,
// 2025-8671.
func TestAnAbusiveClientIsCutOff(t *testing.T) {
	for _, tt := range []struct {
		name   string
		served int64 // highest number of requests that reach a handler
		code   http2.ErrCode
		once   func(p *peer, i int)
	}{
		{"resets", 450, http2.ErrCodeEnhanceYourCalm, func(p *peer, i int) {
			p.ask(uint32(2*i+1), false, of("GET", "/wait")...)
			_ = p.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
		}},
		{"resets of uploads", 450, http2.ErrCodeEnhanceYourCalm, func(p *peer, i int) {
			p.ask(uint32(2*i+1), true, of("POST", "/wait")...)
			_ = p.WriteData(uint32(2*i+1), false, []byte("x"))
			_ = p.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
		}},
		{"resets by the server", 0, http2.ErrCodeEnhanceYourCalm, func(p *peer, i int) {
			p.ask(uint32(2*i+1), false, of("GET", "/wait", "connection", "x")...)
		}},
		{"window updates of zero", 20, http2.ErrCodeProtocol, func(p *peer, i int) {
			p.ask(uint32(2*i+1), false, of("GET", "/wait")...)
			_ = p.WriteWindowUpdate(uint32(2*i+1), 0)
		}},
		{"streams beyond the limit", 450, http2.ErrCodeEnhanceYourCalm, func(p *peer, i int) { p.ask(uint32(2*i+1), false, of("GET", "/wait")...) }},
		{"pings", 0, http2.ErrCodeEnhanceYourCalm, func(p *peer, _ int) { _ = p.WritePing(false, [8]byte{}) }},
		{"unasked answers to pings", 0, http2.ErrCodeEnhanceYourCalm, func(p *peer, _ int) { _ = p.WritePing(true, [8]byte{}) }},
		{"settings", 0, http2.ErrCodeEnhanceYourCalm, func(p *peer, _ int) { _ = p.WriteSettings() }},
		{"priorities", 0, http2.ErrCodeEnhanceYourCalm, func(p *peer, i int) { _ = p.WritePriority(uint32(2*i+1), http2.PriorityParam{}) }},
		{"frames of unknown types", 0, http2.ErrCodeEnhanceYourCalm, func(p *peer, _ int) { _ = p.WriteRawFrame(0xee, 0, 0, nil) }},
		{"window updates", 0, http2.ErrCodeEnhanceYourCalm, func(p *peer, _ int) { _ = p.WriteWindowUpdate(0, 1) }},
		{"empty pieces of a body", 1, http2.ErrCodeEnhanceYourCalm, func(p *peer, i int) {
			if i == 0 {
				p.ask(1, true, of("POST", "/wait")...)
			}
			_ = p.WriteData(1, false, nil)
		}},
		{"heads for a stream that was reset", 0, http2.ErrCodeEnhanceYourCalm, func(p *peer, i int) {
			p.ask(1, true, of("POST", "/wait", "connection", "x")...)
		}},
		{"data for a stream that was reset", 0, http2.ErrCodeEnhanceYourCalm, func(p *peer, i int) {
			if i == 0 {
				p.ask(1, true, of("POST", "/wait", "connection", "x")...)
			}
			_ = p.WriteData(1, false, []byte("x"))
		}},
		{"continuations", 0, http2.ErrCodeEnhanceYourCalm, func(p *peer, i int) {
			if i == 0 {
				_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.fields(of("GET", "/")...)})
			}
			_ = p.WriteContinuation(1, false, []byte{0x82})
		}},
		{"empty continuations", 0, http2.ErrCodeEnhanceYourCalm, func(p *peer, i int) {
			if i == 0 {
				_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.fields(of("GET", "/")...)})
			}
			_ = p.WriteContinuation(1, false, nil)
		}},
		{"heads that decode to far more", 0, http2.ErrCodeEnhanceYourCalm, func(p *peer, i int) {
			if i == 0 { // an HPACK entry of four thousand bytes
				_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, EndHeaders: true,
					BlockFragment: p.fields(of("GET", "/refused", "x", strings.Repeat("y", 3000))...)})
			}
			_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 3), EndStream: true, EndHeaders: true, BlockFragment: bytes.Repeat([]byte{0xbe}, 100)})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			var served atomic.Int64
			budget := &serve.Budget{Log: slog.New(slog.DiscardHandler)}
			p := dialH2(t, startH2(t, func(_ http.ResponseWriter, q *http.Request) {
				if q.URL.Path == "/wait" {
					served.Add(1)
					<-q.Context().Done()
				}
			}, func(s *serve.Server) { s.Budget = budget }))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			p.pour(20_000, tt.once)
			code, polite := p.closed()
			runtime.ReadMemStats(&after)
			assert.Less(t, time.Since(start), proxytest.Patience)
			if polite {
				assert.Equal(t, tt.code, code)
			}
			assert.LessOrEqual(t, served.Load(), tt.served)
			assert.Less(t, len(p.seen), 1000, "answers to what was sent")
			assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20), "by both ends")
			if code == http2.ErrCodeEnhanceYourCalm {
				refused := budget.Describe().Refused
				assert.True(t, slices.ContainsFunc(refused, func(r status.Refusal) bool { return r.What == "connections" && r.Why == "abuse" }), "%v", refused)
			}
		})
	}
}

// CVE-2025-8671: bodies whose length differs from their Content-Length make the
// server reset streams. Each costs the client a token, even if it waits for
// each reset.
func TestResetsThatAClientProvokesCostTokens(t *testing.T) {
	for name, body := range map[string]string{"too long": "xxx", "too short": "x"} {
		t.Run(name, func(t *testing.T) {
			p := dialH2(t, startH2(t, func(_ http.ResponseWriter, q *http.Request) { _, _ = io.Copy(io.Discard, q.Body) }))
			resets := 0
			for id := uint32(1); id < 2*1000; id += 2 {
				p.ask(id, true, of("POST", "/", "content-length", "2")...)
				_ = p.WriteData(id, true, []byte(body))
				ended := false
				p.wait("reset", func(all []seen, over bool) bool {
					ended = over
					return over || slices.ContainsFunc(all, func(s seen) bool { return s.kind == http2.FrameRSTStream && s.stream == id })
				})
				if ended {
					break
				}
				resets++
			}
			require.Less(t, resets, 500)
			code, _ := p.closed()
			assert.Equal(t, http2.ErrCodeEnhanceYourCalm, code)
		})
	}
}

// CVE-2019-9511, 9517, 2016-1546: window updates of single bytes cost tokens.
func TestTinyWindowUpdatesCostTokens(t *testing.T) {
	ended := make(chan struct{})
	p := dialH2(t, startH2(t, func(w http.ResponseWriter, _ *http.Request) {
		defer close(ended)
		_, err := w.Write(make([]byte, 1<<20))
		assert.Error(t, err)
	}), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
	p.ask(1, false, of("GET", "/")...)
	p.frame("head", func(s seen) bool { return s.kind == http2.FrameHeaders })
	p.pour(20_000, func(p *peer, _ int) { _ = p.WriteWindowUpdate(1, 1) })
	code, _ := p.closed()
	assert.Equal(t, http2.ErrCodeEnhanceYourCalm, code)
	<-ended
}

// Answers to PINGs do not gather in memory if the client reads none.
func TestUnreadPINGRepliesDoNotAccumulate(t *testing.T) {
	c, err := net.Dial("tcp", startH2(t, nil))
	require.NoError(t, err)
	p := newPeer(t, c)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	assert.Less(t, p.pour(5_000_000, func(p *peer, _ int) { _ = p.WritePing(false, [8]byte{}) }), 5_000_000, "it is cut off")
	runtime.ReadMemStats(&after)
	assert.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(8<<20))
}

// Frames that browsers and gRPC clients often send cost nothing.
func TestOrdinaryFramesCostNoTokens(t *testing.T) {
	p := dialH2(t, startH2(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }))
	for i := range 2000 {
		stream := uint32(2*i + 1)
		require.NoError(t, p.WritePriority(stream+2, http2.PriorityParam{Weight: 7}))
		p.ask(stream, false, of("GET", "/")...)
		require.Equal(t, "ok", p.reply(stream).body)
		require.NoError(t, p.WriteWindowUpdate(0, 2))
		require.NoError(t, p.WritePing(false, [8]byte{}))
		p.mu.Lock()
		p.seen = nil
		p.mu.Unlock()
	}
}

// A client that was cut off and reconnects does not get all its tokens back.
func TestAnAbusiveClientGetsNoNewTokensByReconnecting(t *testing.T) {
	var served atomic.Int64
	addr := startH2(t, func(_ http.ResponseWriter, q *http.Request) {
		served.Add(1)
		<-q.Context().Done()
	})
	start := time.Now()
	for range 30 {
		p := dialH2(t, addr)
		p.pour(400, func(p *peer, i int) {
			p.ask(uint32(2*i+1), false, of("GET", "/")...)
			_ = p.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
		})
		p.closed()
	}
	back := int64(time.Since(start).Seconds()+1) * 100
	assert.LessOrEqual(t, served.Load(), 2000+back+30*20, "of 12,000")
}
