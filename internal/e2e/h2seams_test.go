package e2e_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// An HTTP/2 connection has many exchanges at a time: a fault of one ends no
// other, and each has its own limits and record.

// unwakeable is a connection that panics when a deadline should wake it.
type unwakeable struct{ net.Conn }

func (c unwakeable) SetDeadline(t time.Time) error {
	if !t.IsZero() && t.Before(time.Now()) {
		panic("oh")
	}
	return c.Conn.SetDeadline(t)
}

func TestATargetsConnectionThatPanicsEndsNoOtherStream(t *testing.T) {
	for _, how := range []string{"reset", "close"} {
		t.Run(how, func(t *testing.T) {
			proxytest.NoLeaks(t)
			asked, release := make(chan struct{}, 2), make(chan struct{})
			target := proxytest.NewServer(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
				asked <- struct{}{}
				if q.URL.Path == "/other" {
					<-release
					return
				}
				<-q.Context().Done()
			}))
			dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, addr)
				return unwakeable{c}, err
			}
			k := newFast(t, shape{secure: true, change: func(u *hostproxy.Upstream) { u.Targets[0].Host, u.Dial = target.Addr(), dial }})
			p := newH2(t, k)
			p.listen()
			require.NoError(t, p.ask(1, true, ":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/"))
			require.NoError(t, p.ask(3, true, ":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/other"))
			<-asked
			<-asked
			if how == "close" {
				p.c.Close()
			} else {
				require.NoError(t, p.WriteRSTStream(1, http2.ErrCodeCancel))
			}
			assert.Equal(t, 499, (<-k.records).Status)
			close(release)
			if how == "reset" {
				assert.Equal(t, "200", p.outcome(t, 3))
			}
		})
	}
}

func TestAnObserveThatPanicsEndsNoOtherStream(t *testing.T) {
	release := make(chan struct{})
	target := proxytest.NewServer(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/other" {
			<-release
		}
	}))
	shown := make(chan struct{})
	r := &hostproxy.Router{Logger: silent(), Observe: func(x *hostproxy.Exchange) {
		if x.Path == "/" {
			defer close(shown)
			panic("oh")
		}
	}}
	r.Handle("a.test", hostproxy.To(target.Addr()))
	client := proxytest.HTTPClient(t, proxytest.StartPlain(t, &hostproxy.Server{Router: r, H2C: true}).Plain, nil, "h2c")
	other := make(chan error, 1)
	go func() {
		res, err := client.Get("http://a.test/other")
		if err == nil {
			res.Body.Close()
		}
		other <- err
	}()
	res, err := client.Get("http://a.test/")
	require.NoError(t, err)
	res.Body.Close()
	<-shown
	res, err = client.Get("http://a.test/again")
	require.NoError(t, err)
	res.Body.Close()
	close(release)
	assert.NoError(t, <-other)
}

// A handler of the program, and the record, notice a reset of the stream like a
// disconnect.
func TestTheRecordOfAHandlerSaysThatTheClientHasLeftItsStream(t *testing.T) {
	in := make(chan struct{}, 1)
	k := newFast(t, shape{secure: true, routes: func(r *hostproxy.Router, _ *hostproxy.Upstream) {
		r.Handle("*", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			in <- struct{}{}
			for q.URL.Path != "/waits" {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil && q.URL.Path == "/aborts" {
					panic(http.ErrAbortHandler)
				} else if err != nil {
					return
				}
			}
			<-q.Context().Done()
		}))
	}})
	for _, path := range []string{"/waits", "/aborts", "/returns"} {
		for _, how := range []string{"reset", "close"} {
			t.Run(path[1:]+" at a "+how, func(t *testing.T) {
				p := newH2(t, k)
				require.NoError(t, p.ask(1, true, ":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", path))
				<-in
				if how == "close" {
					p.c.Close()
				} else {
					require.NoError(t, p.WriteRSTStream(1, http2.ErrCodeCancel))
				}
				x := <-k.records
				assert.Equal(t, 499, x.Status)
				var fail *hostproxy.Error
				require.ErrorAs(t, x.Err, &fail)
				assert.Equal(t, hostproxy.SideClient, fail.Side)
			})
		}
	}
}

func TestTheRecordOfATunnelOverHTTP2CountsBothWays(t *testing.T) {
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		q, err := c.ReadRequest()
		if err != nil {
			return
		}
		_ = c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + proxytest.Accept(q.Header) + "\r\n\r\n")
		said, _ := c.ReadString(5)
		_ = c.Send(said + said)
	})
	k := newFast(t, shape{secure: true, change: func(u *hostproxy.Upstream) { u.Targets[0].Host = backend.Addr() }})
	p := newH2(t, k)
	p.listen()
	require.NoError(t, p.connectTo("websocket"))
	require.Equal(t, "200", p.outcome(t, 1))
	require.NoError(t, p.WriteData(1, true, []byte("hello")))
	x := <-k.records
	assert.EqualValues(t, 5, x.RequestBytes)
	assert.EqualValues(t, 10, x.ResponseBytes)
}

// Upstream.IdleTimeout limits how long a client may take no bytes, whether its
// window is closed or its socket unread, and whatever it sends meanwhile.
func TestAClientThatReadsNothingIsCutOffByTheIdleTimeout(t *testing.T) {
	t.Parallel()
	target := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.CopyN(w, zeros{}, 64<<20)
	}))
	for _, tt := range []struct {
		name   string
		window uint32
		lane   func(*hostproxy.Upstream)
	}{
		{"its window", 1000, nil},
		{"its socket", 1<<31 - 1, nil},
		{"its window, by a hook", 1000, hooked},
		{"its socket, by a hook", 1<<31 - 1, hooked},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k := newFast(t, shape{secure: true, change: func(u *hostproxy.Upstream) {
				u.Targets[0].Host, u.IdleTimeout = target.Addr(), 500*time.Millisecond
				if tt.lane != nil {
					tt.lane(u)
				}
			}})
			p := newH2(t, k, http2.Setting{ID: http2.SettingInitialWindowSize, Val: tt.window})
			require.NoError(t, p.WriteWindowUpdate(0, 1<<31-1-65535))
			require.NoError(t, p.ask(1, true, ":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/"))
			busy := time.NewTicker(100 * time.Millisecond) // slow enough to be no flood
			defer busy.Stop()
			for range 100 {
				select {
				case x := <-k.records:
					assert.Equal(t, 499, x.Status)
					var fail *hostproxy.Error
					require.ErrorAs(t, x.Err, &fail)
					assert.Equal(t, hostproxy.SideClient, fail.Side)
					return
				case <-busy.C:
					_ = p.WritePing(false, [8]byte{})
				}
			}
			t.Fatal("it is waited for")
		})
	}
}

// hooked takes an Upstream off the fast lane.
func hooked(u *hostproxy.Upstream) { u.ModifyResponse = func(*http.Response) error { return nil } }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// The record of a stream whose connection was closed has the client's fault.
func TestTheRecordSaysWhyAConnectionOfHTTP2WasClosed(t *testing.T) {
	for lane, start := range map[string]func(testing.TB, shape) *track{"fast": newFast, "adapter": newAdapter} {
		for about, tt := range map[string]struct {
			does func(p *h2) error
			why  string
		}{
			"abuse":       {func(p *h2) error { return p.WritePing(false, [8]byte{}) }, "HTTP/2: too many frames or resets"},
			"a violation": {func(p *h2) error { return p.WriteData(99, false, []byte("x")) }, "HTTP/2: frame for a stream that was not opened"},
		} {
			t.Run(lane+", "+about, func(t *testing.T) {
				asked := make(chan struct{}, 1)
				target := proxytest.NewServer(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
					asked <- struct{}{}
					<-q.Context().Done()
				}))
				k := start(t, shape{secure: true, change: func(u *hostproxy.Upstream) { u.Targets[0].Host = target.Addr() }})
				p := newH2(t, k)
				p.listen()
				require.NoError(t, p.ask(1, true, ":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/"))
				<-asked
				for range 5000 {
					if tt.does(p) != nil {
						break
					}
				}
				x := <-k.records
				assert.Equal(t, 499, x.Status)
				var fail *hostproxy.Error
				require.ErrorAs(t, x.Err, &fail)
				assert.Equal(t, hostproxy.SideClient, fail.Side)
				assert.ErrorContains(t, fail, tt.why)
			})
		}
	}
}
