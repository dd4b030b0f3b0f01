package serve_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/serve"
)

// goClient returns an HTTP/2 client of net/http without TLS.
func goClient(t testing.TB) *http.Client {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// A client that reads in small pieces sends a WINDOW_UPDATE for each of them.
func TestAClientMayReadALargeAnswerInSmallPieces(t *testing.T) {
	const size = 16 << 20
	addr := startH2(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, size)) })
	res, err := goClient(t).Get("http://" + addr)
	require.NoError(t, err)
	defer res.Body.Close()
	total, buf := 0, make([]byte, 4<<10)
	for err == nil {
		var n int
		n, err = res.Body.Read(buf)
		total += n
	}
	assert.Equal(t, io.EOF, err)
	assert.Equal(t, size, total)
}

// A readsListener has connections that count how often they are read.
type readsListener struct {
	net.Listener
	reads *atomic.Int64
}

func (l readsListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return readsConn{c, l.reads}, err
}

type readsConn struct {
	net.Conn
	reads *atomic.Int64
}

func (c readsConn) Read(p []byte) (int, error) {
	c.reads.Add(1)
	return c.Conn.Read(p)
}

func TestAnUploadIsNotReadByteByByte(t *testing.T) {
	const size = 1 << 20
	var reads atomic.Int64
	s := &serve.Server{H2C: true, Handler: http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		n, err := io.Copy(io.Discard, q.Body)
		assert.NoError(t, err)
		assert.EqualValues(t, size, n)
	})}
	addr := startOn(t, s, readsListener{proxytest.Listen(t), &reads})
	res, err := goClient(t).Post("http://"+addr, "", bytes.NewReader(make([]byte, size)))
	require.NoError(t, err)
	res.Body.Close()
	assert.Less(t, reads.Load(), int64(size/400))
}

// A worker that flushes stops writing for other streams after some rounds.
func TestAFlushDoesNotWaitForTheBodiesOfOtherStreams(t *testing.T) {
	flushed := make(chan struct{})
	large := make(chan struct{})
	addr := startH2(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/large" {
			close(large)
			for q.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
			return
		}
		<-large
		for range 100 {
			io.WriteString(w, "event")
			_ = http.NewResponseController(w).Flush()
		}
		close(flushed)
		<-q.Context().Done()
	})
	p := dialH2(t, addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	require.NoError(t, p.WriteWindowUpdate(0, 1<<30))
	p.ask(1, false, of("GET", "/events")...)
	p.ask(3, false, of("GET", "/large")...)
	select {
	case <-flushed:
	case <-time.After(proxytest.Patience):
		t.Fatal("the flush waits for the body of another stream")
	}
}

// The body of a request that was answered early may arrive much later.
func TestABodyMayArriveLongAfterItsResponse(t *testing.T) {
	for name, size := range map[string]int{"with trailers": 10_000, "only its trailers": 0} {
		t.Run(name, func(t *testing.T) {
			addr := startH2(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
			p := dialH2(t, addr)
			p.ask(1, true, of("POST", "/")...)
			p.reply(1)
			const others = 600
			for i := range others {
				p.ask(uint32(2*i+3), false, of("GET", "/")...)
				assert.Equal(t, "ok", p.reply(uint32(2*i+3)).body)
			}
			if size > 0 {
				require.NoError(t, p.WriteData(1, false, make([]byte, size)))
			}
			require.NoError(t, p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.fields("x-sent", "1"), EndStream: true, EndHeaders: true}))
			// its HPACK index refers to the trailers
			p.ask(2*others+3, false, of("GET", "/", "x-sent", "1")...)
			assert.Equal(t, "ok", p.reply(2*others+3).body)
		})
	}
}

// runtime.Goexit, which testing's FailNow calls, ends only the handler.
func TestAHandlerMayCallGoexit(t *testing.T) {
	proxytest.NoLeaks(t)
	addr, drain := startDraining(t, func(_ http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/exit" {
			runtime.Goexit()
		}
	})
	p := dialH2(t, addr)
	for i := range 400 {
		stream := uint32(4*i + 1)
		p.ask(stream, false, of("GET", "/exit")...)
		require.Equal(t, http2.ErrCodeInternal, p.reply(stream).code)
		p.ask(stream+2, false, of("GET", "/")...)
		require.Equal(t, "200", p.reply(stream+2).status)
	}
	done := drain()
	ping := p.frame("PING", func(s seen) bool { return s.kind == http2.FramePing })
	require.NoError(t, p.WritePing(true, [8]byte([]byte(ping.data))))
	p.closed()
	p.c.Close()
	assert.NoError(t, <-done)
}

// A heldConn returns from Read only when the server sets a read deadline, so
// that data and a timeout coincide. Like TLS, it reads ahead.
type heldConn struct {
	net.Conn
	ahead *bufio.Reader
	holds atomic.Bool
	bored chan struct{}
	once  sync.Once
}

func (c *heldConn) Read(p []byte) (int, error) {
	n, err := c.ahead.Read(p)
	if n > 0 && c.holds.Load() {
		<-c.bored
	}
	return n, err
}

func (c *heldConn) SetReadDeadline(t time.Time) error {
	if c.holds.Load() && !t.IsZero() {
		c.once.Do(func() { close(c.bored) })
	}
	return c.Conn.SetReadDeadline(t)
}

type heldListener struct {
	*pipes
	conns chan *heldConn
}

func (l *heldListener) Accept() (net.Conn, error) {
	c, err := l.pipes.Accept()
	if err != nil {
		return nil, err
	}
	held := &heldConn{Conn: c, ahead: bufio.NewReader(c), bored: make(chan struct{})}
	l.conns <- held
	return held, nil
}

// A request that arrives at the end of IdleTimeout is served, or GOAWAY tells
// the client that it was not.
func TestARequestAtTheEndOfIdleTimeoutIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := &heldListener{pipes: newPipes(), conns: make(chan *heldConn, 1)}
		s := &serve.Server{H2C: true, Log: slog.New(slog.DiscardHandler), IdleTimeout: 30 * time.Second,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(time.Second)
				io.WriteString(w, "whole")
			})}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx, ln) }()
		p := newPeer(t, ln.dial())
		p.listen()
		p.ask(1, false, of("GET", "/")...)
		assert.Equal(t, "whole", p.reply(1).body)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		(<-ln.conns).holds.Store(true)
		p.ask(3, false, of("GET", "/")...)
		assert.Equal(t, "whole", p.reply(3).body)
		cancel()
		assert.NoError(t, <-done)
		p.c.Close()
	})
}

// In a drain each request gets a complete response, or the client knows that it
// was not begun and retries elsewhere.
func TestADrainLosesNoRequest(t *testing.T) {
	proxytest.NoLeaks(t)
	for range 20 {
		var served atomic.Int64
		addr, drain := startDraining(t, func(w http.ResponseWriter, q *http.Request) {
			n, err := io.Copy(io.Discard, q.Body)
			if err != nil {
				return
			}
			served.Add(1)
			w.Write(make([]byte, n))
		})
		var refused, answered atomic.Int64
		var work sync.WaitGroup
		begun := make(chan struct{}, 1<<16)
		for range 3 {
			client := goClient(t)
			for g := range 10 {
				work.Go(func() {
					for size := g * 3000; ; size += 100 {
						begun <- struct{}{}
						p, err := client.Post("http://"+addr, "text/plain", bytes.NewReader(make([]byte, size)))
						var dial *net.OpError
						// The listener may close before it has accepted the
						// connection that the client dialled, which is then
						// reset: what has been served is counted below.
						if errors.As(err, &dial) && dial.Op == "dial" || errors.Is(err, syscall.ECONNRESET) || err != nil && strings.HasSuffix(err.Error(), "client conn could not be established") {
							refused.Add(1)
							return
						}
						if !assert.NoError(t, err) {
							return
						}
						n, err := io.Copy(io.Discard, p.Body)
						p.Body.Close()
						if !assert.NoError(t, err) || !assert.EqualValues(t, size, n) {
							return
						}
						answered.Add(1)
					}
				})
			}
		}
		for range 200 {
			<-begun
		}
		done := drain()
		work.Wait()
		assert.EqualValues(t, 30, refused.Load())
		assert.Equal(t, served.Load(), answered.Load(), "each served request is answered once")
		assert.NoError(t, <-done)
	}
}

// Goroutines that a handler leaves running cannot read or write another stream.
func TestGoroutinesOfAHandlerCannotTouchOtherStreams(t *testing.T) {
	proxytest.NoLeaks(t)
	var left sync.WaitGroup
	addr := startH2(t, func(w http.ResponseWriter, q *http.Request) {
		stray := q.URL.Path == "/stray"
		if stray {
			for range 3 {
				left.Go(func() {
					buf := make([]byte, 1000)
					for range 50 {
						if n, _ := q.Body.Read(buf); n > 0 && string(buf[:n]) != strings.Repeat("s", n) {
							t.Error("a goroutine left running reads the body of another stream")
						}
						_, _ = io.WriteString(w, "stray")
						_ = http.NewResponseController(w).Flush()
						_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
						_ = http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0))
						runtime.Gosched()
					}
				})
			}
			runtime.Gosched()
			if q.URL.RawQuery == "abort" {
				panic(http.ErrAbortHandler)
			}
			return
		}
		body, err := io.ReadAll(q.Body)
		if err != nil || strings.Trim(string(body), "o") != "" {
			t.Errorf("another's body: %v %.20q", err, body)
		}
		w.Write(body)
	})
	var work sync.WaitGroup
	for range 3 {
		client := goClient(t)
		for range 8 {
			work.Go(func() {
				for i := range 30 {
					p, err := client.Post("http://"+addr+"/stray?"+[]string{"", "abort"}[i%2], "", strings.NewReader(strings.Repeat("s", 20_000)))
					if err == nil {
						_, _ = io.Copy(io.Discard, p.Body)
						p.Body.Close()
					}
					size := 1000 * (i % 40)
					p, err = client.Post("http://"+addr+"/", "", strings.NewReader(strings.Repeat("o", size)))
					if !assert.NoError(t, err) {
						return
					}
					body, err := io.ReadAll(p.Body)
					p.Body.Close()
					assert.NoError(t, err)
					assert.True(t, strings.Repeat("o", size) == string(body))
				}
			})
		}
	}
	work.Wait()
	left.Wait()
}

// The program's own proxy, limits and panics behave over HTTP/2 as with
// net/http's server.
func TestHandlersBehaveOverHTTP2AsWithNetHTTP(t *testing.T) {
	proxytest.NoLeaks(t)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Trailer", "X-T")
		w.WriteHeader(http.StatusEarlyHints)
		body, _ := io.ReadAll(q.Body)
		if q.URL.Path == "/proxy/cut" {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, "some")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		w.Write(body)
		w.Header().Set("X-T", "t")
	}))
	defer backend.Close()
	target, _ := url.Parse(backend.URL)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	tooLarge := make(chan error, 1)
	deadline := make(chan error, 2)
	p := dialH2(t, startH2(t, func(w http.ResponseWriter, q *http.Request) {
		switch {
		case strings.HasPrefix(q.URL.Path, "/proxy"):
			proxy.ServeHTTP(w, q)
		case q.URL.Path == "/max":
			q.Body = http.MaxBytesReader(w, q.Body, 10)
			_, err := io.ReadAll(q.Body)
			tooLarge <- err
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		case q.URL.Path == "/panic":
			panic("oh")
		case q.URL.Path == "/late":
			io.WriteString(w, "some")
			_ = http.NewResponseController(w).Flush()
			panic("oh")
		case q.URL.Path == "/read":
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Second / 10))
			_, err := io.ReadAll(q.Body)
			deadline <- err
			http.Error(w, "late", http.StatusRequestTimeout)
		case q.URL.Path == "/write":
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Second / 10))
			_, err := w.Write(make([]byte, 1<<20))
			deadline <- err
		}
	}))
	p.ask(1, true, of("POST", "/proxy")...)
	require.NoError(t, p.WriteData(1, true, []byte("text")))
	r := p.reply(1)
	assert.Equal(t, []string{"103"}, r.interim)
	assert.Equal(t, "text", r.body)
	assert.Equal(t, []string{"x-t: t"}, r.trailers)

	p.ask(3, false, of("GET", "/proxy/cut")...)
	assert.True(t, p.reply(3).reset, "a cut-off body must not look complete")

	p.ask(5, true, of("POST", "/max")...)
	require.NoError(t, p.WriteData(5, false, make([]byte, 100)))
	assert.Equal(t, "413", p.reply(5).status)
	var tooLargeErr *http.MaxBytesError
	assert.ErrorAs(t, <-tooLarge, &tooLargeErr)

	for i, path := range []string{"/panic", "/late"} {
		stream := uint32(7 + 2*i)
		p.ask(stream, false, of("GET", path)...)
		p.frame("reset", func(s seen) bool {
			return s.stream == stream && s.kind == http2.FrameRSTStream && s.code == http2.ErrCodeInternal
		})
		assert.False(t, p.reply(stream).ended)
	}
	p.ask(11, true, of("POST", "/read")...)
	assert.Equal(t, "408", p.reply(11).status)
	assert.ErrorIs(t, <-deadline, os.ErrDeadlineExceeded)
	p.ask(13, false, of("GET", "/write")...)
	assert.True(t, p.reply(13).reset)
	assert.ErrorIs(t, <-deadline, os.ErrDeadlineExceeded)
}

// A client with the same address as one that spends too many tokens keeps its
// requests in flight.
func TestAnAbusiveNeighbourDoesNotCutOffRequestsInFlight(t *testing.T) {
	release := make(chan struct{})
	addr := startH2(t, func(w http.ResponseWriter, q *http.Request) {
		select {
		case <-q.Context().Done():
		case <-release:
			io.WriteString(w, "whole")
		}
	})
	p := dialH2(t, addr)
	p.ask(1, false, of("GET", "/")...)
	for range 20 {
		other := dialH2(t, addr)
		other.pour(400, func(p *peer, i int) {
			p.ask(uint32(2*i+1), false, of("GET", "/")...)
			_ = p.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
		})
		other.closed()
	}
	for stream := uint32(3); stream < 9; stream += 2 {
		p.ask(stream, false, of("GET", "/")...)
		require.NoError(t, p.WriteRSTStream(stream, http2.ErrCodeCancel))
	}
	goodbye := p.frame("GOAWAY", func(s seen) bool { return s.kind == http2.FrameGoAway })
	assert.Equal(t, http2.ErrCodeEnhanceYourCalm, goodbye.code)
	close(release)
	assert.Equal(t, "whole", p.reply(1).body)
}
