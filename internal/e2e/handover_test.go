//go:build unix && !portable

package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A generation is a Server that can hand over, on a site of one lane, with a
// target that answers "old".
type generation struct {
	*hostproxy.Server
	addr   string
	client *tls.Config // nil means plain
	pair   string      // directory of the certificate
	stop   context.CancelFunc
	done   chan error
}

// oldTarget answers "old", and /slow only after release. /ws echoes, and
// /events is a stream.
func oldTarget(release <-chan struct{}) func(*proxytest.BackendConn) {
	return func(c *proxytest.BackendConn) {
		for {
			q, err := c.ReadRequest()
			if err != nil {
				return
			}
			switch q.URL.Path {
			case "/ws":
				_ = c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + proxytest.Accept(q.Header) + "\r\n\r\n")
				for { // frames of six bytes; a Close is not echoed, as it is a client's frame
					if s, err := c.ReadString(6); err != nil || s[0] == '\x88' || c.Send(s) != nil {
						_, _ = c.ReadAll()
						return
					}
				}
			case "/events":
				_ = c.Send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nbefore")
				c.Wait(release)
				_ = c.Send("behind")
				return
			case "/slow":
				c.Wait(release)
			}
			_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold")
		}
	}
}

// overGenerations runs check on a generation for each of our lanes.
func overGenerations(t *testing.T, drain time.Duration, check func(*testing.T, *generation, chan struct{})) {
	t.Helper()
	proxytest.NoLeaks(t)
	for _, l := range lanes {
		if l.foreign {
			continue
		}
		t.Run(l.name, func(t *testing.T) {
			release := make(chan struct{})
			r := &hostproxy.Router{Logger: panicsFail(t)}
			r.TLS.Storage = newStorage(t)
			r.Handle("a.test", hostproxy.To(proxytest.NewBackend(t, oldTarget(release)).Addr()))
			g := &generation{Server: &hostproxy.Server{Router: r, DrainTimeout: drain}, done: make(chan error, 1)}
			if l.handler {
				g.Handler = http.HandlerFunc(r.ServeHTTP)
			}
			var https net.Listener
			plain := proxytest.Listen(t)
			g.addr = plain.Addr().String()
			if l.secure {
				https = proxytest.Listen(t)
				g.addr = https.Addr().String()
				config, roots := proxytest.TLS(t, "a.test")
				g.client = &tls.Config{RootCAs: roots, ServerName: "a.test", NextProtos: []string{"http/1.1"}}
				g.pair = writePair(t, config.Certificates[0])
				r.TLS.Config = config
			}
			ctx, stop := context.WithCancel(t.Context())
			g.stop = stop
			go func() { g.done <- g.Serve(ctx, https, plain) }()
			t.Cleanup(stop)
			check(t, g, release)
		})
	}
}

func writePair(t *testing.T, pair tls.Certificate) (dir string) {
	t.Helper()
	dir = t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	require.NoError(t, err)
	for name, b := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, "key.pem": {Type: "PRIVATE KEY", Bytes: key},
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(b), 0o600))
	}
	return dir
}

// heir returns a command for a process that takes over and answers "new".
func (g *generation) heir(t *testing.T) *exec.Cmd {
	t.Helper()
	target := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		for {
			if _, err := c.ReadRequest(); err != nil || c.Send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnew") != nil {
				return
			}
		}
	})
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), heirEnv+"="+target.Addr(), "HOSTPROXY_TEST_STORAGE="+t.TempDir())
	if g.pair != "" {
		cmd.Env = append(cmd.Env, "HOSTPROXY_TEST_PAIR="+g.pair)
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	t.Cleanup(func() {
		in.Close()
		if cmd.Process != nil {
			_ = cmd.Wait()
		}
	})
	return cmd
}

func (g *generation) dial(t *testing.T) *proxytest.Client {
	t.Helper()
	if g.client == nil {
		return proxytest.Dial(t, g.addr)
	}
	return proxytest.DialTLS(t, g.addr, g.client)
}

// webSocket opens a WebSocket that echoes.
func (g *generation) webSocket(t *testing.T) *proxytest.Client {
	t.Helper()
	c := g.dial(t)
	c.Send(strings.Replace(upgrade, "GET / ", "GET /ws ", 1))
	require.Contains(t, c.Head(), "HTTP/1.1 101 ")
	echo(c)
	return c
}

// echo sends a frame and reads it back.
func echo(c *proxytest.Client) {
	c.Send("\x81\x80\x00\x00\x00\x00")
	c.Expect("\x81\x80\x00\x00\x00\x00")
}

func TestConnectionsOutliveAHandOver(t *testing.T) {
	overGenerations(t, -1, func(t *testing.T, g *generation, release chan struct{}) {
		ws, idle, fresh, slow, events := g.webSocket(t), g.dial(t), g.dial(t), g.dial(t), g.dial(t)
		assert.Equal(t, "old", string(idle.Do(get).Content))
		slow.Send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n")
		events.Send("GET /events HTTP/1.1\r\nHost: a.test\r\n\r\n")
		assert.Contains(t, events.Head(), "text/event-stream")

		require.NoError(t, g.HandOver(t.Context(), g.heir(t)))
		assert.Equal(t, "new", string(g.dial(t).Do(get).Content))
		for _, c := range []*proxytest.Client{idle, fresh} {
			p := c.Do(get)
			assert.Equal(t, "old", string(p.Content), "one more request is served")
			assert.True(t, p.Close, "and no other")
			assert.Empty(t, c.Rest())
		}
		echo(ws)
		close(release)
		assert.Equal(t, "old", string(slow.Response("GET").Content))
		events.Expect("6\r\nbefore\r\n6\r\nbehind\r\n0\r\n\r\n") // streams go on
		events.Close()
		echo(ws)
		assert.Empty(t, g.done)
		assert.ErrorContains(t, g.HandOver(t.Context(), g.heir(t)), "hostproxy: HandOver: the Server has handed over already")
		ws.Close()
		assert.NoError(t, <-g.done, "the old one ends with its last connection")
		assert.Equal(t, "new", string(g.dial(t).Do(get).Content))
	})
}

func TestWebSocketsOfAHandOverEndAtDrainTimeout(t *testing.T) {
	t.Parallel()
	overGenerations(t, 50*time.Millisecond, func(t *testing.T, g *generation, _ chan struct{}) {
		ws := g.webSocket(t)
		require.NoError(t, g.HandOver(t.Context(), g.heir(t)))
		ws.Expect("\x88\x02\x03\xe9") // Close, 1001
		ws.Close()
		assert.NoError(t, <-g.done)
	})
}

func TestAShutdownAfterAHandOverEndsItsWebSockets(t *testing.T) {
	overGenerations(t, -1, func(t *testing.T, g *generation, _ chan struct{}) {
		ws := g.webSocket(t)
		require.NoError(t, g.HandOver(t.Context(), g.heir(t)))
		echo(ws)
		g.stop()
		ws.Expect("\x88\x02\x03\xe9")
		ws.Close()
		assert.NoError(t, <-g.done)
		assert.Equal(t, "new", string(g.dial(t).Do(get).Content))
	})
}

func TestAServerGoesOnAfterAFailedHandOver(t *testing.T) {
	t.Parallel() // it waits
	overGenerations(t, -1, func(t *testing.T, g *generation, _ chan struct{}) {
		ws, idle := g.webSocket(t), g.dial(t)
		cmd := g.heir(t)
		cmd.Env = append(cmd.Env, heirEnv+"=nothing")
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		assert.ErrorContains(t, g.HandOver(ctx, cmd), "hostproxy: HandOver: the new process was not ready in time, and was killed")
		missing := g.heir(t)
		missing.Path = filepath.Join(t.TempDir(), "missing")
		assert.ErrorIs(t, g.HandOver(t.Context(), missing), os.ErrNotExist)
		for range 2 {
			p := idle.Do(get)
			assert.Equal(t, "old", string(p.Content))
			assert.False(t, p.Close)
		}
		assert.Equal(t, "old", string(g.dial(t).Do(get).Content))
		echo(ws)
		g.stop()
		ws.Close()
		assert.NoError(t, <-g.done)
		assert.ErrorContains(t, g.HandOver(t.Context(), g.heir(t)), "hostproxy: HandOver: there is nothing to hand over")
	})
}

// A companionUntil ends when its context is done.
type companionUntil struct{ drains chan struct{} }

func (c companionUntil) Serve(ctx context.Context, _ http.Handler) error {
	<-ctx.Done()
	close(c.drains)
	return nil
}

// Companions drain as soon as the other process serves. Server.Listeners are
// handed over too.
func TestListenersAreHandedOverAndCompanionsDrain(t *testing.T) {
	proxytest.NoLeaks(t)
	r := &hostproxy.Router{Logger: panicsFail(t)}
	r.TLS.Storage = newStorage(t)
	r.Handle("a.test", hostproxy.To(proxytest.NewBackend(t, oldTarget(nil)).Addr()))
	ln, path := proxytest.Listen(t), filepath.Join(t.TempDir(), "socket")
	companion := companionUntil{make(chan struct{})}
	g := &generation{addr: ln.Addr().String(), done: make(chan error, 1), Server: &hostproxy.Server{Router: r, DrainTimeout: -1,
		Companions: []hostproxy.Companion{companion},
		Listeners:  []hostproxy.Listener{{Listener: ln, Role: hostproxy.RolePlain}}}}
	internal := &hostproxy.Server{Router: r, Listeners: []hostproxy.Listener{
		{Addr: "unix:" + path, Role: hostproxy.RoleInternal, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}}}
	ctx, stop := context.WithCancel(t.Context())
	go func() { g.done <- g.Serve(ctx, nil, nil) }()
	other := make(chan error, 1)
	go func() { other <- internal.Serve(ctx, nil, nil) }()
	ws := g.webSocket(t)
	cmd := g.heir(t)
	cmd.Env = append(cmd.Env, "HOSTPROXY_TEST_SOCKET=listener0")
	require.NoError(t, g.HandOver(t.Context(), cmd))
	<-companion.drains
	assert.Equal(t, "new", string(g.dial(t).Do(get).Content))
	echo(ws)
	ws.Close()
	assert.NoError(t, <-g.done)
	assert.FileExists(t, path, "another Server of the Router goes on")
	stop()
	assert.NoError(t, <-other)
	assert.NoFileExists(t, path)
}

// The last process that serves a unix socket that the Server has opened removes
// it.
func TestAUnixSocketOutlivesAHandOver(t *testing.T) {
	proxytest.NoLeaks(t)
	r := &hostproxy.Router{Logger: panicsFail(t)}
	r.Handle("a.test", hostproxy.To(proxytest.NewBackend(t, oldTarget(nil)).Addr()))
	path := filepath.Join(t.TempDir(), "s")
	g := &generation{Server: &hostproxy.Server{Router: r, Listeners: []hostproxy.Listener{{Addr: "unix:" + path, Role: hostproxy.RolePlain}}}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, nil, nil) }()
	ask := func() string {
		c := new(http.Transport)
		defer c.CloseIdleConnections()
		c.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		p, err := (&http.Client{Transport: c}).Get("http://a.test/")
		if err != nil {
			return err.Error()
		}
		defer p.Body.Close()
		text, err := io.ReadAll(p.Body)
		assert.NoError(t, err)
		return string(text)
	}
	proxytest.Eventually(t, "the socket", func() bool { return ask() == "old" })
	cmd := g.heir(t)
	cmd.Env = append(cmd.Env, "HOSTPROXY_TEST_SOCKET=listener0")
	stdin, in, err := os.Pipe()
	require.NoError(t, err)
	cmd.Stdin = stdin
	require.NoError(t, g.HandOver(t.Context(), cmd))
	assert.NoError(t, <-done)
	assert.Equal(t, "new", ask())
	stdin.Close()
	in.Close()
	require.NoError(t, cmd.Wait())
	assert.NoFileExists(t, path)
}

// After a hand-over, the old process does not stop targets that it has waked,
// even if it is idle.
func TestAProcessThatHasHandedOverStopsNoTargets(t *testing.T) {
	for _, hand := range []bool{false, true} {
		proxytest.NoLeaks(t)
		r := &hostproxy.Router{Logger: panicsFail(t)}
		ws := proxytest.NewBackend(t, oldTarget(nil)).Addr()
		r.Handle("a.test", hostproxy.To(ws))
		u := hostproxy.To(ws)
		stopped := make(chan struct{}, 1)
		u.Wake = &hostproxy.Wake{Start: func(context.Context) error { return nil }, IdleAfter: 100 * time.Millisecond,
			Stop: func(context.Context) error { stopped <- struct{}{}; return nil }}
		r.Handle("b.test", u)
		g := &generation{Server: &hostproxy.Server{Router: r, DrainTimeout: -1}, done: make(chan error, 1)}
		plain := proxytest.Listen(t)
		g.addr = plain.Addr().String()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { g.done <- g.Serve(ctx, nil, plain) }()
		c := g.webSocket(t)
		assert.Equal(t, "old", string(g.dial(t).Do("GET / HTTP/1.1\r\nHost: b.test\r\nConnection: close\r\n\r\n").Content))
		if hand {
			require.NoError(t, g.HandOver(t.Context(), g.heir(t)))
		}
		for start := time.Now(); time.Since(start) < 200*time.Millisecond || !hand && len(stopped) == 0; {
			echo(c)
		}
		assert.Equal(t, !hand, len(stopped) == 1, "handed over: %v", hand)
		c.Close()
		stop()
		assert.NoError(t, <-g.done)
	}
}

// This applies also to a connection that has just served a request, and would
// wait on another goroutine.
func TestAnIdleConnectionEndsSoonAfterAHandOver(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	r := &hostproxy.Router{Logger: panicsFail(t)}
	r.Handle("a.test", hostproxy.To(proxytest.NewBackend(t, oldTarget(nil)).Addr()))
	g := &generation{Server: &hostproxy.Server{Router: r}, done: make(chan error, 1)}
	plain := proxytest.Listen(t)
	g.addr = plain.Addr().String()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { g.done <- g.Serve(ctx, nil, plain) }()
	last := g.dial(t)
	assert.Equal(t, "old", string(last.Do(get).Content))
	handed := make(chan error, 1)
	cmd := g.heir(t)
	go func() { handed <- g.HandOver(ctx, cmd) }()
	for len(handed) == 0 {
		c := g.dial(t)
		if p := c.Do(get); string(p.Content) == "old" && !p.Close {
			last = c
		}
	}
	require.NoError(t, <-handed)
	start := time.Now()
	assert.Empty(t, last.Rest())
	assert.InDelta(t, 6, time.Since(start).Seconds(), 4)
	assert.NoError(t, <-g.done)
}

func TestOnlyTheNewProcessAcceptsOnceHandOverReturns(t *testing.T) {
	t.Parallel()
	for range 5 {
		overGenerations(t, -1, func(t *testing.T, g *generation, _ chan struct{}) {
			w := g.webSocket(t)
			require.NoError(t, g.HandOver(t.Context(), g.heir(t)))
			assert.Equal(t, "new", string(g.dial(t).Do(get).Content))
			w.Close()
			assert.NoError(t, <-g.done)
		})
	}
}

// A Server with Sockets serves the inherited sockets instead of its addresses,
// also those of Listeners: nothing else is needed for a hand-over.
func TestAServerServesTheSocketsThatItInherits(t *testing.T) {
	proxytest.NoLeaks(t)
	r := &hostproxy.Router{Logger: panicsFail(t)}
	r.TLS.Storage = newStorage(t)
	r.TLS.Config, _ = proxytest.TLS(t, "a.test")
	r.Handle("a.test", hostproxy.To(proxytest.NewBackend(t, oldTarget(nil)).Addr()))
	inner := proxytest.Listen(t)
	g := &generation{addr: inner.Addr().String(), Server: &hostproxy.Server{Router: r, Sockets: new(hostproxy.Sockets), Addr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0",
		Listeners: []hostproxy.Listener{{Listener: inner, Role: hostproxy.RolePlain}}}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- g.ListenAndServe(ctx) }()
	ask := func() string {
		c := g.dial(t)
		defer c.Close()
		return string(c.Do(get).Content)
	}
	proxytest.Eventually(t, "the old process", func() bool { return ask() == "old" })

	left := g.heir(t)
	left.Env = append(left.Env, "HOSTPROXY_TEST_SOCKET=listener0")
	var said strings.Builder
	left.Stderr = &said
	require.Error(t, g.HandOver(t.Context(), left))
	assert.Contains(t, said.String(), `inherited sockets that the program does not use: "https", "http": use them by Server.Sockets or Sockets.Listen`)
	assert.Equal(t, "old", ask(), "the old process continues")

	cmd := g.heir(t)
	cmd.Env = append(cmd.Env, "HOSTPROXY_TEST_ADDR=127.0.0.1:1") // not to be opened
	warned := new(proxytest.Log)
	cmd.Stderr = warned
	require.NoError(t, g.HandOver(t.Context(), cmd))
	assert.NoError(t, <-done)
	proxytest.Eventually(t, "a warning for each", func() bool {
		return strings.Count(warned.String(), "an inherited socket is not what its listener asks for") == 3
	})
	assert.Contains(t, warned.String(), `listener=Server.Listeners[0] socket=listener0 cause="it listens on \"`+g.addr+`\", and Addr is \"127.0.0.1:1\""`)
	assert.Equal(t, "new", ask())
}

// HandOverTimeout limits what stays after a hand-over, and DrainTimeout does
// not.
func TestHandOverTimeoutAloneLimitsWhatAHandOverLeaves(t *testing.T) {
	t.Parallel()
	overGenerations(t, 50*time.Millisecond, func(t *testing.T, g *generation, _ chan struct{}) {
		ws := g.webSocket(t)
		require.NoError(t, g.Reload(func(s *hostproxy.Server) { s.HandOverTimeout = time.Second }))
		handed := time.Now()
		require.NoError(t, g.HandOver(t.Context(), g.heir(t)))
		echo(ws)
		ws.Expect("\x88\x02\x03\xe9") // Close, 1001
		assert.Greater(t, time.Since(handed), 900*time.Millisecond)
		ws.Close()
		assert.NoError(t, <-g.done)
	})
}
