package e2e_test

import (
	"maps"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

const full = "HTTP/1.1 200 OK\r\nServer: x\r\nX-Two: 1\r\nX-Two: 2\r\nContent-Type: text/x\r\nContent-Length: 2\r\n\r\nok"

// relaying starts a Server with middleware around a Router, whose target
// answers with full.
func relaying(t *testing.T, middleware func(next http.Handler, w http.ResponseWriter, q *http.Request)) *proxytest.Client {
	proxytest.NoLeaks(t)
	r := new(hostproxy.Router)
	r.Handle("a.test", hostproxy.To(proxytest.NewBackend(t, proxytest.Reply(full)).Addr()))
	h := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { middleware(r, w, q) })
	return proxytest.Dial(t, proxytest.StartPlain(t, &hostproxy.Server{Router: r, Handler: h}).Plain)
}

func TestMiddlewareSeesTheHeaderOfATarget(t *testing.T) {
	want := http.Header{"Server": {"x"}, "X-Two": {"1", "2"}, "Content-Type": {"text/x"}, "Content-Length": {"2"}}
	for about, ask := range map[string]func(w http.ResponseWriter) (after func() http.Header){
		"asked for behind the response": func(w http.ResponseWriter) func() http.Header { return w.Header },
		"asked for before it": func(w http.ResponseWriter) func() http.Header {
			h := w.Header()
			return func() http.Header { return h }
		},
	} {
		t.Run(about, func(t *testing.T) {
			seen := make(chan http.Header, 1)
			c := relaying(t, func(next http.Handler, w http.ResponseWriter, q *http.Request) {
				after := ask(w)
				next.ServeHTTP(w, q)
				seen <- maps.Clone(after())
			})
			for range 3 {
				p := c.Do(get)
				assert.Equal(t, want, <-seen)
				p.Header.Del("Date")
				assert.Equal(t, want, p.Header)
				assert.Equal(t, "ok", string(p.Content))
			}
		})
	}
}

func TestMiddlewareAddsToTheHeaderOfATarget(t *testing.T) {
	c := relaying(t, func(next http.Handler, w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/own" {
			w.Header().Set("X-Own", "1")
			w.Header().Set("X-Two", "0")
		}
		next.ServeHTTP(w, q)
		w.Header().Set("X-Late", "1") // too late
	})
	for range 3 {
		p := c.Do("GET /own HTTP/1.1\r\n" + host + "\r\n")
		assert.Equal(t, []string{"0", "1", "2"}, p.Header["X-Two"])
		assert.Equal(t, "1", p.Header.Get("X-Own"))
		p = c.Do(get)
		assert.Equal(t, []string{"1", "2"}, p.Header["X-Two"])
		assert.Empty(t, p.Header.Get("X-Own")+p.Header.Get("X-Late"))
	}
}

// A statusWriter is a middleware's ResponseWriter without an Unwrap method.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.Header().Set("X-Seen", "1")
	w.ResponseWriter.WriteHeader(status)
}

func TestAWriterOfMiddlewareSeesTheStatusBeforeTheClient(t *testing.T) {
	statuses := make(chan int, 1)
	c := relaying(t, func(next http.Handler, w http.ResponseWriter, q *http.Request) {
		s := &statusWriter{ResponseWriter: w}
		next.ServeHTTP(s, q)
		statuses <- s.status
	})
	p := c.Do(get)
	assert.Equal(t, 200, <-statuses)
	assert.Equal(t, "1", p.Header.Get("X-Seen"))
}

func TestARelayedHeadKeepsTheFramingOfTheTarget(t *testing.T) {
	for _, tt := range []struct{ method, answer, want string }{
		{"HEAD", "200 OK\r\nContent-Length: 5\r\n\r\n", "Content-Length: 5\r\n"},
		{"HEAD", "200 OK\r\n\r\n", ""},
		{"GET", "304 Not Modified\r\nContent-Length: 5\r\n\r\n", "Content-Length: 5\r\n"},
		{"GET", "204 No Content\r\nContent-Length: 0\r\n\r\n", ""},
		{"GET", "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "Transfer-Encoding: chunked\r\n"},
		{"GET", "200 OK\r\nContent-Length: 0\r\n\r\n", "Content-Length: 0\r\n"},
	} {
		t.Run(tt.method+" "+tt.answer, func(t *testing.T) {
			proxytest.NoLeaks(t)
			r := new(hostproxy.Router)
			r.Handle("a.test", hostproxy.To(proxytest.NewBackend(t, proxytest.Reply("HTTP/1.1 "+tt.answer)).Addr()))
			s := &hostproxy.Server{Router: r, Handler: http.HandlerFunc(r.ServeHTTP)}
			c := proxytest.Dial(t, proxytest.StartPlain(t, s).Plain)
			request := tt.method + " / HTTP/1.1\r\n" + host + "\r\n"
			c.Do(request)
			c.Send(request)
			assert.Regexp(t, `^HTTP/1.1 \d+ [A-Za-z ]+\r\nDate: [^\r]+\r\n`+tt.want+`\r\n$`, c.Head())
		})
	}
}

func TestAGoroutineThatMiddlewareLeavesRunningReachesNoOtherRequest(t *testing.T) {
	var left sync.WaitGroup
	c := relaying(t, func(next http.Handler, w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/leaves" {
			for _, late := range []func(){
				func() { w.Header() },
				func() { w.Write([]byte("late")) },
				func() { w.WriteHeader(500) },
				func() { hostproxy.ClientAddr(q) },
			} {
				left.Go(func() {
					for range 20 {
						late()
					}
				})
			}
		}
		next.ServeHTTP(w, q)
	})
	answers := 0
	for range 50 {
		for i, raw := range []string{"GET /leaves HTTP/1.1\r\n" + host + "\r\n", get, get, get} {
			_ = c.Conn.Send(raw)
			p, err := c.Conn.ReadResponse("GET")
			// what is written late may break its own response, which ends the
			// connection
			if err != nil {
				c = proxytest.Dial(t, c.Conn.RemoteAddr().String())
				break
			}
			if i > 0 {
				answers++
				assert.Equal(t, 200, p.StatusCode)
				assert.Equal(t, "ok", string(p.Content))
				assert.Equal(t, []string{"1", "2"}, p.Header["X-Two"])
			}
		}
		left.Wait()
	}
	assert.Greater(t, answers, 75, "most connections are used again")
}

// With middleware that does not use the Header, the client gets the order and
// case of the target's fields, as in the fast lane.
func TestTheOrderAndCaseOfARelayedHeadAreTheTargets(t *testing.T) {
	t.Parallel()
	fast, adapter := newFast(t, shape{}), newAdapter(t, shape{})
	const fields = "x-b: 1\r\nETAG: \"1\"\r\nContent-type: text/x\r\nX-a: 2\r\nx-B: 3\r\n"
	for name, raw := range map[string]string{
		"a body":  "HTTP/1.1 200 OK\r\n" + fields + sized("hello"),
		"chunks":  "HTTP/1.1 404 Not Found\r\n" + fields + "Transfer-Encoding: chunked\r\n\r\n" + chunked("hello", 3, "X-Sum: 1"),
		"no body": "HTTP/1.1 304 Not Modified\r\n" + fields + "\r\n",
	} {
		x := exchange{name: name, raw: request("GET /", "\r\n"), answer: answer{raw: raw}}
		names := fast.ask(t, &x)["down names"]
		assert.Regexp(t, `^x-b \| ETAG \| Content-type \| X-a \| x-B\b`, names, name)
		assert.Equal(t, names, adapter.ask(t, &x)["down names"], name)
	}
}
