package e2e_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// connectTo opens a stream with an extended CONNECT, or with a plain one if
// protocol is "".
func (p *h2) connectTo(protocol string) error {
	pairs := []string{":method", "CONNECT"}
	if protocol != "" {
		pairs = append(pairs, ":protocol", protocol, ":scheme", "https", ":path", "/ws", ":authority", "a.test", "sec-websocket-version", "13")
	} else {
		pairs = append(pairs, ":authority", "a.test:443")
	}
	return p.ask(1, false, pairs...)
}

// CVE-2026-71324 and forwarding.md, Framing: CONNECT is refused, plain and
// extended, except for allowed upgrade protocols. If the upstream has not
// switched there is no tunnel (CVE-2024-23326), so the client must not get a
// 2xx, which would mean one (RFC 8441, 5).
func TestExtendedConnectIsATunnelOnlyBehind101(t *testing.T) {
	const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n"
	for _, tt := range []struct{ about, protocol, answer, outcome string }{
		{"switched", "websocket", switching, "200"},
		{"answered by 200", "websocket", "HTTP/1.1 200 OK\r\nConnection: close\r\n" + sized("ok"), "502"},
		{"answered by 204", "websocket", "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", "502"},
		{"answered by 403", "websocket", "HTTP/1.1 403 No\r\nConnection: close\r\n" + sized(""), "403"},
		{"switched to something else", "websocket", strings.Replace(switching, "websocket", "tcp", 1), "502"},
		{"switched without having read the key", "websocket", strings.Replace(switching, "ACCEPT", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", 1), "502"},
		{"another protocol", "connect-udp", switching, "501"},
		{"no protocol", "", switching, "501"},
	} {
		t.Run(tt.about, func(t *testing.T) {
			var behind string
			done := make(chan struct{})
			backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
				defer close(done)
				if q, err := c.ReadRequest(); err == nil && c.Send(strings.Replace(tt.answer, "ACCEPT", proxytest.Accept(q.Header), 1)) == nil {
					behind, _ = c.ReadString(len("ping"))
					_ = c.Send("pong")
				}
			})
			k := newFast(t, shape{secure: true, change: func(u *hostproxy.Upstream) { u.Targets[0].Host = backend.Addr() }})
			p := newH2(t, k)
			p.listen()
			require.NoError(t, p.connectTo(tt.protocol))
			require.Equal(t, tt.outcome, p.outcome(t, 1))
			if tt.outcome == "501" {
				assert.Zero(t, backend.Conns(), "no target gets the request")
				return
			}
			if tt.outcome != "200" {
				p.c.Close()
				<-done
				assert.Empty(t, behind, "nothing is tunnelled")
				return
			}
			require.NoError(t, p.WriteData(1, false, []byte("ping")))
			<-done
			assert.Equal(t, "ping", behind)
			raw := backend.Requests()[0].Raw
			assert.Equal(t, "GET /ws HTTP/1.1", lines(raw)[0])
			assert.Equal(t, []string{"websocket"}, field(raw, "Upgrade"))
			assert.NotEmpty(t, field(raw, "Sec-WebSocket-Key"))
			assert.NotContains(t, string(raw), ":protocol")
		})
	}
}

// CVE-2026-33814 and similar: upstreams that break HTTP/2.
func TestHostileHTTP2UpstreamsAre502(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		about string
		says  func(f *http2.Framer)
	}{
		{"frames of no size", func(f *http2.Framer) { _ = f.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 0}) }},
		{"a window beyond the limit", func(f *http2.Framer) {
			_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
		}},
		{"no settings first", func(f *http2.Framer) { _ = f.WritePing(false, [8]byte{}) }},
		{"no header block that ends", func(f *http2.Framer) {
			_ = f.WriteSettings()
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x88}})
			for range 10_000 {
				if f.WriteContinuation(1, false, []byte{0x40, 1, 'a', 1, 'b'}) != nil {
					return
				}
			}
		}},
		{"a reset", func(f *http2.Framer) { _ = f.WriteSettings(); _ = f.WriteRSTStream(1, http2.ErrCodeInternal) }},
		{"HTTP/1.1", nil},
	} {
		t.Run(tt.about, func(t *testing.T) {
			t.Parallel()
			backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
				if tt.says == nil {
					_ = c.Send(ok)
				} else {
					tt.says(http2.NewFramer(c.Conn, nil))
				}
				_, _ = c.ReadAll()
			})
			u := hostproxy.To("h2c://" + backend.Addr())
			u.ResponseHeaderTimeout = 4 * moment
			r := hostproxy.Router{Logger: silent()}
			r.Handle("a.test", u)
			c := proxytest.Dial(t, proxytest.StartPlain(t, &hostproxy.Server{Router: &r}).Plain)
			start := time.Now()
			assert.Contains(t, []int{502, 504}, c.Do("POST / HTTP/1.1\r\nHost: a.test\r\n"+sized("")).StatusCode)
			assert.Less(t, time.Since(start), proxytest.Patience)
		})
	}
}
