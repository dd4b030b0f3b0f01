package hostproxy_test

import (
	"context"
	"net/http"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestSocketsThatAreNotInheritedAreOpened(t *testing.T) {
	t.Setenv("LISTEN_FDS", "")
	sockets, err := hostproxy.Inherited()
	require.NoError(t, err)
	for _, s := range []*hostproxy.Sockets{sockets, new(hostproxy.Sockets)} {
		_, err = s.Listener("https")
		assert.EqualError(t, err, `hostproxy: no socket "https" was inherited: LISTEN_FDS is not set`)
		ln, err := s.Listen("https", "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer ln.Close()
		_, err = s.Listen("https", "tcp", ln.Addr().String())
		assert.ErrorContains(t, err, `hostproxy: listen "`+ln.Addr().String()+`": `)
		assert.ErrorContains(t, err, "stop the other server or choose another address")
		_, err = s.Listen("https", "udp", "127.0.0.1:0")
		assert.EqualError(t, err, `hostproxy: Listen: network "udp" is not supported: want tcp, tcp4, tcp6 or unix`)
		_, err = s.Listen("https", "unix", t.TempDir()+"/missing/socket")
		assert.ErrorContains(t, err, "hostproxy: listen unix ")
		_, err = s.Listen("a:b", "tcp", "127.0.0.1:0")
		assert.EqualError(t, err, `hostproxy: socket name "a:b": want one or more characters other than a colon`)
		assert.NoError(t, s.Close())
	}
	t.Setenv("LISTEN_FDS", "x")
	t.Setenv("LISTEN_PID", "y")
	_, err = hostproxy.Inherited()
	assert.ErrorContains(t, err, `hostproxy: Inherited: LISTEN_PID is "y": want the number of a process`)
	assert.Empty(t, os.Getenv("LISTEN_FDS"), "child processes do not see it")
}

func TestAServerServesOnASocketOfSockets(t *testing.T) {
	t.Parallel() // mostly waiting
	var sockets hostproxy.Sockets
	ln, err := sockets.Listen("http", "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var r hostproxy.Router
	r.Handle("a.test", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s := &hostproxy.Server{Router: &r}
	assert.ErrorContains(t, s.HandOver(t.Context(), nil), "hostproxy: HandOver: there is nothing to hand over: call it while Serve is in progress")
	assert.ErrorContains(t, new(hostproxy.Server).HandOver(t.Context(), nil), "hostproxy: Server.Router is nil: set it")
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, nil, ln) }()
	assert.Equal(t, 200, proxytest.Dial(t, ln.Addr().String()).Do("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").StatusCode)
	stop()
	assert.NoError(t, <-done)
}

func TestNotifyWithoutAServiceManagerDoesNothing(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	assert.NoError(t, hostproxy.Notify("STATUS=fine"))
	assert.EqualError(t, hostproxy.Notify("fine"), `hostproxy: Notify: state "fine": want lines of KEY=value, such as READY=1`)
}

// The error tells a program that it forgot its inherited sockets. It does not
// advise to stop the other server.
func TestAnAddressInUseBesideInheritedSocketsIsExplained(t *testing.T) {
	busy := proxytest.Listen(t).Addr().String()
	for _, tt := range []struct{ fds, pid, want string }{
		{"", "", "stop the other server"},
		{"1", "", "set Server.Sockets to the result of Inherited"},
		{"1", strconv.Itoa(os.Getpid()), "set Server.Sockets to the result of Inherited"},
		{"1", "1", "stop the other server"},
	} {
		t.Setenv("LISTEN_FDS", tt.fds)
		t.Setenv("LISTEN_PID", tt.pid)
		s := &hostproxy.Server{Router: new(hostproxy.Router), Addr: busy, HTTPAddr: busy}
		assert.ErrorContains(t, s.ListenAndServe(t.Context()), tt.want)
	}
}
