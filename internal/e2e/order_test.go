package e2e_test

import (
	"context"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// fieldLines are the field lines of a request, but for those that every request gets from the proxy.
func fieldLines(raw string) string {
	var kept []string
	head, _, _ := strings.Cut(raw, "\r\n\r\n")
	for _, line := range strings.Split(head, "\r\n")[1:] {
		name, _, _ := strings.Cut(line, ":")
		switch name {
		case "", "Host", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-Ip", "Via":
		default:
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, ", ")
}

// What a hook or middleware does to the Header is done; what it leaves alone has the client's order and spelling.
func TestWhatHooksLeaveAloneKeepsTheOrderAndCaseOfTheClient(t *testing.T) {
	const sent = "x-b: 1\r\nACCEPT: a\r\nX-a: 2\r\nx-B: 3\r\nuser-agent: me\r\nx-empty:\r\n"
	edit := func(h http.Header) {
		h.Del("Accept")
		h["X-B"] = []string{"ours", "3", "more"}
		h.Set("X-A", "changed")
		h.Set("X-New", "1")
		h.Set("B-New", "2")
	}
	const edited = "x-b: ours, X-a: changed, x-B: 3, user-agent: me, x-empty: , B-New: 2, X-B: more, X-New: 1"
	for _, tt := range []struct {
		about  string
		change func(*hostproxy.Upstream)
		around func(q *http.Request)
		rest   string
		want   string
	}{
		{"Rewrite", func(u *hostproxy.Upstream) { u.Rewrite = func(p *httputil.ProxyRequest) { edit(p.Out.Header) } }, nil, "\r\n", edited},
		{"middleware", nil, func(q *http.Request) { edit(q.Header) }, "\r\n", edited},
		{"middleware and a body", nil, func(q *http.Request) { edit(q.Header) }, sized("hello"), edited + ", Content-Length: 5"},
		{"a Header of its own", nil, func(q *http.Request) { q.Header = http.Header{"X-A": {"1"}, "A": {"2"}} }, "\r\n", "X-a: 1, A: 2"},
		{"nothing", func(u *hostproxy.Upstream) { u.Rewrite = func(*httputil.ProxyRequest) {} }, func(*http.Request) {}, "\r\n",
			"x-b: 1, ACCEPT: a, X-a: 2, x-B: 3, user-agent: me, x-empty: "},
		{"an upgrade", nil, func(*http.Request) {}, "connection: X-A, upgrade\r\nUPGRADE: websocket\r\n\r\n",
			"x-b: 1, ACCEPT: a, x-B: 3, user-agent: me, x-empty: , connection: Upgrade, UPGRADE: websocket"},
	} {
		t.Run(tt.about, func(t *testing.T) {
			proxytest.NoLeaks(t)
			b := proxytest.NewBackend(t, proxytest.Reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
			u := hostproxy.To(b.Addr())
			if tt.change != nil {
				tt.change(u)
			}
			r := new(hostproxy.Router)
			r.Handle("a.test", u)
			s := &hostproxy.Server{Router: r}
			if tt.around != nil {
				s.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					tt.around(q)
					r.ServeHTTP(w, q)
				})
			}
			c := proxytest.Dial(t, proxytest.StartPlain(t, s).Plain)
			for range 2 {
				c.Do("POST / HTTP/1.1\r\n" + host + sent + tt.rest)
			}
			for _, q := range b.WaitRequests(2) {
				assert.Equal(t, tt.want, fieldLines(string(q.Raw)))
			}
		})
	}
}

// The names of a request are never those of another one on its connection, though handlers go on with the first.
func TestNoRequestHasTheNamesOfAnother(t *testing.T) {
	proxytest.NoLeaks(t)
	b := proxytest.NewBackend(t, proxytest.Reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	r := new(hostproxy.Router)
	r.Handle("a.test", hostproxy.To(b.Addr()))
	var left sync.WaitGroup
	s := &hostproxy.Server{Router: r, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.ServeHTTP(w, q)
		late := q.WithContext(context.WithoutCancel(q.Context()))
		left.Go(func() { r.ServeHTTP(&nowhere{h: http.Header{}}, late) })
	})}
	c := proxytest.Dial(t, proxytest.StartPlain(t, s).Plain)
	names := []string{"x-long-name", "X-Long-NAME", "X-LONG-name", "x-Long-namE"}
	var all strings.Builder
	for i := range 40 {
		all.WriteString("GET / HTTP/1.1\r\n" + host + names[i%4] + ": " + names[i%4] + "\r\naccept: " + names[i%4] + "\r\n\r\n")
	}
	c.Send(all.String())
	for range 40 {
		assert.Equal(t, 200, c.Response("GET").StatusCode)
	}
	left.Wait()
	for _, q := range b.Requests() {
		name, value, _ := strings.Cut(fieldLines(string(q.Raw)), ", ")
		spelled, _, _ := strings.Cut(name, ": ")
		assert.Equal(t, spelled+": "+spelled, name)
		assert.Equal(t, "accept: "+spelled, value)
	}
}

// A nowhere is a ResponseWriter of nobody.
type nowhere struct{ h http.Header }

func (n *nowhere) Header() http.Header         { return n.h }
func (n *nowhere) WriteHeader(int)             {}
func (n *nowhere) Write(p []byte) (int, error) { return len(p), nil }
