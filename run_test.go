package hostproxy_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestRunTakesInheritedSocketsUnlessSocketsIsSet(t *testing.T) {
	t.Setenv("LISTEN_PID", "y")
	t.Setenv("LISTEN_FDS", "x")
	s := &hostproxy.Server{Router: new(hostproxy.Router), Addr: "bad", HTTPAddr: "bad"}
	assert.ErrorContains(t, s.Run(t.Context()), `hostproxy: Inherited: LISTEN_PID is "y": want the number of a process`)
	t.Setenv("LISTEN_PID", "y")
	t.Setenv("LISTEN_FDS", "x")
	s.Sockets = new(hostproxy.Sockets)
	err := s.Run(t.Context())
	assert.ErrorContains(t, err, `hostproxy: listen "bad": `)
	assert.NotContains(t, err.Error(), "LISTEN_PID")
}

func TestRunServesUntilItsContextIsDone(t *testing.T) {
	proxytest.NoLeaks(t)
	t.Setenv("LISTEN_FDS", "")
	ln := proxytest.Listen(t)
	r := new(hostproxy.Router)
	r.Handle("a.test", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s := &hostproxy.Server{Router: r, Addr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0",
		Listeners: []hostproxy.Listener{{Listener: ln, Role: hostproxy.RolePlain}}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	assert.Equal(t, 200, proxytest.Dial(t, ln.Addr().String()).Do("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").StatusCode)
	stop()
	require.NoError(t, <-done)
}

func TestRunWithoutARouterIsAnError(t *testing.T) {
	t.Setenv("LISTEN_FDS", "")
	assert.EqualError(t, new(hostproxy.Server).Run(t.Context()), "hostproxy: Server.Router is nil: set it")
}

func TestRunOfAServerThatServesIsAnErrorAndChangesNothing(t *testing.T) {
	proxytest.NoLeaks(t)
	t.Setenv("LISTEN_FDS", "")
	ln := proxytest.Listen(t)
	r := new(hostproxy.Router)
	r.Handle("a.test", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s := &hostproxy.Server{Router: r, Listeners: []hostproxy.Listener{{Listener: ln, Role: hostproxy.RolePlain}}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, nil, nil) }()
	assert.Equal(t, 200, proxytest.Dial(t, ln.Addr().String()).Do("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").StatusCode)
	assert.ErrorContains(t, s.Run(t.Context()), "hostproxy: Serve is in progress: ")
	assert.NoError(t, r.Check())
	stop()
	assert.NoError(t, <-done)
}

func TestRunTwiceAtOnceIsAnError(t *testing.T) {
	t.Setenv("LISTEN_FDS", "")
	s := &hostproxy.Server{Router: new(hostproxy.Router), Addr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0"}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 2)
	for range cap(done) {
		go func() { done <- s.Run(ctx) }()
	}
	assert.ErrorContains(t, <-done, "hostproxy: Serve is in progress: ")
	stop()
	assert.NoError(t, <-done)
}
