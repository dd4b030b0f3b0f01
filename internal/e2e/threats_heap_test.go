package e2e_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// held returns the bytes of heap in use.
func held() int64 {
	runtime.GC()
	runtime.GC() // objects in a sync.Pool survive the first one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// growth returns the largest growth of the heap while f ran and immediately
// after it. Objects that f leaves count. It measures the whole process, so it
// is not for parallel tests.
//
// Objects that are allocated during a collection survive it, even garbage.
// Collections run often here, so there are few such objects.
func growth(f func()) int64 {
	defer debug.SetGCPercent(debug.SetGCPercent(25))
	before := held()
	over := make(chan struct{})
	var watch sync.WaitGroup
	most := before
	watch.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		// the live heap after the last collection
		sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		for {
			select {
			case <-tick.C:
				metrics.Read(sample)
				most = max(most, int64(sample[0].Value.Uint64()))
			case <-over:
				return
			}
		}
	})
	f()
	close(over)
	watch.Wait()
	return max(most, held()) - before
}

// write writes a header list in as many frames as necessary.
func (p *h2) write(stream uint32, block []byte) error {
	const room = 16 << 10 // of a frame
	n := min(len(block), room)
	err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block[:n], EndStream: true, EndHeaders: n == len(block)})
	for block = block[n:]; err == nil && len(block) > 0; block = block[n:] {
		n = min(len(block), room)
		err = p.WriteContinuation(stream, n == len(block), block[:n])
	}
	return err
}

// CVE-2016-6581, CVE-2023-45288 and similar: header lists that cost more than
// their size are refused, and are not built first.
func TestHeaderListsThatCostTooMuchMemoryAreNotBuilt(t *testing.T) {
	for _, tt := range []struct {
		about string
		block func(p *h2) []byte
		lists int
	}{
		{"one big field, 12,000 times", func(p *h2) []byte {
			b := p.fields(append(ordinary, "x-bomb", strings.Repeat("v", 3900))...)
			// the newest entry of the dynamic table: 46 MB
			return append(b, bytes.Repeat([]byte{0x80 | 62}, 12_000)...)
		}, 100},
		{"10,000 fields", func(p *h2) []byte {
			pairs := append([]string(nil), ordinary...)
			for i := range 10_000 {
				pairs = append(pairs, "x-"+itoa(i), "v")
			}
			return p.fields(pairs...)
		}, 10},
	} {
		t.Run(tt.about, func(t *testing.T) {
			k := newFast(t, shape{secure: true})
			k.records = nil
			k.mirror.answer.Store(&say)
			grown := growth(func() {
				p := newH2(t, k)
				p.listen()
				for i := range tt.lists {
					stream := uint32(2*i + 1)
					if err := p.write(stream, tt.block(p)); err != nil {
						return // cut
					}
					outcome := p.outcome(t, stream)
					assert.Contains(t, []string{"431", "reset", "closed"}, outcome)
					if outcome == "closed" {
						return
					}
				}
			})
			assert.Less(t, grown, int64(8<<20))
			assert.Empty(t, k.mirror.taken())
		})
	}
}

// CVE-2021-44716: names of fields that clients invent are not kept.
func TestNamesOfFieldsAreNotRemembered(t *testing.T) {
	const requests, names = 1000, 90
	for _, protocol := range []string{"h2", "h1"} {
		t.Run(protocol, func(t *testing.T) {
			k := newFast(t, shape{secure: true})
			k.records = nil
			k.mirror.answer.Store(&say)
			fresh := 0
			next := func(pairs []string) []string {
				pairs = append([]string(nil), pairs...)
				for range names {
					fresh++
					pairs = append(pairs, "x-"+strings.Repeat("n", 20)+itoa(fresh), "v")
				}
				return pairs
			}
			var ask func(i int)
			if protocol == "h2" {
				p := newH2(t, k)
				p.listen()
				ask = func(i int) {
					stream := uint32(2*i + 1)
					require.NoError(t, p.write(stream, p.fields(next(ordinary)...)))
					require.Equal(t, "200", p.outcome(t, stream))
				}
			} else {
				c := k.connect(t)
				ask = func(int) {
					var head strings.Builder
					head.WriteString("GET / HTTP/1.1\r\nHost: a.test\r\n")
					pairs := next(nil)
					for i := 0; i < len(pairs); i += 2 {
						head.WriteString(pairs[i] + ": " + pairs[i+1] + "\r\n")
					}
					require.NoError(t, c.Send(head.String()+"\r\n"))
					q, err := c.ReadResponse("GET")
					require.NoError(t, err)
					require.Equal(t, 200, q.StatusCode)
				}
			}
			ask(0)
			before := held() // not growth: only objects that stay count
			for i := range requests {
				ask(i + 1)
				require.Len(t, k.mirror.taken(), 1+(requests-i)/requests) // plus the first one
			}
			assert.Less(t, held()-before, int64(4<<20), "%d names", requests*names)
		})
	}
}

// CVE-2019-9512, -9513, -9515, -9518: a client that sends many cheap frames and
// reads nothing is cut off.
func TestAFloodOfSmallFramesCostsNoMemory(t *testing.T) {
	const frames = 200_000
	tests := []struct {
		about string
		once  func(p *h2, i uint32) error
	}{
		{"pings", func(p *h2, i uint32) error { return p.WritePing(false, [8]byte{byte(i)}) }},
		{"settings", func(p *h2, i uint32) error {
			return p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: i})
		}},
		{"priorities", func(p *h2, i uint32) error {
			return p.WritePriority(2*i+1, http2.PriorityParam{StreamDep: 2*i + 3})
		}},
		{"empty data", func(p *h2, i uint32) error {
			if i == 0 {
				return p.ask(1, false, ":method", "POST", ":scheme", "https", ":authority", "a.test", ":path", "/")
			}
			return p.WriteData(1, false, nil)
		}},
		{"data for a stream that is closed", func(p *h2, i uint32) error {
			if i == 0 {
				return p.ask(3, true, ordinary...) // closes stream 1
			}
			return p.WriteData(1, false, nil)
		}},
		{"window updates", func(p *h2, i uint32) error { return p.WriteWindowUpdate(0, 1) }},
	}
	// in parallel: mostly, a server waits until its last frame is read
	tracks, clients := make([]*track, len(tests)), make([]*h2, len(tests))
	for i := range tests {
		k, g := newDammed(t, shape{secure: true})
		tracks[i], clients[i] = k, newH2(t, k)
		(<-g.dams).shut.Store(true)
	}
	grown := growth(func() {
		t.Run("flood", func(t *testing.T) {
			for i, tt := range tests {
				t.Run(tt.about, func(t *testing.T) {
					t.Parallel()
					assert.True(t, clients[i].drown(t, tracks[i], frames, tt.once), "the connection is cut")
				})
			}
		})
	})
	assert.Less(t, grown, int64(2<<20), "by all of them")
	for i, tt := range tests {
		clients[i].c.Close()
		again := newH2(t, tracks[i])
		again.listen()
		require.NoError(t, again.ask(1, true, ordinary...))
		assert.Equal(t, "200", again.outcome(t, 1), "%s: others are served as before", tt.about)
	}
}

// drown sends frames, reads nothing, and reports whether the connection was
// cut. When drown returns, the server has read the frames. It sends from one
// buffer: garbage of the client would count as growth.
func (p *h2) drown(t testing.TB, k *track, frames uint32, once func(p *h2, i uint32) error) (cut bool) {
	t.Helper()
	var out bytes.Buffer
	p.Framer = http2.NewFramer(&out, p.c.Conn)
	p.AllowIllegalWrites = true
	for i := range frames {
		require.NoError(t, once(p, i))
		if out.Len() < 16<<10 && i < frames-1 {
			continue
		}
		if _, err := out.WriteTo(p.c); err != nil {
			return true
		}
	}
	k.mirror.taken()
	require.NoError(t, p.ask(1<<31-1, true, ":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/last"))
	last := out.String()
	proxytest.Eventually(t, "the last request, or the end", func() bool {
		if p.c.Send(last) != nil {
			cut = true
			return true
		}
		out.Reset()
		require.NoError(t, p.WritePing(false, [8]byte{}))
		last = out.String()
		return len(k.mirror.taken()) > 0
	})
	return cut
}

// An incomplete head costs little more memory than its size.
func TestIncompleteHeadsOfManyFieldsHoldLittleMemory(t *testing.T) {
	const clients = 100
	for about, fields := range map[string]string{
		"90 of 130 bytes": strings.Repeat("a: "+strings.Repeat("v", 125)+"\r\n", 90), "3000 of 4 bytes": strings.Repeat("a:\r\n", 3000),
	} {
		head := "GET / HTTP/1.1\r\nHost: a.test\r\n" + fields // 12 KB without an end
		for way, s := range map[string]shape{"plain": {}, "TLS": {secure: true}} {
			t.Run(about+", "+way, func(t *testing.T) {
				k, g := newDammed(t, s)
				grown := growth(func() {
					for range clients {
						require.NoError(t, k.connect(t).Send(head))
					}
					proxytest.Eventually(t, "the heads to be read", func() bool { return g.read.Load() >= int64(clients*len(head)) })
				})
				assert.Less(t, grown, int64(clients*96<<10))
				assert.Len(t, g.dams, clients)
				assert.Empty(t, k.mirror.taken())
			})
		}
	}
}

// A dam is the server's end of a connection. When it is shut, writes block as
// if the client's buffers were full.
type dam struct {
	net.Conn
	read *atomic.Int64
	shut atomic.Bool
	once sync.Once
	over chan struct{} // closed with the connection
}

func (d *dam) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	d.read.Add(int64(n))
	return n, err
}

func (d *dam) Write(p []byte) (int, error) {
	if d.shut.Load() {
		<-d.over
		return 0, net.ErrClosed
	}
	return d.Conn.Write(p)
}

func (d *dam) Close() error {
	d.once.Do(func() { close(d.over) })
	return d.Conn.Close()
}

// A damming is a Server whose connections are dams, available in their order.
type damming struct {
	*hostproxy.Server
	dams chan *dam
	read *atomic.Int64 // bytes read from all dams
}

func (g damming) Serve(ctx context.Context, https, plain net.Listener) error {
	if https == nil {
		return g.Server.Serve(ctx, nil, dammedListener{plain, g})
	}
	return g.Server.Serve(ctx, dammedListener{https, g}, plain)
}

type dammedListener struct {
	net.Listener
	damming
}

func (l dammedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	d := &dam{Conn: c, read: l.read, over: make(chan struct{})}
	l.dams <- d
	return d, nil
}

// newDammed is newFast with dams.
func newDammed(t testing.TB, s shape) (*track, damming) {
	t.Helper()
	k := newTrack(t, "fast")
	k.records = nil
	k.mirror.answer.Store(&say)
	r := s.router(t, k)
	g := damming{&hostproxy.Server{Router: r}, make(chan *dam, 1024), new(atomic.Int64)}
	if !s.secure {
		k.addr = proxytest.StartPlain(t, g).Plain
		return k, g
	}
	config, roots := proxytest.TLS(t, "a.test")
	r.TLS.Config = config
	k.tls = &tls.Config{RootCAs: roots, ServerName: "a.test"}
	k.addr = proxytest.Start(t, g).HTTPS
	return k, g
}
