package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
)

// A pipes is an in-memory listener.
type pipes struct {
	conns chan net.Conn
	done  context.Context
	close context.CancelFunc
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done.Done():
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.close(); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// A bubble is an in-memory Router, for tests that take hours of a bubble's
// time. Its targets are pipes: an upgrade of /ws waits for a Close frame,
// /events sends one event a second, /chunks the same as plain text, and /held
// is answered after five minutes.
type bubble struct {
	t        *testing.T
	router   hostproxy.Router
	upstream *hostproxy.Upstream // of a.test
	ln       *pipes
	cancel   context.CancelFunc // starts the drain
	done     chan struct{}
	err      error // error of Serve, once done is closed
	start    time.Time
}

// graceLanes are the lanes of a bubble. Read-only.
var graceLanes = []string{"fast lane", "handler lane", "foreign server"}

func overEachBubble(t *testing.T, upstream *hostproxy.Upstream, check func(b *bubble, lane string)) {
	t.Helper()
	for _, lane := range graceLanes {
		t.Run(lane, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				ln := &pipes{conns: make(chan net.Conn)}
				ln.done, ln.close = context.WithCancel(t.Context())
				b := &bubble{t: t, upstream: to(upstream, "a"), ln: ln, cancel: cancel, done: make(chan struct{}), start: time.Now()}
				b.router.Logger = slog.New(slog.DiscardHandler)
				b.router.Handle("a.test", b.upstream)
				b.serve(ctx, lane)
				defer b.end()
				check(b, lane)
			})
		})
	}
}

// to returns an Upstream of an in-memory target, with the durations and the
// Discover of u.
func to(u *hostproxy.Upstream, target string) *hostproxy.Upstream {
	return &hostproxy.Upstream{Targets: hostproxy.To(target + ":80").Targets, Dial: dialTarget, IdleTimeout: -1, ResponseHeaderTimeout: -1,
		DrainTimeout: u.DrainTimeout,
		StreamGrace:  u.StreamGrace, StreamTimeout: u.StreamTimeout, Discover: u.Discover}
}

func (b *bubble) serve(ctx context.Context, lane string) {
	if lane == "foreign server" {
		hs := &http.Server{Handler: &b.router, ErrorLog: slog.NewLogLogger(b.router.Logger.Handler(), slog.LevelError)}
		go func() {
			defer close(b.done)
			_ = hs.Serve(b.ln)
		}()
		context.AfterFunc(ctx, func() { _ = hs.Shutdown(context.Background()) })
		return
	}
	s := &hostproxy.Server{Router: &b.router}
	if lane == "handler lane" {
		s.Handler = http.HandlerFunc(b.router.ServeHTTP)
	}
	go func() {
		defer close(b.done)
		b.err = s.Serve(ctx, nil, b.ln)
	}()
}

// end ends everything. The test fails if a goroutine is left in the bubble.
func (b *bubble) end() {
	b.cancel()
	_ = b.router.Replace(nil)
	<-b.done
	b.router.Close()
	pass(5 * time.Minute) // so that targets notice
}

// at waits until d after the start of the bubble.
func (b *bubble) at(d time.Duration) { pass(d - time.Since(b.start)) }

// pass waits for d in a bubble's time.
func pass(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	<-ctx.Done()
}

// An ending says how a response or an upgraded connection ended.
type ending struct {
	at     time.Duration // since the start of the bubble
	got    string
	polite bool // it ended with a Close frame of code 1001
}

// open requests path of host. The channel gets the ending.
func (b *bubble) open(host, path string) <-chan ending {
	c, server := net.Pipe()
	b.ln.conns <- server
	over := make(chan ending, 1)
	fields := "Connection: close\r\n"
	if path == "/ws" {
		fields = "Connection: Upgrade\r\nUpgrade: websocket\r\n" + token
	}
	go func() {
		defer c.Close()
		_, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: "+host+"\r\n"+fields+"\r\n")
		assert.NoError(b.t, err)
		var got bytes.Buffer
		buf := make([]byte, 4096)
		for err == nil && !bytes.HasSuffix(got.Bytes(), goingAway) {
			var n int
			n, err = c.Read(buf)
			got.Write(buf[:n])
		}
		over <- ending{time.Since(b.start), got.String(), bytes.HasSuffix(got.Bytes(), goingAway)}
	}()
	return over
}

// goingAway is a server's Close frame with code 1001. Read-only.
var goingAway = []byte("\x88\x02\x03\xe9")

// dialTarget returns a connection to a target of a bubble.
func dialTarget(context.Context, string, string) (net.Conn, error) {
	c, target := net.Pipe()
	go func() {
		defer target.Close()
		r := bufio.NewReader(target)
		for {
			q, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			switch q.URL.Path {
			case "/ws":
				if _, err := io.WriteString(target, switched); err == nil {
					_, _ = r.ReadByte() // the first byte of the Close frame is enough
				}
				return
			case "/events", "/chunks":
				tell(target, map[string]string{"/events": "Text/Event-Stream; charset=utf-8", "/chunks": "text/plain"}[q.URL.Path])
				return
			}
			pass(5 * time.Minute)
			if _, err := io.WriteString(target, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nheld"); err != nil {
				return
			}
		}
	}()
	return c, nil
}

// tell sends one chunk per second until that fails.
func tell(c net.Conn, kind string) {
	_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: "+kind+"\r\nTransfer-Encoding: chunked\r\n\r\n")
	for err == nil {
		pass(time.Second)
		_, err = io.WriteString(c, "9\r\ndata: x\n\n\r\n")
	}
}

// ends asserts that the stream ends within two seconds after want: the next run
// of the sweeper, and the next chunk, may take a second each.
func (b *bubble) ends(what string, s <-chan ending, want time.Duration) {
	b.t.Helper()
	b.at(want + 2*time.Second)
	select {
	case e := <-s:
		assert.LessOrEqual(b.t, want, e.at, "%s: ended too early", what)
		assert.Equal(b.t, what == "WebSocket", e.polite, "%s: got %q", what, e.got)
	default:
		assert.Fail(b.t, "it has not ended", "%s, at %v", what, time.Since(b.start))
	}
}

// The streams are opened at the start. After one minute their route or their
// target is removed. The grace is one minute.
func TestStreamsOutliveTheirRouteAndTheirTargetForTheGrace(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, b *bubble){
		"route removed":              func(t *testing.T, b *bubble) { require.True(t, b.router.Remove("a.test")) },
		"route swapped":              func(t *testing.T, b *bubble) { require.NoError(t, b.router.Set("a.test", to(b.upstream, "b"))) },
		"routes replaced without it": func(t *testing.T, b *bubble) { require.NoError(t, b.router.Replace(nil)) },
		"route behind middleware": func(t *testing.T, b *bubble) {
			require.NoError(t, b.router.Set("a.test", http.NotFoundHandler()))
		},
		"target replaced": func(t *testing.T, b *bubble) {
			require.NoError(t, b.upstream.Replace(t.Context(), "b:80"))
			assert.Less(t, time.Since(b.start), time.Minute+time.Second, "Replace does not wait for streams")
		},
		"target removed": func(t *testing.T, b *bubble) {
			require.NoError(t, b.upstream.Add("b:80"))
			require.NoError(t, b.upstream.Remove("a:80"))
		},
		"several replacements in a row": func(t *testing.T, b *bubble) {
			for _, target := range []string{"b:80", "c:80", "d:80"} {
				require.NoError(t, b.upstream.Replace(t.Context(), target))
				b.at(time.Since(b.start) + 10*time.Second)
			}
		},
		"target that returns": func(t *testing.T, b *bubble) {
			require.NoError(t, b.upstream.Replace(t.Context(), "b:80"))
			b.at(90 * time.Second)
			require.NoError(t, b.upstream.Replace(t.Context(), "a:80"))
		},
		"route that returns": func(t *testing.T, b *bubble) {
			require.True(t, b.router.Remove("a.test"))
			b.at(90 * time.Second)
			require.NoError(t, b.router.Set("a.test", b.upstream))
		},
		"target, and then the route": func(t *testing.T, b *bubble) {
			require.NoError(t, b.upstream.Replace(t.Context(), "b:80"))
			b.at(90 * time.Second)
			require.True(t, b.router.Remove("a.test"))
		},
		"route, and then the Router's rest": func(t *testing.T, b *bubble) {
			require.True(t, b.router.Remove("a.test"))
			b.at(90 * time.Second)
			require.NoError(t, b.router.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			overEachBubble(t, &hostproxy.Upstream{StreamGrace: time.Minute}, func(b *bubble, _ string) {
				ws, events := b.open("a.test", "/ws"), b.open("a.test", "/events")
				b.at(time.Minute)
				leave(b.t, b)
				b.ends("WebSocket", ws, 2*time.Minute)
				b.ends("event stream", events, 2*time.Minute)
			})
		})
	}
}

func TestWithoutAGraceUpgradedConnectionsEndAtOnce(t *testing.T) {
	overEachBubble(t, &hostproxy.Upstream{}, func(b *bubble, _ string) {
		ws, events := b.open("a.test", "/ws"), b.open("a.test", "/events")
		b.at(time.Minute)
		require.NoError(b.t, b.upstream.Replace(b.t.Context(), "b:80"))
		b.ends("WebSocket", ws, time.Minute)
		b.ends("event stream", events, 70*time.Second)
	})
}

// A response with a Content-Length is completed. One without gets ten seconds,
// event stream or not.
func TestOnlyResponsesWithoutALengthEndSoonAfterTheirRoute(t *testing.T) {
	for name, leave := range map[string]func(b *bubble) error{
		"route removed":   func(b *bubble) error { b.router.Remove("a.test"); return nil },
		"target replaced": func(b *bubble) error { return b.upstream.Replace(b.t.Context(), "b:80") },
		"upstream drains": func(b *bubble) error { return b.upstream.Drain(b.t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			overEachBubble(t, &hostproxy.Upstream{}, func(b *bubble, _ string) {
				events, chunks, held := b.open("a.test", "/events"), b.open("a.test", "/chunks"), b.open("a.test", "/held")
				b.at(time.Minute)
				left := make(chan error, 1)
				go func() { left <- leave(b) }()
				b.ends("event stream", events, 70*time.Second)
				b.ends("response", chunks, 70*time.Second)
				assert.Equal(b.t, "held", bodyOf(<-held))
				assert.NoError(b.t, <-left)
			})
		})
	}
}

func TestServeReturnsNilAfterResponsesWithoutALengthWereCutOff(t *testing.T) {
	for _, path := range []string{"/events", "/chunks"} {
		overEachBubble(t, &hostproxy.Upstream{}, func(b *bubble, lane string) {
			if lane == "foreign server" {
				return // http.Server does not report its shutdown
			}
			s := b.open("a.test", path)
			b.at(time.Minute)
			b.cancel()
			b.ends("response", s, 70*time.Second)
			<-b.done
			assert.NoError(b.t, b.err)
		})
	}
}

// The end of the Upstream or of the Server ends streams during their grace,
// even if it has no limit.
func TestDrainEndsStreamsInTheirGrace(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	for _, grace := range []time.Duration{time.Hour, -1} {
		for name, drain := range map[string]func(b *bubble){
			"the Upstream's": func(b *bubble) { assert.NoError(b.t, b.upstream.Drain(b.t.Context())) },
			"the Server's":   func(b *bubble) { b.cancel() },
		} {
			t.Run(name+" "+grace.String(), func(t *testing.T) {
				overEachBubble(t, &hostproxy.Upstream{StreamGrace: grace}, func(b *bubble, lane string) {
					if lane == "foreign server" && name == "the Server's" {
						b.upstream.Drain(b.t.Context()) // http.Server does not report its shutdown
						return
					}
					ws, events := b.open("a.test", "/ws"), b.open("a.test", "/events")
					b.at(time.Minute)
					require.NoError(b.t, b.upstream.Replace(b.t.Context(), "b:80"))
					require.True(b.t, b.router.Remove("a.test"))
					b.at(30 * time.Minute)
					drain(b)
					b.ends("WebSocket", ws, 30*time.Minute)
					b.ends("event stream", events, 30*time.Minute+10*time.Second)
				})
			})
		}
	}
}

// Replace waits for requests, and cuts off only those that take too long.
func TestReplaceWaitsForRequestsBesideStreams(t *testing.T) {
	overEachBubble(t, &hostproxy.Upstream{StreamGrace: 10 * time.Minute, DrainTimeout: 6 * time.Minute}, func(b *bubble, _ string) {
		ws, events, held := b.open("a.test", "/ws"), b.open("a.test", "/events"), b.open("a.test", "/held")
		b.at(time.Minute)
		require.NoError(b.t, b.upstream.Replace(b.t.Context(), "b:80"))
		assert.Equal(b.t, "held", bodyOf(<-held), "it was waited for")
		assert.True(b.t, time.Since(b.start) >= 5*time.Minute, "it was waited for")
		b.ends("WebSocket", ws, 11*time.Minute)
		b.ends("event stream", events, 11*time.Minute)
	})
	overEachBubble(t, &hostproxy.Upstream{StreamGrace: 10 * time.Minute, DrainTimeout: time.Minute}, func(b *bubble, _ string) {
		ws, events, held := b.open("a.test", "/ws"), b.open("a.test", "/events"), b.open("a.test", "/held")
		b.at(time.Minute)
		err := b.upstream.Replace(b.t.Context(), "b:80")
		assert.ErrorIs(b.t, err, hostproxy.ErrNotDrained)
		assert.ErrorContains(b.t, err, "cut off 1 request: ")
		assert.Contains(b.t, (<-held).got, " 503 ")
		b.ends("WebSocket", ws, 11*time.Minute)
		b.ends("event stream", events, 11*time.Minute)
	})
}

func bodyOf(e ending) string {
	_, body, _ := strings.Cut(e.got, "\r\n\r\n")
	return body
}

// A response of unknown length that is not an event stream counts as a request:
// Replace waits for it, and it gets ten seconds.
func TestTheGraceIsForStreamsOnly(t *testing.T) {
	overEachBubble(t, &hostproxy.Upstream{StreamGrace: time.Hour}, func(b *bubble, _ string) {
		chunks := b.open("a.test", "/chunks")
		b.at(time.Minute)
		require.NoError(b.t, b.upstream.Replace(b.t.Context(), "b:80"))
		b.ends("response", chunks, 70*time.Second)
	})
}

func TestARemovalOfARouteEndsOnlyItsOwnStreams(t *testing.T) {
	overEachBubble(t, &hostproxy.Upstream{StreamGrace: time.Minute}, func(b *bubble, _ string) {
		require.NoError(b.t, b.router.Set("b.test", b.upstream))
		going, staying := b.open("a.test", "/ws"), b.open("b.test", "/ws")
		b.at(time.Minute)
		require.True(b.t, b.router.Remove("a.test"))
		b.ends("WebSocket", going, 2*time.Minute)
		b.at(time.Hour)
		require.True(b.t, b.router.Remove("b.test"))
		b.ends("WebSocket", staying, time.Hour+time.Minute)
	})
}

// For streams at the canary the canary's StreamGrace counts. Drain of the
// diverting upstream ends them too.
func TestACanaryHasItsOwnStreamGrace(t *testing.T) {
	overEachBubble(t, &hostproxy.Upstream{StreamGrace: time.Hour}, func(b *bubble, _ string) {
		require.NoError(b.t, b.upstream.Canary(to(&hostproxy.Upstream{StreamGrace: time.Minute}, "canary"), 1))
		ws := b.open("a.test", "/ws")
		b.at(time.Minute)
		// none of these targets has the stream
		require.NoError(b.t, b.upstream.Replace(b.t.Context(), "b:80"))
		b.at(2 * time.Minute)
		require.True(b.t, b.router.Remove("a.test"))
		b.ends("WebSocket", ws, 3*time.Minute)
	})
	overEachBubble(t, &hostproxy.Upstream{}, func(b *bubble, _ string) {
		require.NoError(b.t, b.upstream.Canary(to(&hostproxy.Upstream{StreamGrace: -1}, "canary"), 1))
		ws, events := b.open("a.test", "/ws"), b.open("a.test", "/events")
		b.at(time.Minute)
		require.True(b.t, b.router.Remove("a.test"))
		b.at(2 * time.Minute)
		require.NoError(b.t, b.upstream.Drain(b.t.Context()))
		b.ends("WebSocket", ws, 2*time.Minute)
		b.ends("event stream", events, 2*time.Minute+10*time.Second)
	})
}

func TestStreamsOutliveTargetsThatDiscoveryNoLongerFinds(t *testing.T) {
	for _, grace := range []time.Duration{0, time.Minute} {
		find := func(ctx context.Context, publish func([]hostproxy.Endpoint)) error {
			publish([]hostproxy.Endpoint{{Target: "b:80"}})
			pass(time.Minute)
			publish([]hostproxy.Endpoint{{Target: "c:80"}})
			<-ctx.Done()
			return nil
		}
		overEachBubble(t, &hostproxy.Upstream{StreamGrace: grace, Discover: find}, func(b *bubble, _ string) {
			require.NoError(b.t, b.upstream.Ready(b.t.Context()))
			pass(time.Second)
			b.ends("WebSocket", b.open("a.test", "/ws"), time.Minute+grace)
		})
	}
}

func TestAnUpgradedConnectionLivesAsLongAsStreamTimeout(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	for _, grace := range []time.Duration{0, -1, time.Hour} {
		overEachBubble(t, &hostproxy.Upstream{StreamTimeout: time.Minute, StreamGrace: grace}, func(b *bubble, _ string) {
			first := b.open("a.test", "/ws")
			events := b.open("a.test", "/events")
			b.at(30 * time.Second)
			second := b.open("a.test", "/ws")
			b.ends("WebSocket", first, time.Minute)
			b.ends("WebSocket", second, 90*time.Second)
			b.at(time.Hour)
			require.NoError(b.t, b.upstream.Drain(b.t.Context()))
			b.ends("event stream", events, time.Hour+10*time.Second)
		})
	}
}
