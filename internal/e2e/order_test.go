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

// fieldLines returns the field lines of a request, without those that the proxy
// adds to every request.
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

// Changes of the Header by hooks and middleware apply; other fields keep the
// client's order and spelling.
func TestFieldsThatHooksDoNotChangeKeepTheClientsOrderAndCase(t *testing.T) {
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

// A request never gets the names of another one on its connection, even if a
// handler still uses the first.
func TestNoRequestGetsTheFieldNamesOfAnother(t *testing.T) {
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

// Changes of a response's Header by hooks and middleware apply; other fields
// keep the target's order and spelling, if our ResponseWriter can be found by
// Unwrap.
func TestFieldsThatHooksDoNotChangeKeepTheTargetsOrderAndCase(t *testing.T) {
	const sent = "x-b: 1\r\nETAG: \"1\"\r\nX-a: 2\r\nx-B: 3\r\n"
	const whole = "x-b: 1, ETAG: \"1\", X-a: 2, x-B: 3"
	modify := func(u *hostproxy.Upstream) {
		u.ModifyResponse = func(res *http.Response) error {
			res.Header.Del("Etag")
			res.Header["X-B"] = []string{"ours", "3", "more"}
			res.Header.Set("X-New", "1")
			return nil
		}
	}
	none := func(w http.ResponseWriter) http.ResponseWriter { return w }
	for _, tt := range []struct {
		about  string
		change func(*hostproxy.Upstream)
		around func(http.ResponseWriter) http.ResponseWriter
		want   string
	}{
		{"nothing", func(*hostproxy.Upstream) {}, none, whole},
		{"ModifyResponse", modify, none, "x-b: ours, X-a: 2, x-B: 3, X-B: more, X-New: 1"},
		{"HSTS and an edit", func(u *hostproxy.Upstream) {
			u.ResponseHeader = hostproxy.HeaderEdit{Remove: []string{"X-B"}, Set: http.Header{"Etag": {"2"}}, Add: http.Header{"B": {"1"}, "X-A": {"3"}}}
			u.ModifyResponse = func(*http.Response) error { return nil }
		}, none, "X-a: 2, Etag: 2, B: 1, X-A: 3"},
		{"a Header that has been asked for", func(*hostproxy.Upstream) {}, func(w http.ResponseWriter) http.ResponseWriter {
			w.Header().Set("A-First", "1")
			return w
		}, whole + ", A-First: 1"},
		{"a writer that unwraps", func(*hostproxy.Upstream) {}, func(w http.ResponseWriter) http.ResponseWriter { return unwrapping{w} }, whole},
		{"a writer that does not", func(*hostproxy.Upstream) {}, func(w http.ResponseWriter) http.ResponseWriter { return &statusWriter{ResponseWriter: w} },
			"Etag: \"1\", X-A: 2, X-B: 1, X-B: 3, X-Seen: 1"},
	} {
		t.Run(tt.about, func(t *testing.T) {
			proxytest.NoLeaks(t)
			const early = "HTTP/1.1 103 Early Hints\r\n" + sent + "\r\n"
			b := proxytest.NewBackend(t, proxytest.Reply(early+"HTTP/1.1 200 OK\r\n"+sent+"Date: x\r\nContent-Length: 2\r\n\r\nok"))
			u := hostproxy.To(b.Addr())
			tt.change(u)
			r := new(hostproxy.Router)
			r.Handle("a.test", u)
			s := &hostproxy.Server{Router: r, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { r.ServeHTTP(tt.around(w), q) })}
			c := proxytest.Dial(t, proxytest.StartPlain(t, s).Plain)
			for range 3 {
				c.Send(get)
				if tt.about != "a writer that does not" { // it gets no interim responses
					c.Head()
				}
				head := strings.Replace(c.Head(), "Date: x\r\nContent-Length: 2\r\n", "", 1)
				head = strings.Replace(head, "Content-Length: 2\r\n", "", 1)
				lines := strings.Split(strings.Trim(strings.Replace(head, "Date: x\r\n", "", 1), "\r\n"), "\r\n")
				assert.Equal(t, tt.want, strings.Join(lines[1:], ", "))
				c.Expect("ok")
			}
		})
	}
}

// An unwrapping is a middleware's ResponseWriter with an Unwrap method.
type unwrapping struct{ http.ResponseWriter }

func (u unwrapping) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// A nowhere is a ResponseWriter that writes nowhere.
type nowhere struct{ h http.Header }

func (n *nowhere) Header() http.Header         { return n.h }
func (n *nowhere) WriteHeader(int)             {}
func (n *nowhere) Write(p []byte) (int, error) { return len(p), nil }
