package e2e_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A crowd counts the requests at a backend that answers only /probe.
type crowd struct {
	come, here, most atomic.Int64
}

func (w *crowd) serve(c *proxytest.BackendConn) {
	for {
		head, err := c.ReadHead()
		if err != nil {
			return
		}
		if strings.HasPrefix(head, "GET /probe ") {
			_ = c.Send(ok)
			continue
		}
		here := w.here.Add(1)
		for most := w.most.Load(); here > most && !w.most.CompareAndSwap(most, here); most = w.most.Load() {
		}
		w.come.Add(1)
		_, _ = c.ReadAll() // until the proxy gives up
		w.here.Add(-1)
	}
}

// CVE-2023-44487, CVE-2025-8671: however a client ends its streams to open
// others, their requests end at the backend too. The client ends them only when
// the backend has them: a stream that ends earlier never gets there.
func TestStreamsThatAreResetLeaveTheBackend(t *testing.T) {
	t.Parallel()
	const rounds, each = 5, 100
	get := func(p *h2, stream uint32) error { return p.ask(stream, true, ordinary...) }
	post := func(p *h2, stream uint32) error {
		return p.ask(stream, false, ":method", "POST", ":scheme", "https", ":authority", "a.test", ":path", "/", "content-length", "1")
	}
	for _, tt := range []struct {
		about      string
		open, over func(p *h2, stream uint32) error
	}{
		{"reset", get, func(p *h2, stream uint32) error { return p.WriteRSTStream(stream, http2.ErrCodeCancel) }},
		{"a window update of nothing", get, func(p *h2, stream uint32) error { return p.WriteWindowUpdate(stream, 0) }},
		{"a window that overflows", get, func(p *h2, stream uint32) error { return p.WriteWindowUpdate(stream, 1<<31-1) }},
		{"data behind the end", get, func(p *h2, stream uint32) error { return p.WriteData(stream, false, []byte("x")) }},
		{"a head behind the end", get, func(p *h2, stream uint32) error { return p.ask(stream, true, "x-sum", "1") }},
		{"a stream that depends on itself", get, func(p *h2, stream uint32) error {
			return p.WritePriority(stream, http2.PriorityParam{StreamDep: stream})
		}},
		{"a body that is too long", post, func(p *h2, stream uint32) error { return p.WriteData(stream, false, []byte("xx")) }},
		{"trailers without end", post, func(p *h2, stream uint32) error { return p.ask(stream, false, "x-sum", "1") }},
	} {
		t.Run(tt.about, func(t *testing.T) {
			w := new(crowd)
			backend := proxytest.NewBackend(t, w.serve)
			k := newFast(t, shape{secure: true, change: func(u *hostproxy.Upstream) { u.Targets[0].Host = backend.Addr() }})
			k.records = nil
			p := newH2(t, k)
			p.listen()
			for round := range rounds { // until the server sends GOAWAY
				_ = p.c.SetDeadline(time.Now().Add(proxytest.Patience)) // for each round
				first := uint32(2*each*round + 1)
				for i := range uint32(each) {
					_ = tt.open(p, first+2*i)
				}
				told := false
				proxytest.Eventually(t, "the requests to be at the backend", func() bool {
					told = told || p.told()
					return told || w.come.Load() == int64(each*(round+1))
				})
				if told {
					break
				}
				for i := range uint32(each) {
					_ = tt.over(p, first+2*i)
				}
			}
			assert.GreaterOrEqual(t, w.come.Load(), int64(each))
			proxytest.Eventually(t, "the requests at the backend to end", func() bool { return w.here.Load() == 0 })
			assert.LessOrEqual(t, w.most.Load(), int64(300), "requests at a time: MaxConcurrentStreams is 250")

			again := newH2(t, k)
			again.listen()
			require.NoError(t, again.ask(1, true, ":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/probe"))
			assert.Equal(t, "200", again.outcome(t, 1), "others are served as before")
		})
	}
}
