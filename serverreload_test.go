package hostproxy_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// reloadable returns a Server that serves a.test without TLS.
func reloadable(t *testing.T, set func(*hostproxy.Server)) (*hostproxy.Server, *proxytest.Running) {
	t.Helper()
	r, _ := certified(t)
	s := &hostproxy.Server{Router: r}
	if set != nil {
		set(s)
	}
	run := proxytest.StartPlain(t, s)
	proxytest.Dial(t, run.Plain).Do(ask1)
	return s, run
}

const ask1 = "GET /own HTTP/1.1\r\nHost: a.test\r\n\r\n"

// admitted opens a connection and makes a request on it. It returns false if
// the connection was closed without a response.
func admitted(t *testing.T, addr string) (*proxytest.Client, bool) {
	t.Helper()
	c := proxytest.Dial(t, addr)
	c.Send(ask1)
	_, err := io.ReadFull(c, make([]byte, len("HTTP/1.1 200 OK\r\n")))
	return c, err == nil
}

func TestReloadOfConnectionLimitsClosesNoConnection(t *testing.T) {
	for name, limit := range map[string]func(*hostproxy.Server) *int{
		"MaxConns":          func(s *hostproxy.Server) *int { return &s.MaxConns },
		"MaxConnsPerClient": func(s *hostproxy.Server) *int { return &s.MaxConnsPerClient },
	} {
		t.Run(name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			s, run := reloadable(t, func(s *hostproxy.Server) { *limit(s) = 2 })
			first, ok := admitted(t, run.Plain) // one more beside the connection of reloadable
			require.True(t, ok)
			_, ok = admitted(t, run.Plain)
			assert.False(t, ok, "2 of 2")
			require.NoError(t, s.Reload(func(s *hostproxy.Server) { *limit(s) = 3 }))
			second, ok := admitted(t, run.Plain)
			assert.True(t, ok, "3 of 3")
			require.NoError(t, s.Reload(func(s *hostproxy.Server) { *limit(s) = 1 }))
			_, ok = admitted(t, run.Plain)
			assert.False(t, ok, "3 of 1")
			for _, c := range []*proxytest.Client{first, second} {
				c.Send(ask1)
				got := make([]byte, 1000)
				n, err := c.Read(got)
				assert.NoError(t, err)
				assert.NotZero(t, n)
			}
			require.NoError(t, s.Reload(func(s *hostproxy.Server) { *limit(s) = 0 }))
			_, ok = admitted(t, run.Plain)
			assert.True(t, ok, "no limit")
			assert.Zero(t, *limit(s), "Reload sets the field, too")
			assert.NoError(t, s.Router.Check())
		})
	}
}

func TestReloadAppliesToTheNextRequest(t *testing.T) {
	proxytest.NoLeaks(t)
	large := "GET /own HTTP/1.1\r\nHost: a.test\r\nX: " + strings.Repeat("x", 2000) + "\r\n\r\n"
	s, run := reloadable(t, nil)
	c := proxytest.Dial(t, run.Plain)
	assert.Equal(t, 200, c.Do(large).StatusCode)
	require.NoError(t, s.Reload(func(s *hostproxy.Server) { s.MaxHeaderBytes = 1000 }))
	assert.Equal(t, 431, c.Do(large).StatusCode)

	c = proxytest.Dial(t, run.Plain)
	assert.Equal(t, 200, c.Do(ask1).StatusCode)
	require.NoError(t, s.Reload(func(s *hostproxy.Server) { s.ReadHeaderTimeout = 10 * time.Millisecond }))
	assert.Equal(t, 408, c.Do("GET /own HTTP/1.1\r\nHost:").StatusCode)

	c = proxytest.Dial(t, run.Plain)
	assert.Equal(t, 200, c.Do(ask1).StatusCode)
	require.NoError(t, s.Reload(func(s *hostproxy.Server) { s.IdleTimeout = 10 * time.Millisecond }))
	c.Send(ask1)
	assert.Contains(t, c.Rest(), "200 OK", "then the connection ends")
	assert.NoError(t, s.Router.Check())
}

func TestReloadAppliesOverHTTP2(t *testing.T) {
	proxytest.NoLeaks(t)
	r, roots := certified(t)
	s := &hostproxy.Server{Router: r}
	run := proxytest.Start(t, s)
	long := func(c *http.Client) int {
		q, err := http.NewRequest("GET", "https://a.test/own", nil)
		require.NoError(t, err)
		q.Header.Set("X", strings.Repeat("x", 2000))
		res, err := c.Do(q)
		if err != nil { // the client itself keeps to the limit
			return 431
		}
		res.Body.Close()
		return res.StatusCode
	}
	before := proxytest.HTTPClient(t, run.HTTPS, roots, "h2")
	assert.Equal(t, 200, long(before))
	require.NoError(t, s.Reload(func(s *hostproxy.Server) { s.MaxHeaderBytes = 1000 }))
	assert.Equal(t, 200, long(before), "the limit announced to the client still holds")
	assert.Equal(t, 431, long(proxytest.HTTPClient(t, run.HTTPS, roots, "h2")))
	require.NoError(t, s.Reload(func(s *hostproxy.Server) { s.IdleTimeout = time.Millisecond }))
	proxytest.Eventually(t, "the end of idle connections", func() bool { return strings.Contains(pageOf(t, r), "\"open\": 0") })

	require.NoError(t, s.Reload(func(s *hostproxy.Server) { s.HandshakeTimeout = 10 * time.Millisecond }))
	silent := proxytest.Dial(t, run.HTTPS)
	assert.Empty(t, silent.Rest())
	require.NoError(t, s.Reload(func(s *hostproxy.Server) { s.HandshakeTimeout, s.IdleTimeout = 0, 0 }))
	c, err := tls.Dial("tcp", run.HTTPS, &tls.Config{RootCAs: roots, ServerName: "a.test"})
	require.NoError(t, err)
	c.Close()
}

// pageOf returns the status page of r as JSON.
func pageOf(t *testing.T, r *hostproxy.Router) string {
	t.Helper()
	return ask(hostproxy.StatusHandler(r), "GET", "http://x/?format=json").Body.String()
}

func TestReloadedDrainTimeoutLimitsTheShutdown(t *testing.T) {
	r, _ := certified(t)
	began := make(chan bool)
	r.Handle("a.test/stays", http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { began <- true; <-q.Context().Done() }))
	s, ln := &hostproxy.Server{Router: r}, proxytest.Listen(t)
	stop := running(t, s, nil, ln)
	c := proxytest.Dial(t, ln.Addr().String())
	c.Send("GET /stays HTTP/1.1\r\nHost: a.test\r\n\r\n")
	<-began
	require.NoError(t, s.Reload(func(s *hostproxy.Server) { s.DrainTimeout = time.Millisecond }))
	assert.ErrorContains(t, stop(), "drain timeout") // immediately, not after 30 s
	assert.Empty(t, c.Rest())
}

func TestReloadChangesAllOrNothing(t *testing.T) {
	s, _ := reloadable(t, func(s *hostproxy.Server) { s.MaxConns = 100 })
	before := *s
	err := s.Reload(func(s *hostproxy.Server) {
		s.MaxConns, s.MaxHeaderBytes, s.IdleTimeout = 1, -1, 5
		s.Addr, s.Handler = ":1", http.NotFoundHandler()
	})
	for _, want := range []string{"hostproxy: Reload: Server.Addr cannot change while Serve is in progress", "hostproxy: Reload: Server.Handler cannot change",
		"hostproxy: Server.MaxHeaderBytes is -1: want 0 or more", "Server.IdleTimeout is 5ns"} {
		assert.ErrorContains(t, err, want)
	}
	assert.Equal(t, before, *s)
	assert.PanicsWithValue(t, "oh", func() { _ = s.Reload(func(s *hostproxy.Server) { s.MaxConns = 1; panic("oh") }) })
	assert.Equal(t, before, *s)
	assert.NoError(t, s.Router.Check())
	assert.ErrorContains(t, s.Reload(nil), "the argument are required")
	require.NoError(t, s.Reload(func(*hostproxy.Server) {}))
}

func TestEachFieldOfAServerIsReloadedOrRefused(t *testing.T) {
	s, _ := reloadable(t, nil)
	leaves(reflect.ValueOf(s).Elem(), "", func(name string, v reflect.Value) {
		err := s.Reload(func(s *hostproxy.Server) {
			f := reflect.ValueOf(s).Elem().FieldByName(name)
			if strings.HasSuffix(name, "Timeout") {
				f.SetInt(int64(time.Hour))
			} else {
				f.Set(another(t, f))
			}
		})
		if strings.HasSuffix(name, "Timeout") || strings.HasPrefix(name, "Max") {
			assert.NoError(t, err, name)
			assert.NotZero(t, v.Int(), name)
		} else {
			assert.ErrorContains(t, err, fmt.Sprintf("Server.%s cannot change", name))
		}
	})
	assert.NoError(t, s.Router.Check())
}

func TestConcurrentReloadsKeepEachOthersChanges(t *testing.T) {
	s, _ := reloadable(t, nil)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { assert.NoError(t, s.Reload(func(s *hostproxy.Server) { s.MaxConns = 100 })) })
		all.Go(func() { assert.NoError(t, s.Reload(func(s *hostproxy.Server) { s.MaxHandshakes = 10 })) })
		all.Go(func() { assert.NoError(t, s.Router.Check()) })
	}
	all.Wait()
	require.NoError(t, s.Reload(func(inner *hostproxy.Server) {
		assert.NoError(t, s.Reload(func(s *hostproxy.Server) { s.MaxConnsPerClient = 50 }))
		inner.MaxHeaderBytes = 9000
	}))
	assert.Equal(t, []int{100, 10, 50, 9000}, []int{s.MaxConns, s.MaxHandshakes, s.MaxConnsPerClient, s.MaxHeaderBytes})
}

// Reload does not put fields in force that were set without it.
func TestReloadDoesNotHideFieldsThatWereSetTooLate(t *testing.T) {
	r, _ := certified(t)
	r.Logger = slog.New(slog.NewTextHandler(new(bytes.Buffer), nil))
	s := &hostproxy.Server{Router: r}
	run := proxytest.StartPlain(t, s)
	proxytest.Dial(t, run.Plain).Do(ask1)
	s.Addr, s.MaxConns = ":1", 100
	require.NoError(t, s.Reload(func(s *hostproxy.Server) { s.MaxHandshakes = 7 }))
	assert.ErrorContains(t, r.Check(), "Server.Addr was changed after first use")
	assert.ErrorContains(t, r.Check(), "Server.MaxConns was changed after first use")
	assert.NotContains(t, r.Check().Error(), "MaxHandshakes")
	require.NoError(t, s.Reload(func(s *hostproxy.Server) { s.MaxConns = 100 }))
	s.Addr = ""
	assert.NoError(t, r.Check())
}

// The same holds for values that a field refers to.
func TestReloadRefusesFieldsThatAreChangedInPlace(t *testing.T) {
	s, _ := reloadable(t, func(s *hostproxy.Server) {
		s.ProxyProtocol = &hostproxy.ProxyProtocol{From: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
		s.Listeners = []hostproxy.Listener{{Addr: "127.0.0.1:0", Role: hostproxy.RolePlain, ProxyProtocol: s.ProxyProtocol}}
	})
	for want, change := range map[string]func(*hostproxy.Server){
		"Server.ProxyProtocol cannot change": func(s *hostproxy.Server) { s.ProxyProtocol.Timeout = time.Minute },
		"Server.ProxyProtocol cannot":        func(s *hostproxy.Server) { s.ProxyProtocol.From[0] = netip.Prefix{} },
		"Server.Listeners cannot change":     func(s *hostproxy.Server) { s.Listeners[0].H2C = true },
		"Server.Listeners cannot":            func(s *hostproxy.Server) { s.Listeners[0].ProxyProtocol.Timeout = 1 },
	} {
		assert.ErrorContains(t, s.Reload(change), want)
	}
	assert.NoError(t, s.Router.Check(), "nothing has changed")
	s.ProxyProtocol.Timeout = time.Minute
	require.NoError(t, s.Reload(func(s *hostproxy.Server) { s.MaxConns = 100 }))
	assert.ErrorContains(t, s.Router.Check(), "Server.ProxyProtocol was changed after first use")
	s.ProxyProtocol.Timeout = 0
}

// A hasty companion calls Reload on its Server while Serve starts.
type hasty struct {
	s    *hostproxy.Server
	done sync.WaitGroup
}

func (c *hasty) Listen(*tls.Config) error {
	c.done.Go(func() {
		for i := range 50 {
			_ = c.s.Reload(func(s *hostproxy.Server) { s.MaxConns = 1000 + i })
		}
	})
	return nil
}

func (c *hasty) Serve(ctx context.Context, _ http.Handler) error {
	<-ctx.Done()
	c.done.Wait()
	return nil
}

func TestReloadMayBeCalledWhileServeStarts(t *testing.T) {
	proxytest.NoLeaks(t)
	r, _ := certified(t)
	s := &hostproxy.Server{Router: r}
	s.Companions = []hostproxy.Companion{&hasty{s: s}}
	require.NoError(t, proxytest.Start(t, s).Stop())
	assert.Equal(t, 1049, s.MaxConns)
}

func TestReloadRequiresAServerThatServes(t *testing.T) {
	t.Parallel() // mostly waiting
	s, run := reloadable(t, nil)
	other := &hostproxy.Server{Router: s.Router}
	assert.ErrorContains(t, other.Reload(func(s *hostproxy.Server) { s.MaxConns = 1 }), "Serve is not in progress: set the fields before it")
	assert.ErrorContains(t, new(hostproxy.Server).Reload(func(*hostproxy.Server) {}), "Server.Router")
	require.NoError(t, s.Reload(func(s *hostproxy.Server) { s.MaxConns = 1 }))
	require.NoError(t, run.Stop())
	assert.ErrorContains(t, s.Reload(func(s *hostproxy.Server) { s.MaxConns = 1 }), "Serve is not in progress")
	again := proxytest.StartPlain(t, s)
	_, ok := admitted(t, again.Plain)
	assert.True(t, ok)
	_, ok = admitted(t, again.Plain)
	assert.False(t, ok, "the limit stays for the next Serve")
}
