package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// halves are request heads of several kinds, each in two parts, with their
// bodies. Read-only.
var halves = []struct{ about, first, rest string }{
	{"GET", "GET /late HTTP/1.1\r\nHo", "st: a.test\r\n\r\n"},
	{"POST", "POST /late HTTP/1.1\r\n" + host + "Content-Le", "ngth: 5\r\n\r\nhello"},
	{"a method and no more", "G", "ET /late HTTP/1.1\r\n" + host + "\r\n"},
	{"PROPFIND", "PROPFIND /late HTTP/1.1\r\n" + host, "\r\n"},
	{"an expectation", "POST /late HTTP/1.1\r\n" + host + "Expect: 100-continue\r\n", "Content-Length: 5\r\n\r\nhello"},
	{"an upgrade", "GET /late HTTP/1.1\r\n" + host + "Connection: Upgrade\r\nUpgrade: h2c\r\n", "\r\n"},
	{"an absolute target", "GET http://a.test/late HTTP/1.1\r\n" + host, "\r\n"},
	{"HTTP/1.0", "GET /late HTTP/1.0\r\n" + host, "\r\n"},
}

// An incomplete head is answered with 408, regardless of its kind, its route,
// and earlier requests.
func TestALateHeadIs408(t *testing.T) {
	t.Parallel()
	for _, p := range places() {
		p.shape.tune = func(s *hostproxy.Server) { s.ReadHeaderTimeout = patient }
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			k := p.start(t)
			k.records = nil
			k.mirror.answer.Store(&say)
			type late struct {
				about string
				*proxytest.Conn
			}
			var all []late
			send := func(about string, first ...string) {
				for _, h := range halves {
					c := k.connect(t)
					p.opens(t, c, first)
					require.NoError(t, c.Send(h.first))
					all = append(all, late{h.about + ", " + about, c})
				}
			}
			send("as the first request")
			send("behind a plain one", opening)
			for _, o := range openings {
				send("behind "+o.about, o.raw)
			}
			enough := time.Now().Add(proxytest.Patience)
			for _, c := range all {
				// a connection that hangs must not use up the time of the
				// others
				_ = c.SetDeadline(time.Now().Add(max(moment, time.Until(enough))))
				answer, err := c.ReadAll()
				assert.NoError(t, err, "%s: the connection is closed", c.about)
				assert.Equal(t, "408", statusesOf(answer), c.about)
			}
			assert.Empty(t, k.heard())
		})
	}
}

// A request whose head has begun when the shutdown starts is answered,
// regardless of its kind. Then its connection is closed.
func TestAHalfSentHeadIsAnsweredInADrain(t *testing.T) {
	t.Parallel()
	for _, p := range places() {
		p.shape.tally = true
		for _, first := range [][]string{nil, {opening}, {openings[2].raw}} {
			t.Run(fmt.Sprintf("%s, behind %d requests %.5s", p.name, len(first), strings.Join(first, "")), func(t *testing.T) {
				t.Parallel()
				k := p.start(t)
				k.records = nil
				k.mirror.answer.Store(&say)
				conns := make([]*proxytest.Conn, len(halves))
				for i, h := range halves {
					conns[i] = k.connect(t)
					p.opens(t, conns[i], first)
					require.NoError(t, conns[i].Send(p.with(h.first)))
				}
				k.tally.await(t)
				k.running.Drain()
				proxytest.Eventually(t, "the end of listening", func() bool { return refusesConns(k.addr) })
				for i, h := range halves {
					// fails if the server no longer waits for it
					_ = conns[i].Send(p.with(h.first + h.rest)[len(p.with(h.first)):])
					answer, err := conns[i].ReadAll()
					assert.NoError(t, err, "%s: the connection is closed", h.about)
					assert.Contains(t, []string{itoa(p.usual), "100, " + itoa(p.usual)}, statusesOf(answer), h.about)
				}
				assert.NoError(t, k.running.Stop(), "no request is left")
			})
		}
	}
}
