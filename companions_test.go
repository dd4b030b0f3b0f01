package hostproxy_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A beside is a companion that stands in for HTTP/3: it runs net/http's server
// over TLS.
type beside struct {
	ln     net.Listener
	altSvc string
	edit   func(*http.Request) // changes each request before the Router gets it

	mu     sync.Mutex
	server *http.Server
	closed int
	fail   chan error // makes Serve end with this error
	broken error      // error that Listen returns
}

func newBeside(t *testing.T, altSvc string) *beside {
	t.Helper()
	return &beside{ln: proxytest.Listen(t), altSvc: altSvc, fail: make(chan error, 1)}
}

func (c *beside) Listen(conf *tls.Config) error {
	if c.broken != nil {
		return c.broken
	}
	conf.NextProtos = []string{"h2", "http/1.1"}
	c.server = &http.Server{TLSConfig: conf, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	return nil
}

func (c *beside) AltSvc() string { return c.altSvc }

func (c *beside) Serve(ctx context.Context, h http.Handler) error {
	c.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		q.Proto, q.ProtoMajor, q.ProtoMinor = "HTTP/3.0", 3, 0
		if c.edit != nil {
			c.edit(q)
		}
		h.ServeHTTP(w, q)
	})
	ended := make(chan error, 1)
	go func() { ended <- c.server.ServeTLS(c.ln, "", "") }()
	select {
	case err := <-c.fail:
		c.server.Close()
		<-ended
		if err == errPanic {
			panic(err)
		}
		return err
	case <-ctx.Done():
	}
	err := c.server.Shutdown(context.Background())
	<-ended
	return err
}

func (c *beside) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed++
	return c.server.Close()
}

var errPanic = errors.New("a companion panics")

// running runs s, and returns a function that ends it.
func running(t *testing.T, s *hostproxy.Server, https, plain net.Listener) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, https, plain) }()
	return func() error {
		cancel()
		return <-done
	}
}

// altSvcOf returns the status and the Alt-Svc of a response.
func altSvcOf(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	res, err := c.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	_, err = io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, res.Header.Get("Alt-Svc")
}

func TestACompanionServesTheRoutes(t *testing.T) {
	for name, middleware := range map[string]bool{"": false, "behind middleware": true} {
		t.Run(name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			r, roots := certified(t)
			var seen []hostproxy.Exchange
			var mu sync.Mutex
			r.Observe = func(x *hostproxy.Exchange) { mu.Lock(); defer mu.Unlock(); seen = append(seen, *x) }
			s := &hostproxy.Server{Router: r}
			if middleware {
				s.Handler = http.HandlerFunc(r.ServeHTTP)
			}
			c := newBeside(t, "")
			s.Companions = []hostproxy.Companion{c}
			run := proxytest.Start(t, s)
			client := proxytest.HTTPClient(t, c.ln.Addr().String(), roots, "h2")
			for _, path := range []string{"/", "/own"} {
				status, body := get(t, client, "https://a.test"+path)
				assert.Equal(t, 200, status)
				assert.Equal(t, "routes 127.0.0.1", body)
			}
			client.CloseIdleConnections()
			require.NoError(t, run.Stop())
			require.Len(t, seen, 2)
			for _, x := range seen {
				assert.Equal(t, "HTTP/3.0", x.Proto)
				assert.Equal(t, "https", x.Scheme)
				assert.Equal(t, "a.test", x.ServerName)
			}
		})
	}
}

func TestAltSvcIsInAllResponsesOverTLS(t *testing.T) {
	t.Parallel() // mostly waiting
	const h3 = `h3=":443"; ma=86400`
	for name, middleware := range map[string]bool{"fast lane": false, "handler lane": true} {
		t.Run(name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			r, roots := certified(t)
			target := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Alt-Svc", `h2=":1"`) }))
			r.Handle("a.test/other", hostproxy.To(target.Addr()))
			r.Handle("a.test/redirect", hostproxy.Redirect("b.test"))
			r.Handle("a.test/down", hostproxy.To(proxytest.Refused(t)))
			r.Handle("a.test/set", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Alt-Svc", `h3=":1"`) }))
			r.Handle("c.test/x", named("c"))
			c, d := newBeside(t, h3), newBeside(t, `h3=":8443"`)
			s := &hostproxy.Server{Router: r, Companions: []hostproxy.Companion{c, d}}
			if middleware {
				s.Handler = http.HandlerFunc(r.ServeHTTP)
			}
			plain := proxytest.Listen(t)
			s.Listeners = []hostproxy.Listener{{Listener: plain, Role: hostproxy.RolePlain}}
			https, redirects := proxytest.Listen(t), proxytest.Listen(t)
			stop := running(t, s, https, redirects)
			const both = h3 + `, h3=":8443"`
			for _, protocol := range []string{"h1", "h2"} {
				client := proxytest.HTTPClient(t, https.Addr().String(), roots, protocol)
				for _, tt := range []struct {
					path, want string
					status     int
				}{
					{"/", both, 200}, {"/own", both, 200}, {"/other", both, 200}, {"/redirect", both, 308}, {"/down", both, 502}, {"/set", `h3=":1"`, 200},
				} {
					for range 2 {
						status, value := altSvcOf(t, client, "https://a.test"+tt.path)
						assert.Equal(t, tt.status, status, tt.path)
						assert.Equal(t, tt.want, value, tt.path)
					}
				}
				q, err := http.NewRequest("GET", "https://a.test/", nil)
				require.NoError(t, err)
				for host, want := range map[string]int{"c.test": 404, "d.test": 421} {
					q.Host = host
					res, err := client.Do(q)
					require.NoError(t, err)
					res.Body.Close()
					assert.Equal(t, want, res.StatusCode)
					assert.Equal(t, map[int]string{404: both}[want], res.Header.Get("Alt-Svc"), host)
				}
			}
			for _, addr := range []string{plain.Addr().String(), redirects.Addr().String()} {
				_, value := altSvcOf(t, proxytest.HTTPClient(t, addr, nil, "h1"), "http://a.test/")
				assert.Empty(t, value, "without TLS")
			}
			client := proxytest.HTTPClient(t, https.Addr().String(), roots, "h1")
			withdrawn := func(want string) {
				proxytest.Eventually(t, want, func() bool { _, value := altSvcOf(t, client, "https://a.test/"); return value == want })
			}
			c.fail <- nil
			withdrawn(`h3=":8443"`)
			d.fail <- errors.New("the socket broke")
			withdrawn("clear")
			page := ask(hostproxy.StatusHandler(r), "GET", "http://x/?format=json").Body.String()
			assert.Contains(t, page, `"name": "Server.Companions[1]"`)
			assert.Contains(t, page, `"error": "the socket broke"`)
			assert.Contains(t, ask(hostproxy.StatusHandler(r), "GET", "http://x/").Body.String(), "ended: the socket broke")
			status, _ := get(t, client, "https://a.test/")
			assert.Equal(t, 200, status, "the listeners serve on")
			client.CloseIdleConnections()
			assert.EqualError(t, stop(), "hostproxy: Server.Companions[1]: the socket broke")
		})
	}
}

func TestA421OfACompanionHasNoAltSvc(t *testing.T) {
	r, roots := certified(t)
	c := newBeside(t, `h3=":443"`)
	stop := running(t, &hostproxy.Server{Router: r, Companions: []hostproxy.Companion{c}}, proxytest.Listen(t), nil)
	client := proxytest.HTTPClient(t, c.ln.Addr().String(), roots, "h2")
	for host, want := range map[string]string{"a.test": c.altSvc, "d.test": ""} {
		q, err := http.NewRequest("GET", "https://a.test/own", nil)
		require.NoError(t, err)
		q.Host = host
		res, err := client.Do(q)
		require.NoError(t, err)
		res.Body.Close()
		assert.Equal(t, want, res.Header.Get("Alt-Svc"), "%s: %d", host, res.StatusCode)
	}
	client.CloseIdleConnections()
	require.NoError(t, stop())
}

// quic-go gives a CONNECT of HTTP/3 to handlers in this form. It becomes a
// WebSocket over HTTP/1.1. The Server's shutdown ends it with a Close frame.
func TestAWebSocketWorksOverACompanion(t *testing.T) {
	proxytest.NoLeaks(t)
	asked := make(chan string, 1)
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		q, err := c.ReadRequest()
		if err != nil {
			return
		}
		asked <- q.Method + " " + q.RequestURI + " " + q.Header.Get("Via")
		c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + proxytest.Accept(q.Header) + "\r\n\r\n")
		_, _ = io.CopyN(c.Conn, c.Conn, 12) // two frames
		_, _ = io.Copy(io.Discard, c.Conn)
	})
	r, roots := certified(t)
	require.NoError(t, r.Set("a.test", hostproxy.To(backend.Addr())))
	records := make(chan hostproxy.Exchange, 1)
	r.Observe = func(x *hostproxy.Exchange) { records <- *x }
	c := newBeside(t, "")
	c.edit = func(q *http.Request) {
		q.Method, q.RequestURI, q.Proto, q.ContentLength = http.MethodConnect, q.Host, q.Header.Get("X-Protocol"), -1
	}
	stop := running(t, &hostproxy.Server{Router: r, Companions: []hostproxy.Companion{c}}, proxytest.Listen(t), nil)
	client := proxytest.HTTPClient(t, c.ln.Addr().String(), roots, "h2")
	open := func(protocol string) (*http.Response, *io.PipeWriter) {
		body, send := io.Pipe()
		q, err := http.NewRequest("POST", "https://a.test/ws?x", body)
		require.NoError(t, err)
		q.Header.Set("X-Protocol", protocol)
		res, err := client.Do(q)
		require.NoError(t, err)
		return res, send
	}
	for _, protocol := range []string{"HTTP/3.0", "", "connect-udp", "HTTP/1.1"} {
		res, _ := open(protocol)
		res.Body.Close()
		assert.Equal(t, 501, res.StatusCode, protocol)
		assert.Equal(t, "HTTP/3.0", (<-records).Proto)
	}
	res, send := open("websocket")
	require.Equal(t, 200, res.StatusCode)
	assert.Regexp(t, `^GET /ws\?x 3.0 hostproxy-`, <-asked)
	for _, text := range []string{"\x82\x04some", "\x82\x04more"} {
		_, err := io.WriteString(send, text)
		require.NoError(t, err)
		got := make([]byte, len(text))
		_, err = io.ReadFull(res.Body, got)
		require.NoError(t, err)
		assert.Equal(t, text, string(got))
	}
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	got, err := io.ReadAll(io.LimitReader(res.Body, 4))
	require.NoError(t, err)
	assert.Equal(t, "\x88\x02\x03\xe9", string(got), "a Close frame with the status 1001")
	send.Close()
	res.Body.Close()
	assert.NoError(t, <-ended)
	x := <-records
	assert.Equal(t, "HTTP/3.0", x.Proto)
	assert.Equal(t, "CONNECT", x.Method)
}

func TestACompanionFinishesRequestsInFlight(t *testing.T) {
	t.Parallel() // mostly waiting
	proxytest.NoLeaks(t)
	r, roots := certified(t)
	began, goOn := make(chan bool), make(chan bool)
	r.Handle("a.test/slow", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		began <- true
		select {
		case <-goOn:
		case <-q.Context().Done():
			w.WriteHeader(http.StatusGone)
		}
	}))
	for name, finishes := range map[string]bool{"in time": true, "too late": false} {
		t.Run(name, func(t *testing.T) {
			c := newBeside(t, "h3=\":443\"")
			s := &hostproxy.Server{Router: r, Companions: []hostproxy.Companion{c}}
			if !finishes {
				s.DrainTimeout = time.Millisecond
			}
			stop := running(t, s, proxytest.Listen(t), nil)
			client := proxytest.HTTPClient(t, c.ln.Addr().String(), roots, "h2")
			answer := make(chan int, 1)
			go func() {
				res, err := client.Get("https://a.test/slow")
				if err != nil {
					answer <- 0
					return
				}
				res.Body.Close()
				answer <- res.StatusCode
			}()
			<-began
			ended := make(chan error, 1)
			go func() { ended <- stop() }()
			if finishes {
				goOn <- true
				assert.Equal(t, 200, <-answer)
				assert.NoError(t, <-ended)
				assert.Zero(t, c.closed)
				return
			}
			assert.Contains(t, []int{0, 410}, <-answer)
			err := <-ended
			assert.ErrorContains(t, err, "hostproxy: Server.Companions[0]: drain timeout: the remaining connections were closed")
			assert.Equal(t, 1, c.closed)
		})
	}
}

// A deaf companion ignores its context and serves until end yields.
type deaf struct{ end chan bool }

func (d deaf) Serve(context.Context, http.Handler) error { <-d.end; return nil }

func TestServeDoesNotWaitForACompanionThatDoesNotEnd(t *testing.T) {
	t.Parallel() // mostly waiting
	r, _ := certified(t)
	d := deaf{make(chan bool)}
	defer close(d.end)
	s := &hostproxy.Server{Router: r, DrainTimeout: time.Millisecond, Companions: []hostproxy.Companion{d}}
	assert.ErrorContains(t, running(t, s, proxytest.Listen(t), nil)(), "drain timeout: the companion does not end: let its Serve return when its context is done")
}

// The records of listeners do the same: they blame the drain, not the client.
func TestARecordBlamesTheDrainForACompanionsExchangeThatItCutOff(t *testing.T) {
	began := make(chan bool, 1)
	answer := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/begun" {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "12345")
			_ = http.NewResponseController(w).Flush()
		}
		began <- true
		<-q.Context().Done()
	})
	target := proxytest.NewServer(t, answer)
	for path, status := range map[string]int{"/begun": 200, "/silent": 503, "/handler": 503} {
		r, roots := certified(t)
		r.Handle("a.test/begun", hostproxy.To(target.Addr()))
		r.Handle("a.test/silent", hostproxy.To(target.Addr()))
		r.Handle("a.test/handler", answer)
		records := make(chan *hostproxy.Exchange, 1)
		r.Observe = func(x *hostproxy.Exchange) { records <- x }
		c := newBeside(t, "")
		stop := running(t, &hostproxy.Server{Router: r, DrainTimeout: 50 * time.Millisecond, Companions: []hostproxy.Companion{c}}, proxytest.Listen(t), nil)
		client := proxytest.HTTPClient(t, c.ln.Addr().String(), roots, "h2")
		go func() {
			if res, err := client.Get("https://a.test" + path); err == nil {
				_, _ = io.ReadAll(res.Body)
				res.Body.Close()
			}
		}()
		<-began
		assert.ErrorContains(t, stop(), "drain timeout")
		x := <-records
		assert.Equal(t, status, x.Status, path)
		var fail *hostproxy.Error
		require.ErrorAs(t, x.Err, &fail)
		assert.Equal(t, hostproxy.SideDrain, fail.Side, path)
	}
}

// An exiting companion ends its goroutine by runtime.Goexit.
type exiting struct{}

func (exiting) Serve(context.Context, http.Handler) error { runtime.Goexit(); return nil }

func TestACompanionThatExitsItsGoroutineIsAnError(t *testing.T) {
	proxytest.NoLeaks(t)
	r, _ := certified(t)
	s := &hostproxy.Server{Router: r, DrainTimeout: -1, Companions: []hostproxy.Companion{exiting{}}}
	err := running(t, s, proxytest.Listen(t), nil)()
	assert.EqualError(t, err, "hostproxy: Server.Companions[0]: the companion has ended its goroutine: want Serve to return")
}

// A loud companion panics in the method that where names.
type loud struct{ where string }

func (l loud) Listen(*tls.Config) error { return l.at("Listen") }
func (l loud) AltSvc() string           { _ = l.at("AltSvc"); return "h3=\":1\"" }
func (l loud) Close() error             { return l.at("Close") }

func (l loud) Serve(ctx context.Context, _ http.Handler) error { <-ctx.Done(); return l.at("Serve") }

func (l loud) at(where string) error {
	if l.where == where {
		panic("oh " + where)
	}
	return nil
}

func TestAPanicInACompanionIsItsError(t *testing.T) {
	for _, where := range []string{"Listen", "AltSvc", "Serve"} {
		r, _ := certified(t)
		first := newBeside(t, "")
		s := &hostproxy.Server{Router: r, Companions: []hostproxy.Companion{first, loud{where}}}
		err := running(t, s, proxytest.Listen(t), nil)()
		assert.ErrorContains(t, err, "hostproxy: Server.Companions[1]: panic in "+where+": oh "+where)
		assert.Equal(t, map[string]int{"Listen": 1, "AltSvc": 1, "Serve": 0}[where], first.closed, "companions that are open are closed: %s", where)
	}
	r, roots := certified(t)
	log := new(bytes.Buffer)
	r.Logger = slog.New(slog.NewTextHandler(&lockedWriter{w: log}, nil))
	c, ln := newBeside(t, "h3=\":1\""), proxytest.Listen(t)
	stop := running(t, &hostproxy.Server{Router: r, Companions: []hostproxy.Companion{c}}, ln, nil)
	client := proxytest.HTTPClient(t, ln.Addr().String(), roots, "h2")
	get(t, client, "https://a.test/")
	c.fail <- errPanic
	proxytest.Eventually(t, "clear", func() bool { _, value := altSvcOf(t, client, "https://a.test/"); return value == "clear" })
	client.CloseIdleConnections()
	assert.ErrorContains(t, stop(), "panic in Serve: a companion panics")
	assert.Contains(t, log.String(), "a companion has ended before the shutdown")
}

func TestCompanionsThatCannotServeAreRefused(t *testing.T) {
	r, _ := certified(t)
	one := newBeside(t, "")
	busy := newBeside(t, "")
	busy.broken = errors.New("address already in use")
	for want, cs := range map[string][]hostproxy.Companion{
		"Server.Companions[0] is nil":                                       {nil},
		"Server.Companions[1] is nil":                                       {one, (*beside)(nil)},
		"Server.Companions[0] and [1] are the same":                         {one, one},
		"hostproxy: Server.Companions[1]: address already in use":           {one, busy},
		`Server.Companions[0]: AltSvc returns "h3\n": want a value`:         {newBeside(t, "h3\n")},
		`AltSvc returns " h3": want a value of Alt-Svc (RFC 7838), such as`: {newBeside(t, " h3")},
	} {
		assert.ErrorContains(t, running(t, &hostproxy.Server{Router: r, Companions: cs}, proxytest.Listen(t), nil)(), want)
	}
	err := running(t, &hostproxy.Server{Router: r, Companions: []hostproxy.Companion{newBeside(t, `h3=":1"`)}}, nil, proxytest.Listen(t))()
	assert.ErrorContains(t, err, `AltSvc returns "h3=\":1\"", and the Server has no listener for TLS`)
}

// Companions with methods that have the right names but the wrong signatures.
// The Server does not call them.
type (
	copied  struct{ plain }
	listens struct{ plain }
	pointed struct{ plain }
)

func (copied) Listen(*tls.Dialer) error    { return nil }
func (listens) Listen(string) error        { return nil }
func (listens) AltSvc() (string, error)    { return "", nil }
func (listens) Close()                     {}
func (*pointed) Listen(*tls.Config) error  { return errors.New("listens") }
func (*pointed) AltSvc(port string) string { return port }

func TestAMethodOfACompanionThatIsNotCalledIsAnError(t *testing.T) {
	r, _ := certified(t)
	for want, cs := range map[string][]hostproxy.Companion{
		"hostproxy: Server.Companions[0]: its method Listen is func(*tls.Dialer) error: want func(*tls.Config) error, or another name": {copied{}},
		"hostproxy: Server.Companions[1]: its method Listen is func(string) error: want func(*tls.Config) error, or another name\n" +
			"its method AltSvc is func() (string, error): want func() string, or another name\n" +
			"its method Close is func(): want func() error, or another name": {plain{}, &listens{}},
		"hostproxy: Server.Companions[0]: its method Listen has a pointer receiver: pass a pointer\n" +
			"its method AltSvc has a pointer receiver: pass a pointer": {pointed{}},
		"hostproxy: Server.Companions[0]: its method AltSvc is func(string) string: want func() string, or another name": {&pointed{}},
	} {
		assert.EqualError(t, running(t, &hostproxy.Server{Router: r, Companions: cs}, proxytest.Listen(t), nil)(), want)
	}
}

func TestAnInvalidAltSvcValueIsRefused(t *testing.T) {
	r, _ := certified(t)
	for value, want := range map[string]string{
		`h3=443`:                     `the address "443" is not in quotes`,
		`h3`:                         `the address "" is not in quotes`,
		`h3=":443`:                   `the address "\":443" is not in quotes`,
		`h3=":443" ma=5`:             `is not in quotes`,
		`h3="443"`:                   `the address "443" is not host:port or :port`,
		`h3=":0"`:                    `is not host:port or :port`,
		`h3=":99999"`:                `is not host:port or :port`,
		`h3="a b:443"`:               `is not host:port or :port`,
		`h3=":443"; ma`:              `the parameter "ma" has no value`,
		`h3=":443"; ma=`:             `the parameter "ma=" has no value`,
		`h3=":443"; ma=1h`:           `ma is "1h", and not a number of seconds`,
		`h3=":443"; ma=-1`:           `ma is "-1", and not a number of seconds`,
		`h3=":443"; persist=2`:       `persist is "2", and not 1`,
		`h3=":443";`:                 `the parameter "" has no name`,
		`h3=":443",`:                 `an element of the list is empty`,
		`,h3=":443"`:                 `an element of the list is empty`,
		`h3=":443"; ma=86400, clear`: `the address "" is not in quotes`,
		`Clear`:                      `the address "" is not in quotes`,
		`=":443"`:                    `"" is not a protocol's name in ALPN, such as h3`,
		`h/3=":443"`:                 `"h/3" is not a protocol's name in ALPN`,
		`h%33=":443"`:                `"h%33" is not a protocol's name in ALPN`,
		"h3=\":443\"\r\nX: y":        `a byte in it is not allowed in a header`,
		` h3=":443"`:                 `it begins or ends with a blank`,
	} {
		err := running(t, &hostproxy.Server{Router: r, Companions: []hostproxy.Companion{newBeside(t, value)}}, proxytest.Listen(t), nil)()
		assert.ErrorContains(t, err, "hostproxy: Server.Companions[0]: AltSvc returns ", value)
		assert.ErrorContains(t, err, want, value)
	}
	for _, value := range []string{`h3=":443"`, `h3=":443";ma=5 ; persist=1,h3-29="b.test:443"; x="a,\"; b"`, `w%3Dx=":1"`, `h2="[::1]:8443"; ma="7"`, "clear"} {
		assert.NoError(t, running(t, &hostproxy.Server{Router: r, Companions: []hostproxy.Companion{newBeside(t, value)}}, proxytest.Listen(t), nil)(), value)
	}
}

func TestACompanionMayTellClientsToForgetAll(t *testing.T) {
	for want, values := range map[string][]string{"clear": {"clear", "", "clear"}, `h3=":1", h3=":2"`: {`h3=":1"`, "clear", `h3=":2"`}} {
		r, roots := certified(t)
		var cs []hostproxy.Companion
		for _, v := range values {
			cs = append(cs, newBeside(t, v))
		}
		ln := proxytest.Listen(t)
		stop := running(t, &hostproxy.Server{Router: r, Companions: cs}, ln, nil)
		client := proxytest.HTTPClient(t, ln.Addr().String(), roots, "h2")
		_, value := altSvcOf(t, client, "https://a.test/")
		assert.Equal(t, want, value)
		client.CloseIdleConnections()
		assert.NoError(t, stop())
	}
}

// A plain companion is no pointer. It holds a func, so it cannot be compared.
type plain struct{ h http.Handler }

func (plain) Serve(ctx context.Context, _ http.Handler) error { <-ctx.Done(); return nil }

func TestCompanionsThatCannotBeComparedAreServed(t *testing.T) {
	r, _ := certified(t)
	one := plain{http.NotFoundHandler()}
	assert.NoError(t, running(t, &hostproxy.Server{Router: r, Companions: []hostproxy.Companion{one, one}}, proxytest.Listen(t), nil)())
}

// The Server needs no listener for TLS. Its end also ends the certificates.
func TestACompanionGetsTheCertificates(t *testing.T) {
	t.Parallel() // it waits for the lock of the local CA
	proxytest.NoLeaks(t)
	r := new(hostproxy.Router)
	r.TLS.Storage = files(t)
	r.Handle("a.localhost", named("a"))
	c := newBeside(t, "")
	stop := running(t, &hostproxy.Server{Router: r, Companions: []hostproxy.Companion{c}}, nil, proxytest.Listen(t))
	client := proxytest.HTTPClient(t, c.ln.Addr().String(), localRoots(t, r.TLS.Storage), "h2")
	_, body := get(t, client, "https://a.localhost/")
	assert.Equal(t, "a HTTP/3.0", body)
	client.CloseIdleConnections()
	require.NoError(t, stop())
	for range r.Certificates() {
		t.Fatal("nothing is kept after the last Server")
	}
}

func TestClientLimitsHoldForACompanion(t *testing.T) {
	r, roots := certified(t)
	r.RateLimit = &hostproxy.RateLimit{Rate: 0.001, Burst: 1}
	c, ln := newBeside(t, ""), proxytest.Listen(t)
	stop := running(t, &hostproxy.Server{Router: r, Companions: []hostproxy.Companion{c}}, ln, nil)
	for i, addr := range []string{ln.Addr().String(), c.ln.Addr().String()} {
		client := proxytest.HTTPClient(t, addr, roots, "h2")
		status, _ := get(t, client, "https://a.test/")
		assert.Equal(t, [2]int{200, 429}[i], status)
		client.CloseIdleConnections()
	}
	require.NoError(t, stop())
}

// A client certificate shown to one host does not count for another, on a
// companion's connections too.
func TestClientAuthenticationHoldsForACompanion(t *testing.T) {
	client, clients := proxytest.Certificate(t, "client.example")
	r := &hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	config, roots := proxytest.TLS(t, "open.test", "admin.test")
	r.TLS.Config = config
	r.TLS.Host = say(map[string]hostproxy.HostTLS{"admin.test": {ClientAuth: &hostproxy.ClientAuth{CAs: clients}}})
	r.Handle("open.test", named("open"))
	r.Handle("admin.test", named("admin"))
	c := newBeside(t, "")
	stop := running(t, &hostproxy.Server{Router: r, Companions: []hostproxy.Companion{c}}, proxytest.Listen(t), nil)
	for _, tt := range []struct {
		sni, host string
		proves    bool
		want      int // 0: the handshake fails
	}{
		{"open.test", "open.test", false, 200},
		{"open.test", "admin.test", false, 421},
		{"open.test", "admin.test", true, 421},
		{"admin.test", "admin.test", false, 0},
		{"admin.test", "admin.test", true, 200},
		{"admin.test", "open.test", true, 421},
	} {
		conf := &tls.Config{RootCAs: roots, ServerName: tt.sni}
		if tt.proves {
			conf.Certificates = []tls.Certificate{client}
		}
		tr := &http.Transport{TLSClientConfig: conf, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", c.ln.Addr().String())
		}}
		q, err := http.NewRequest("GET", "https://"+tt.sni+"/", nil)
		require.NoError(t, err)
		q.Host = tt.host
		res, err := tr.RoundTrip(q)
		if tt.want == 0 {
			assert.Error(t, err)
			continue
		}
		require.NoError(t, err)
		res.Body.Close()
		tr.CloseIdleConnections()
		assert.Equal(t, tt.want, res.StatusCode, "%+v", tt)
	}
	require.NoError(t, stop())
}

func TestAltSvcIsWithdrawnWhileTheServerShutsDown(t *testing.T) {
	proxytest.NoLeaks(t)
	r, roots := certified(t)
	began := make(chan bool)
	r.Handle("a.test/slow", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		began <- true
		<-exchange.DrainFrom(q.Context()).Done()
	}))
	c, ln := newBeside(t, `h3=":1"`), proxytest.Listen(t)
	stop := running(t, &hostproxy.Server{Router: r, Companions: []hostproxy.Companion{c}}, ln, nil)
	values := make(chan string, 2)
	ask := func(addr, protocol string) {
		client := proxytest.HTTPClient(t, addr, roots, protocol)
		_, value := altSvcOf(t, client, "https://a.test/")
		assert.Equal(t, `h3=":1"`, value)
		go func() {
			res, err := client.Get("https://a.test/slow")
			if err != nil {
				values <- err.Error()
				return
			}
			res.Body.Close()
			values <- res.Header.Get("Alt-Svc")
		}()
		<-began
	}
	ask(ln.Addr().String(), "h1")
	ask(ln.Addr().String(), "h2")
	assert.NoError(t, stop())
	for range 2 {
		value := <-values
		assert.Empty(t, value)
	}
}
