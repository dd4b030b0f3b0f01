package serve_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/serve"
)

// The last byte of a body may arrive in its own TCP segment or TLS record.
func TestTheLastByteOfABodyMayArriveAlone(t *testing.T) {
	read := make(chan struct{}, 1)
	p := dialH2(t, startH2(t, func(w http.ResponseWriter, q *http.Request) {
		_, _ = q.Body.Read(make([]byte, 1))
		read <- struct{}{}
		rest, _ := io.ReadAll(q.Body)
		w.Write(rest)
	}))
	p.ask(1, true, of("POST", "/", "content-length", "2")...)
	var frame bytes.Buffer
	require.NoError(t, http2.NewFramer(&frame, nil).WriteData(1, true, []byte("ab")))
	last := frame.Len() - 1
	_, err := p.c.Write(frame.Bytes()[:last])
	require.NoError(t, err)
	<-read
	_, err = p.c.Write(frame.Bytes()[last:])
	require.NoError(t, err)
	assert.Equal(t, "b", p.reply(1).body)
}

// Only bytes that were sent shrink a stream's window, even if the connection's
// window is smaller.
func TestASmallerConnectionWindowLosesNoStreamWindow(t *testing.T) {
	const window, rounds = 65535, 16
	p := dialH2(t, startH2(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, rounds/2*window)) }))
	p.ask(1, false, of("GET", "/")...)
	p.ask(3, false, of("GET", "/")...)
	given := map[uint32]int{}
	for round := range rounds {
		got := map[uint32]int{}
		p.wait(fmt.Sprint("whole window in round ", round), func(all []seen, _ bool) bool {
			clear(got)
			for _, s := range all {
				got[s.stream] += len(s.data)
			}
			return got[1]+got[3] == (round+1)*window
		})
		for _, id := range []uint32{1, 3} {
			if n := got[id] - given[id]; n > 0 {
				require.NoError(t, p.WriteWindowUpdate(id, uint32(n)))
				given[id] = got[id]
			}
		}
		require.NoError(t, p.WriteWindowUpdate(0, window))
	}
	for _, id := range []uint32{1, 3} {
		assert.Len(t, p.reply(id).body, rounds/2*window)
	}
}

// drained returns a client that has read the last GOAWAY of a drain, while its
// first stream waits for the response. finish lets the response be sent, and
// checks that it is complete and that the connection ends without an error.
func drained(t *testing.T) (p *peer, finish func()) {
	t.Helper()
	release := make(chan struct{})
	addr, drain := startDraining(t, func(w http.ResponseWriter, _ *http.Request) {
		<-release
		io.WriteString(w, "whole")
	})
	p = dialH2(t, addr)
	p.ask(1, false, of("GET", "/")...)
	p.frame("settings", func(s seen) bool { return s.kind == http2.FrameSettings && s.ack })
	done := drain()
	ping := p.frame("PING", func(s seen) bool { return s.kind == http2.FramePing })
	require.NoError(t, p.WritePing(true, [8]byte([]byte(ping.data))))
	p.frame("the last GOAWAY", func(s seen) bool { return s.kind == http2.FrameGoAway && s.last == 1 })
	return p, func() {
		t.Helper()
		close(release)
		assert.Equal(t, "whole", p.reply(1).body)
		code, _ := p.closed()
		assert.Equal(t, http2.ErrCodeNo, code)
		p.c.Close()
		assert.NoError(t, <-done)
	}
}

// RFC 9113, 6.8: frames of streams that the client opened before it read the
// last GOAWAY are ignored.
func TestAnUploadAfterTheLastGOAWAYIsIgnored(t *testing.T) {
	p, finish := drained(t)
	p.ask(3, true, of("POST", "/")...)
	require.NoError(t, p.WriteData(3, false, []byte("body")))
	require.NoError(t, p.WriteWindowUpdate(3, 1))
	require.NoError(t, p.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: p.fields("x-sent", "1"), EndStream: true, EndHeaders: true}))
	require.NoError(t, p.WriteRSTStream(3, http2.ErrCodeCancel))
	require.NoError(t, p.WritePing(false, [8]byte{1}))
	p.frame("answer to a PING", func(s seen) bool { return s.kind == http2.FramePing && s.ack })
	finish()
}

// After a drain's last GOAWAY, as many streams as are allowed may still arrive.
// They cost the client nothing.
func TestManyStreamsAfterTheLastGOAWAYCostNoTokens(t *testing.T) {
	p, finish := drained(t)
	for stream := uint32(3); stream < 2*250; stream += 2 {
		p.ask(stream, true, of("POST", "/")...)
		require.NoError(t, p.WriteData(stream, false, []byte("x")))
		require.NoError(t, p.WriteData(stream, true, nil))
	}
	require.NoError(t, p.WritePing(false, [8]byte{1}))
	p.wait("answer to a PING", func(all []seen, ended bool) bool {
		return ended || slices.ContainsFunc(all, func(s seen) bool { return s.kind == http2.FramePing && s.ack })
	})
	finish()
}

// A worker that writes for all streams soon continues its own stream, even
// while a slow client reads a large body.
func TestAWorkerThatWritesForAllStreamsContinuesItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, said := make(chan struct{}), 0
		dial, _ := dialBubble(t, nil, func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/large" {
				<-began
				for page := make([]byte, 64<<10); ; {
					if _, err := w.Write(page); err != nil {
						return
					}
				}
			}
			for range 100 {
				io.WriteString(w, "said")
				if http.NewResponseController(w).Flush() != nil {
					return
				}
				if said++; said == 1 {
					close(began)
				}
				time.Sleep(time.Millisecond)
			}
		})
		p := newPeer(t, dial(), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
		go func() {
			_ = p.WriteWindowUpdate(0, 1<<30)
			p.ask(1, false, of("GET", "/large")...)
			p.ask(3, false, of("GET", "/said")...)
		}()
		for range 2000 { // of 16 KiB
			_, err := p.ReadFrame()
			require.NoError(t, err)
			time.Sleep(time.Millisecond)
		}
		assert.Equal(t, 100, said)
		p.c.Close()
	})
}

// Frames for a stream that the server has ended early cost the usual tokens.
func TestFramesForStreamsThatEndedEarlyCostTokens(t *testing.T) {
	for _, tt := range []struct {
		name string
		once func(p *peer)
	}{
		{"empty pieces of a body", func(p *peer) { _ = p.WriteData(1, false, nil) }},
		{"trailers", func(p *peer) {
			_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}, EndHeaders: true})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := dialH2(t, startH2(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
			p.ask(1, true, of("POST", "/")...)
			p.frame("reset", func(s seen) bool { return s.kind == http2.FrameRSTStream })
			const many = 2_000_000 // more than sockets hold
			assert.Less(t, p.pour(many, func(p *peer, _ int) { tt.once(p) }), many, "it is cut off")
			code, polite := p.closed()
			if polite {
				assert.Equal(t, http2.ErrCodeEnhanceYourCalm, code)
			}
		})
	}
}

// RFC 9113, 6.8: a client's GOAWAY limits the streams that the server opens,
// not the client's own.
func TestARequestAfterAGOAWAYIsServed(t *testing.T) {
	p := dialH2(t, startH2(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "whole") }))
	p.pour(1, func(p *peer, i int) {
		if i == 0 {
			_ = p.WriteGoAway(0, http2.ErrCodeNo, nil)
			p.ask(1, false, of("GET", "/")...)
		}
	})
	assert.Equal(t, "whole", p.reply(1).body)
	code, polite := p.closed()
	assert.True(t, polite)
	assert.Equal(t, http2.ErrCodeNo, code)
}

// CVE-2023-44487: a request that is reset before it has begun does not reach
// its target. It has a record.
func TestARequestThatIsResetImmediatelyIsNotServed(t *testing.T) {
	const resets = 20
	var served atomic.Int64
	records := make(chan exchange.Record, resets)
	count := func(host, path string, _ *tls.ConnectionState) (serve.Hit, bool) {
		if path == "/reset" {
			served.Add(1)
		}
		return serve.Hit{}, false
	}
	p := dialH2(t, startH2(t, func(_ http.ResponseWriter, q *http.Request) { count(q.Host, q.URL.Path, nil) }, func(s *serve.Server) {
		s.Lane = &serve.Lane{Always: true, Route: count, End: func(r *exchange.Record) { records <- *r }}
	}))
	p.pour(resets, func(p *peer, i int) {
		p.ask(uint32(2*i+1), true, of("POST", "/reset")...)
		_ = p.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
	})
	for range resets {
		r := <-records
		assert.Equal(t, exchange.StatusClientClosed, r.Status)
		assert.ErrorIs(t, r.Err, exchange.ErrClientGone)
	}
	p.ask(101, false, of("GET", "/")...)
	assert.Equal(t, "200", p.reply(101).status)
	assert.Zero(t, served.Load())
}

// A request that is reset while its target is dialed is not sent.
func TestARequestThatIsResetDuringTheDialIsNotSent(t *testing.T) {
	proxytest.NoLeaks(t)
	var asked atomic.Int64
	target := proxytest.NewServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	u := hostproxy.To(target.Addr())
	dialing, release := make(chan struct{}), make(chan struct{})
	u.Dial = func(_ context.Context, network, addr string) (net.Conn, error) {
		close(dialing)
		<-release
		return net.Dial(network, addr)
	}
	records := make(chan hostproxy.Exchange, 1)
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler), Observe: func(x *hostproxy.Exchange) { records <- *x }}
	r.Handle("a.test", u)
	p := dialH2(t, proxytest.StartPlain(t, &hostproxy.Server{Router: &r, H2C: true}).Plain)
	p.ask(1, false, of("GET", "/")...)
	<-dialing
	require.NoError(t, p.WriteRSTStream(1, http2.ErrCodeCancel))
	require.NoError(t, p.WritePing(false, [8]byte{1}))
	p.frame("answer to a PING", func(s seen) bool { return s.kind == http2.FramePing && s.ack })
	close(release)
	x := <-records
	assert.Equal(t, 499, x.Status)
	p.c.Close()
	target.Close()
	assert.Zero(t, asked.Load())
}

// A client that streams small messages may have a whole window of them in
// flight when it reads an early response.
func TestSmallFramesAfterAnEarlyResponseAreFreeWithinTheWindow(t *testing.T) {
	for _, tt := range []struct {
		name  string
		first int // bytes in large pieces, before the small ones
		small int
		size  int
		code  http2.ErrCode
	}{
		{"a thousand messages", 0, 1000, 64, http2.ErrCodeNo},
		{"as many as the window holds", 0, 64 << 10, 1, http2.ErrCodeNo},
		{"more than the window holds", 64 << 10, 5000, 1, http2.ErrCodeEnhanceYourCalm},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := dialH2(t, startH2(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
			p.ask(1, true, of("POST", "/", "content-type", "application/grpc")...)
			p.frame("reset", func(s seen) bool { return s.kind == http2.FrameRSTStream && s.code == http2.ErrCodeNo })
			for range tt.first / (16 << 10) {
				require.NoError(t, p.WriteData(1, false, make([]byte, 16<<10)))
			}
			p.pour(tt.small, func(p *peer, _ int) { _ = p.WriteData(1, false, make([]byte, tt.size)) })
			if tt.code != http2.ErrCodeNo {
				if code, polite := p.closed(); polite {
					assert.Equal(t, tt.code, code)
				}
				return
			}
			require.NoError(t, p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.fields("x-sent", "1"), EndStream: true, EndHeaders: true}))
			p.ask(3, false, of("GET", "/")...)
			assert.Equal(t, "401", p.reply(3).status, "the connection goes on")
		})
	}
}

// Frames that a client sends while it reads its last response, such as
// WINDOW_UPDATE, do not cut that response off.
func TestWindowUpdatesDoNotCutOffTheLastResponse(t *testing.T) {
	t.Parallel() // it waits
	const size = 1 << 20
	c, err := net.Dial("tcp", startH2(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, size)) }))
	require.NoError(t, err)
	require.NoError(t, c.(*net.TCPConn).SetReadBuffer(32<<10))
	p := newPeer(t, c, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	require.NoError(t, p.WriteWindowUpdate(0, 1<<30))
	p.ask(1, false, of("GET", "/")...)
	require.NoError(t, p.WriteGoAway(0, http2.ErrCodeNo, nil))
	slow := time.NewTicker(20 * time.Millisecond)
	defer slow.Stop()
	for got := 0; got < size; {
		f, err := p.ReadFrame()
		require.NoError(t, err, "after %d bytes", got)
		if data, ok := f.(*http2.DataFrame); ok {
			got += len(data.Data())
			require.NoError(t, p.WriteWindowUpdate(0, uint32(len(data.Data()))))
			<-slow.C
		}
	}
}
