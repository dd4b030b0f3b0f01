package serve_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/serve"
)

// endsAfter checks that the connection ends after d, or a moment later.
func endsAfter(t *testing.T, p *peer, d time.Duration) {
	t.Helper()
	start := time.Now()
	<-p.done
	assert.GreaterOrEqual(t, time.Since(start), d)
	assert.Less(t, time.Since(start), d+d/4+2*time.Second)
}

func timeouts(s *serve.Server) { s.ReadHeaderTimeout, s.IdleTimeout = 10*time.Second, 30*time.Second }

func TestATricklingPrefaceEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, _ := dialBubble(t, timeouts, nil)
		// inside the preface, and after it
		for _, hello := range []string{http2.ClientPreface[:20], http2.ClientPreface} {
			c := dial()
			start := time.Now()
			var trickle sync.WaitGroup
			trickle.Go(func() {
				io.WriteString(c, hello)
				for range 10 {
					time.Sleep(2 * time.Second)
					if _, err := c.Write([]byte{0}); err != nil {
						return
					}
				}
			})
			_, _ = io.Copy(io.Discard, c)
			assert.Less(t, time.Since(start), 15*time.Second)
			c.Close()
			trickle.Wait()
		}
	})
}

func TestATricklingHeadEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, _ := dialBubble(t, timeouts, nil)
		p := newPeer(t, dial())
		p.listen()
		block := p.fields(of("GET", "/", "x-a", "b")...)
		var trickle sync.WaitGroup
		trickle.Go(func() {
			_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:1]})
			for i := 1; i < len(block); i++ {
				time.Sleep(2 * time.Second)
				if p.WriteContinuation(1, false, block[i:i+1]) != nil {
					return
				}
			}
		})
		endsAfter(t, p, 10*time.Second)
		code, polite := p.closed()
		assert.True(t, polite)
		assert.Equal(t, http2.ErrCodeEnhanceYourCalm, code)
		p.c.Close()
		trickle.Wait()
	})
}

func TestAnIdleConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, _ := dialBubble(t, timeouts, func(http.ResponseWriter, *http.Request) {})
		p := newPeer(t, dial())
		p.listen()
		time.Sleep(20 * time.Second)
		p.ask(1, false, of("GET", "/")...)
		assert.Equal(t, "200", p.reply(1).status)
		endsAfter(t, p, 30*time.Second)
		code, polite := p.closed()
		assert.True(t, polite)
		assert.Equal(t, http2.ErrCodeNo, code)
	})
}

func TestABodyThatStallsFailsItsReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := make(chan error, 1)
		dial, _ := dialBubble(t, nil, func(w http.ResponseWriter, q *http.Request) {
			_, err := io.ReadAll(q.Body)
			failed <- err
			w.WriteHeader(http.StatusRequestTimeout)
		})
		p := newPeer(t, dial())
		p.listen()
		p.ask(1, true, of("POST", "/")...)
		require.NoError(t, p.WriteData(1, false, []byte("x")))
		start := time.Now()
		assert.ErrorIs(t, <-failed, os.ErrDeadlineExceeded)
		assert.InDelta(t, 60, time.Since(start).Seconds(), 5)
		assert.Equal(t, "408", p.reply(1).status)
		p.c.Close()
	})
}

func TestABodyMayPauseOnceTheResponseHasBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, _ := dialBubble(t, nil, func(w http.ResponseWriter, q *http.Request) {
			_ = http.NewResponseController(w).Flush()
			_, _ = io.Copy(w, q.Body)
		})
		p := newPeer(t, dial())
		p.listen()
		p.ask(1, true, of("POST", "/")...)
		time.Sleep(5 * time.Minute)
		require.NoError(t, p.WriteData(1, true, []byte("late")))
		assert.Equal(t, "late", p.reply(1).body)
		p.c.Close()
	})
}

func TestAHandlersReadDeadlineEndsItsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := make(chan error, 2)
		dial, _ := dialBubble(t, nil, func(w http.ResponseWriter, q *http.Request) {
			rc := http.NewResponseController(w)
			_ = rc.SetReadDeadline(time.Now().Add(3 * time.Second))
			_, err := q.Body.Read(make([]byte, 1))
			failed <- err
			_ = rc.SetReadDeadline(time.Unix(1, 0))
			_, err = q.Body.Read(make([]byte, 1))
			failed <- err
		})
		p := newPeer(t, dial())
		p.listen()
		start := time.Now()
		p.ask(1, true, of("POST", "/")...)
		assert.ErrorIs(t, <-failed, os.ErrDeadlineExceeded)
		assert.InDelta(t, 3, time.Since(start).Seconds(), 0.5)
		assert.ErrorIs(t, <-failed, os.ErrDeadlineExceeded)
		assert.InDelta(t, 3, time.Since(start).Seconds(), 0.5)
		p.c.Close()
	})
}

func TestAWindowThatStaysClosedEndsOnlyItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := make(chan error, 1)
		dial, _ := dialBubble(t, nil, func(w http.ResponseWriter, q *http.Request) {
			_, err := w.Write(make([]byte, 100<<10))
			if q.URL.Path == "/stalls" {
				failed <- err
			}
		})
		p := newPeer(t, dial(), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		p.listen()
		start := time.Now()
		p.ask(1, false, of("GET", "/stalls")...)
		p.ask(3, false, of("GET", "/dribbles")...)
		for range 100 { // one byte a second is progress
			time.Sleep(time.Second)
			require.NoError(t, p.WriteWindowUpdate(3, 1))
			require.NoError(t, p.WriteSettings(), "and does not count for others")
		}
		assert.Error(t, <-failed)
		r := p.reply(1)
		assert.Equal(t, http2.ErrCodeCancel, r.code)
		assert.Less(t, time.Since(start), 101*time.Second)
		require.NoError(t, p.WriteRSTStream(3, http2.ErrCodeCancel))
		p.c.Close()
	})
}

func TestAHandlersWriteDeadlineEndsItsWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := make(chan error, 1)
		dial, _ := dialBubble(t, nil, func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(2 * time.Second))
			_, err := w.Write(make([]byte, 100<<10))
			failed <- err
		})
		p := newPeer(t, dial(), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		p.listen()
		start := time.Now()
		p.ask(1, false, of("GET", "/")...)
		assert.ErrorIs(t, <-failed, os.ErrDeadlineExceeded)
		assert.InDelta(t, 2, time.Since(start).Seconds(), 0.5)
		p.c.Close()
	})
}

// A handler's write deadline also holds while its goroutine writes for all
// streams.
func TestAHandlersWriteDeadlineHoldsWhileTheClientReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := make(chan error, 1)
		dial, _ := dialBubble(t, nil, func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(2 * time.Second))
			_, err := w.Write(make([]byte, 1<<20))
			failed <- err
		})
		p := newPeer(t, dial(), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
		for range 3 { // our SETTINGS and the replies to the client's frames
			_, err := p.ReadFrame()
			require.NoError(t, err)
		}
		require.NoError(t, p.WriteWindowUpdate(0, 1<<30))
		p.ask(1, false, of("GET", "/")...)
		start := time.Now()
		assert.ErrorIs(t, <-failed, os.ErrDeadlineExceeded)
		assert.InDelta(t, 2, time.Since(start).Seconds(), 0.5)
		p.c.Close()
	})
}

func TestAClientThatReadsNothingIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := make(chan error, 1)
		dial, _ := dialBubble(t, nil, func(w http.ResponseWriter, _ *http.Request) {
			_, err := w.Write(make([]byte, 1<<20))
			failed <- err
		})
		p := newPeer(t, dial())
		for range 3 { // SETTINGS, WINDOW_UPDATE and SETTINGS with ACK
			_, err := p.ReadFrame()
			require.NoError(t, err)
		}
		p.ask(1, false, of("GET", "/")...)
		start := time.Now()
		assert.Error(t, <-failed)
		assert.InDelta(t, 90, time.Since(start).Seconds(), 35, "a minute after the last byte that it read")
		_, _ = io.Copy(io.Discard, p.c)
	})
}

func TestADeadClientIsFoundByAPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		dial, _ := dialBubble(t, timeouts, func(_ http.ResponseWriter, q *http.Request) {
			<-q.Context().Done()
			ended <- q.Context().Err()
		})
		p := newPeer(t, dial())
		p.listen()
		start := time.Now()
		p.ask(1, false, of("GET", "/")...)
		for range 3 { // it answers PINGs
			time.Sleep(40 * time.Second)
			require.NoError(t, p.WritePing(true, [8]byte{}))
		}
		assert.Error(t, <-ended)
		assert.InDelta(t, 120+45, time.Since(start).Seconds(), 5)
	})
}

// A PING waits behind bytes that a slow client has not read. The client counts
// as alive as long as it reads something.
func TestASlowReaderIsNotTakenForDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1 << 20
		dial, _ := dialBubble(t, func(s *serve.Server) { s.IdleTimeout = 30 * time.Second }, func(w http.ResponseWriter, _ *http.Request) {
			_, err := w.Write(make([]byte, size))
			assert.NoError(t, err)
		})
		p := newPeer(t, dial(), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = p.WriteWindowUpdate(0, 1<<30)
			p.ask(1, false, of("GET", "/")...)
		}()
		got := 0
		for got < size {
			f, err := p.ReadFrame()
			require.NoError(t, err, "after %d bytes", got)
			switch f := f.(type) {
			case *http2.DataFrame:
				got += len(f.Data())
				time.Sleep(16 * time.Second)
			case *http2.PingFrame:
				if !f.IsAck() {
					require.NoError(t, p.WritePing(true, f.Data))
				}
			}
		}
		<-done
		p.c.Close()
	})
}

func TestADrainDoesNotWaitForAPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, stop := dialBubble(t, nil, nil)
		p := newPeer(t, dial())
		p.listen()
		synctest.Wait()
		start := time.Now()
		assert.NoError(t, stop())
		assert.Less(t, time.Since(start), 3*time.Second)
		_, polite := p.closed()
		assert.True(t, polite)
	})
}

func TestASlowClientGetsTheWholeLastResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, _ := dialBubble(t, nil, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 40<<10)) })
		c := dial()
		p := newPeer(t, c)
		p.ask(1, false, of("GET", "/")...)
		require.NoError(t, p.WriteGoAway(0, http2.ErrCodeNo, nil))
		read, piece := 0, make([]byte, 1<<10)
		for {
			time.Sleep(500 * time.Millisecond)
			n, err := c.Read(piece)
			if read += n; err != nil {
				break
			}
		}
		assert.Greater(t, read, 40<<10, "all of it, in twenty seconds")
	})
}

// records is a connection that notes the lengths of the TLS records read.
type records struct {
	net.Conn
	mu      sync.Mutex
	lengths []int
	left    int // bytes of the current record that are unread
	head    []byte
}

func (r *records) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	for b := p[:n]; len(b) > 0; {
		if r.left > 0 {
			k := min(r.left, len(b))
			r.left -= k
			b = b[k:]
			continue
		}
		r.head = append(r.head, b[0])
		if b = b[1:]; len(r.head) == 5 {
			r.left = int(r.head[3])<<8 | int(r.head[4])
			r.lengths = append(r.lengths, r.left)
			r.head = r.head[:0]
		}
	}
	return n, err
}

// A client can use only whole TLS records, and TCP sends little at first after
// a pause.
func TestTheFirstTLSRecordsAfterAPauseAreSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config, roots := proxytest.TLS(t, "a.test")
		config.NextProtos = []string{"h2"}
		dial, _ := dialBubble(t, func(s *serve.Server) { s.TLS = config }, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "30000")
			_, _ = w.Write(make([]byte, 30000))
		})
		r := &records{Conn: dial()}
		p := newPeer(t, tls.Client(r, &tls.Config{RootCAs: roots, ServerName: "a.test", NextProtos: []string{"h2"}}))
		p.listen()
		require.NoError(t, p.WriteWindowUpdate(0, 1<<20))
		lengths := func(stream uint32) []int {
			synctest.Wait()
			r.mu.Lock()
			before := len(r.lengths)
			r.mu.Unlock()
			p.ask(stream, false, of("GET", "/")...)
			assert.Len(t, p.reply(stream).body, 30000)
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.lengths[before:]
		}
		const more = 22 // bytes that TLS 1.3 adds to a record's content
		lengths(1)
		first := lengths(3)
		assert.Equal(t, 16<<10, max(first[0], first[1])-17, "the connection is in use")
		time.Sleep(2 * time.Second)
		paused := lengths(5)
		assert.LessOrEqual(t, max(paused[0], paused[1]), 4<<10+more)
		assert.Greater(t, paused[2], 8<<10)
	})
}

// A client cannot send while unread bodies fill the connection's window:
// BodyStall does not count that time.
func TestABodyMayStallWhileTheConnectionWindowIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		dial, _ := dialBubble(t, nil, func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/stuck" {
				<-release
				return
			}
			body, err := io.ReadAll(q.Body)
			if err != nil {
				w.WriteHeader(http.StatusRequestTimeout)
			}
			w.Write(body)
		})
		p := newPeer(t, dial())
		p.listen()
		for i := range 16 {
			p.ask(uint32(2*i+1), true, of("POST", "/stuck")...)
			for range 4 {
				require.NoError(t, p.WriteData(uint32(2*i+1), false, make([]byte, 16<<10)))
			}
		}
		p.ask(101, true, of("POST", "/")...)
		time.Sleep(3 * time.Minute)
		close(release)
		p.reply(1)
		synctest.Wait() // the window is given back after the responses
		require.NoError(t, p.WriteData(101, true, []byte("text")))
		r := p.reply(101)
		assert.Equal(t, "200", r.status)
		assert.Equal(t, "text", r.body)
		p.c.Close()
	})
}

// The same holds for an upload to a target, on either lane.
func TestAProxiedUploadMayStallWhileTheConnectionWindowIsFull(t *testing.T) {
	for _, hooked := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			release := make(chan struct{})
			u := hostproxy.To("10.0.0.1:80")
			if hooked {
				u.ModifyResponse = func(*http.Response) error { return nil }
			}
			u.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, s := net.Pipe()
				go func() {
					r := bufio.NewReader(s)
					for {
						q, err := http.ReadRequest(r)
						if err != nil {
							return
						}
						b, err := io.ReadAll(q.Body)
						if err != nil {
							return
						}
						io.WriteString(s, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"+string(b))
					}
				}()
				return c, nil
			}
			r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
			r.Handle("a.test/up", u)
			r.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				<-release
			}))
			ln := newPipes()
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			s := &hostproxy.Server{Router: &r, H2C: true, IdleTimeout: -1}
			go func() { done <- s.Serve(ctx, nil, ln) }()
			p := newPeer(t, ln.dial())
			p.listen()
			for i := range 16 {
				p.ask(uint32(2*i+1), true, of("POST", "/stuck")...)
				for range 4 {
					require.NoError(t, p.WriteData(uint32(2*i+1), false, make([]byte, 16<<10)))
				}
			}
			p.ask(101, true, of("POST", "/up")...)
			time.Sleep(3 * time.Minute)
			close(release)
			p.reply(1)
			synctest.Wait() // the window is given back after the responses
			require.NoError(t, p.WriteData(101, true, []byte("text")))
			rep := p.reply(101)
			assert.Equal(t, "200", rep.status)
			assert.Equal(t, "text", rep.body)
			p.c.Close()
			cancel()
			<-done
		})
	}
}

// A client may still read a response although the only other stream was reset
// and its handler still runs.
func TestAnUnreadResponseSurvivesAResetOfTheOnlyOtherStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leave := make(chan struct{})
		dial, _ := dialBubble(t, nil, func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/stays" {
				<-leave
				return
			}
			_, _ = w.Write(make([]byte, 40<<10))
		})
		p := newPeer(t, dial())
		defer p.c.Close()
		defer close(leave)
		for range 3 { // SETTINGS, WINDOW_UPDATE and SETTINGS with ACK
			_, err := p.ReadFrame()
			require.NoError(t, err)
		}
		require.NoError(t, p.WritePing(false, [8]byte{})) // its reply is being written from now on
		p.ask(1, false, of("GET", "/")...)
		p.ask(3, false, of("GET", "/stays")...)
		synctest.Wait()
		require.NoError(t, p.WriteRSTStream(3, http2.ErrCodeCancel))
		time.Sleep(10 * time.Second)
		p.listen()
		assert.Len(t, p.reply(1).body, 40<<10)
	})
}
