package e2e_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// answerers returns places that answer without reading a body.
func answerers() []place {
	no := &hostproxy.RateLimit{Rate: 1, Limiter: limiter(func(context.Context, netip.Addr) (hostproxy.Quota, error) {
		return hostproxy.Quota{Retry: time.Second}, nil
	})}
	status := handling(func(r *hostproxy.Router, _ *hostproxy.Upstream) http.Handler { return hostproxy.StatusHandler(r) })
	foreign := handling(func(*hostproxy.Router, *hostproxy.Upstream) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusTeapot) })
	})
	asking := handling(func(_ *hostproxy.Router, u *hostproxy.Upstream) http.Handler {
		no := hostproxy.To("localhost:1")
		no.Deny = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		return &hostproxy.ForwardAuth{Auth: no, Next: u}
	})
	denied := shape{change: func(u *hostproxy.Upstream) { u.Deny = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} }}
	limited := shape{change: func(u *hostproxy.Upstream) { u.RateLimit = no }}
	down := shape{change: func(u *hostproxy.Upstream) { _ = u.Maintain(hostproxy.Page{}) }}
	return []place{
		{name: "an unknown host", front: newFast, shape: elsewhere(), usual: 404},
		{name: "an unknown host behind middleware", front: newAdapter, shape: elsewhere(), usual: 404},
		{name: "a redirect", front: newFast, shape: redirecting(), usual: 308},
		{name: "a redirect over TLS", front: newFast, shape: secured(redirecting()), usual: 308},
		{name: "no password", front: newFast, shape: guarded(), usual: 401},
		{name: "a no of the authentication server", front: newFast, shape: asking, usual: 403},
		{name: "a limit of the Router", front: newFast, shape: shape{limit: no}, usual: 429},
		{name: "a limit of the upstream", front: newFast, shape: limited, usual: 429},
		{name: "a limit of the upstream behind middleware", front: newAdapter, shape: limited, usual: 429},
		{name: "a denied client", front: newFast, shape: denied, usual: 403},
		{name: "maintenance", front: newFast, shape: down, usual: 503},
		{name: "the status page", front: newFast, shape: status, usual: 405},
		{name: "a foreign handler", front: newFast, shape: foreign, usual: 418},
		{name: "the port of challenges", front: newChallenges, usual: 308},
	}
}

// promises are the ends of heads that announce a body, and the body. Read-only.
var promises = []struct{ about, head, body string }{
	{"a body", "Content-Length: 1000\r\n\r\n", strings.Repeat("x", 1000)},
	{"a chunked body", "Transfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"},
	{"a large body", "Content-Length: 1000000\r\n\r\n", ""},
	{"a body that waits to be asked for", "Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n", ""},
	{"a chunked body that waits to be asked for", "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n", ""},
}

// soon is how long a response may take that needs nothing more from the client.
// It is far below the default DrainTimeout.
const soon = 5 * time.Second

// A response that does not depend on the request's body is sent before the body
// arrives, without 100 Continue. If the body never arrives, the connection is
// closed.
func TestAResponseDoesNotWaitForAnUnreadBody(t *testing.T) {
	t.Parallel()
	for _, p := range answerers() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			k := p.start(t)
			k.records = nil
			conns := make([]*proxytest.Conn, len(promises))
			for i, promise := range promises {
				conns[i] = k.connect(t)
				require.NoError(t, conns[i].Send(request("POST /", promise.head)))
			}
			for i, promise := range promises {
				_ = conns[i].SetDeadline(time.Now().Add(soon))
				a, err := conns[i].ReadResponse("POST")
				if assert.NoError(t, err, "%s: an answer before the body", promise.about) {
					assert.Equal(t, p.usual, a.StatusCode, promise.about)
				} else {
					conns[i] = nil
				}
			}
			for i, promise := range promises {
				if conns[i] != nil {
					_ = conns[i].SetDeadline(time.Now().Add(proxytest.Patience))
					rest, err := conns[i].ReadAll()
					assert.NoError(t, err, "%s that does not come: the connection is closed", promise.about)
					assert.Empty(t, rest, "%s: one answer", promise.about)
				}
			}
			assert.Empty(t, k.mirror.taken())
		})
	}
}

// If a short body arrives after such a response, the next request on the same
// connection is answered.
func TestAShortBodyAfterItsResponseKeepsTheConnection(t *testing.T) {
	t.Parallel()
	for _, p := range answerers() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			k := p.start(t)
			k.records = nil
			for _, promise := range promises[:2] {
				once(t, promise.about+": an answer to the request behind it", func() bool {
					c := k.connect(t)
					defer c.Close()
					_ = c.SetDeadline(time.Now().Add(soon))
					require.NoError(t, c.Send(request("POST /", promise.head)))
					a, err := c.ReadResponse("POST")
					if err != nil || a.Close {
						return false
					}
					_ = c.Send(promise.body + get) // fails if the connection is closed
					_, err = c.ReadResponse("GET")
					return err == nil
				})
			}
		})
	}
}

// Such a response is sent immediately, without a wait for a pause of the
// client.
func TestAnAnswerIsSentWithin100Milliseconds(t *testing.T) {
	t.Parallel()
	for _, p := range answerers() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			k := p.start(t)
			k.records = nil
			for _, promise := range promises {
				once(t, promise.about+": an answer within 100 ms", func() bool {
					c := k.connect(t)
					defer c.Close()
					require.NoError(t, c.Send(get)) // so that the handshake does not count
					_, err := c.ReadResponse("GET")
					require.NoError(t, err)
					began := time.Now()
					require.NoError(t, c.Send(request("POST /", promise.head)))
					a, err := c.ReadResponse("POST")
					return err == nil && a.StatusCode == p.usual && time.Since(began) <= 100*time.Millisecond
				})
			}
		})
	}
}

// A client that sends without end after its response, slowly or fast, does not
// keep its connection for long.
func TestAnEndlessBodyAfterItsResponseEndsTheConnection(t *testing.T) {
	t.Parallel()
	const bound = 32 << 20 // above the size of socket buffers and of what the proxy reads
	page := strings.Repeat("x", 64<<10)
	for _, tt := range []struct {
		name, raw, part string
		pause           time.Duration
		status          int
	}{
		{"a slow body", request("POST /", "Content-Length: 200000\r\n\r\n"), "x", moment / 2, 403},
		{"a slow chunked body", request("POST /", "Transfer-Encoding: chunked\r\n\r\n"), "1\r\nx\r\n", moment / 2, 403},
		{"a fast chunked body", request("POST /", "Transfer-Encoding: chunked\r\n\r\n"), "10000\r\n" + page + "\r\n", 0, 403},
		{"a fast body", request("POST /", "Content-Length: 9000000000\r\n\r\n"), page, 0, 403},
		{"slow bytes behind a refusal", "GET / HTTP/1.1\r\nHost : a.test\r\n\r\n", "x", moment / 2, 400},
		{"fast bytes behind a refusal", "GET / HTTP/1.1\r\nHost : a.test\r\n\r\n", page, 0, 400},
	} {
		for _, start := range []func(testing.TB, shape) *track{newFast, newAdapter} {
			k := start(t, shape{change: func(u *hostproxy.Upstream) { u.Deny = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} }})
			t.Run(tt.name+", "+k.name, func(t *testing.T) {
				t.Parallel()
				k.records = nil
				c := k.connect(t)
				_ = c.SetDeadline(time.Now().Add(proxytest.Patience))
				require.NoError(t, c.Send(tt.raw))
				a, err := c.ReadResponse("POST")
				require.NoError(t, err)
				assert.Equal(t, tt.status, a.StatusCode)
				sent := 0
				for err == nil && sent < bound {
					err = c.Send(tt.part)
					sent += len(tt.part)
					dawdle(tt.pause)
				}
				assert.Error(t, err, "the connection is closed")
				assert.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the connection is closed")
			})
		}
	}
}

// once checks that try succeeds once in a few tries. Tries in which the machine
// stood still do not count: it may stand still for longer than the proxy waits.
func once(t testing.TB, what string, try func() bool) {
	t.Helper()
	stills := proxytest.WatchStandstills(t)
	for tries, all := 0, 0; tries < 4 && all < 20; all++ {
		before := stills.Total()
		if try() {
			return
		}
		if stills.Total() == before {
			tries++
		}
	}
	assert.Fail(t, "never succeeds: "+what)
}

// The body may be slow, as long as some bytes arrive.
func TestASlowShortBodyAfterItsResponseKeepsTheConnection(t *testing.T) {
	t.Parallel()
	for _, start := range []func(testing.TB, shape) *track{newFast, newAdapter} {
		k := start(t, shape{change: func(u *hostproxy.Upstream) { u.Deny = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} }})
		k.records = nil
		once(t, k.name+": an answer to the request behind it", func() bool {
			c := k.connect(t)
			defer c.Close()
			require.NoError(t, c.Send(request("POST /", "Content-Length: 80\r\n\r\n")))
			if a, err := c.ReadResponse("POST"); err != nil || a.StatusCode != 403 || a.Close {
				return false
			}
			for range 8 { // longer in total than the proxy waits for one piece
				dawdle(moment / 2)
				_ = c.Send("0123456789")
			}
			_ = c.Send(request("GET /", "\r\n"))
			_, err := c.ReadResponse("GET")
			return err == nil
		})
	}
}

// A recorded connection keeps all bytes that are read from it.
type recorded struct {
	net.Conn
	bytes []byte
}

func (h *recorded) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	h.bytes = append(h.bytes, p[:n]...)
	return n, err
}

// alerts counts the records of a TLS 1.2 connection that are alerts (RFC 5246,
// 6.2.1).
func (h *recorded) alerts() (n int) {
	for b := h.bytes; len(b) >= 5; b = b[min(len(b), 5+int(b[3])<<8+int(b[4])):] {
		if b[0] == 21 {
			n++
		}
	}
	return n
}

// A truncated response ends without a close_notify, which a complete one has.
func TestACutResponseEndsWithoutACloseNotify(t *testing.T) {
	t.Parallel()
	for what, alerts := range map[string]int{
		"Content-Length: 100\r\n\r\nhello": 0, "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n": 0, "Content-Length: 5\r\n\r\nhello": 1,
	} {
		for _, start := range []func(testing.TB, shape) *track{newFast, newAdapter} {
			k := start(t, shape{secure: true})
			k.mirror.answer.Store(&answer{raw: "HTTP/1.1 200 OK\r\n" + what, close: true})
			nc, err := net.Dial("tcp", k.addr)
			require.NoError(t, err)
			defer nc.Close()
			client := &recorded{Conn: nc}
			conf := k.tls.Clone()
			conf.MaxVersion = tls.VersionTLS12
			c := tls.Client(client, conf)
			_, err = io.WriteString(c, request("GET /", "Connection: close\r\n\r\n"))
			require.NoError(t, err)
			got, _ := io.ReadAll(c)
			assert.Contains(t, string(got), "hello", "%s: %s", k.name, what)
			assert.Equal(t, alerts, client.alerts(), "%s: %s", k.name, what)
		}
	}
}
