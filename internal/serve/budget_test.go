package serve_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/serve"
)

func from(addr string) header.Peer { return header.Peer{Addr: netip.MustParseAddr(addr)} }

func budget(most int) *serve.Budget {
	return &serve.Budget{MaxPerClient: most, Log: slog.New(slog.DiscardHandler)}
}

func TestAnIPv4AddressOrAnIPv6PrefixOf64BitsIsOneClient(t *testing.T) {
	for _, tt := range []struct {
		about, a, b string
		same        bool
	}{
		{"an address of IPv4 and its neighbour", "192.0.2.1", "192.0.2.2", false},
		{"an address of IPv4, mapped to IPv6", "192.0.2.1", "::ffff:192.0.2.1", true},
		{"mapped neighbours", "::ffff:192.0.2.1", "::ffff:192.0.2.2", false},
		{"two of one /64", "2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true},
		{"a /64 and the next", "2001:db8:1:2::1", "2001:db8:1:3::1", false},
		{"::1 and 127.0.0.1", "::1", "127.0.0.1", false},
	} {
		t.Run(tt.about, func(t *testing.T) {
			b := budget(1)
			c, ok := b.Enter(from(tt.a))
			require.True(t, ok)
			other, ok := b.Enter(from(tt.b))
			assert.Equal(t, !tt.same, ok)
			b.Leave(other)
			b.Leave(c)
			c, ok = b.Enter(from(tt.b))
			assert.True(t, ok, "all places are free again")
			b.Leave(c)
		})
	}
}

func TestTrustedAndUnixPeersHaveNoConnectionLimit(t *testing.T) {
	b := budget(1)
	b.Trusted = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for range 3 {
		for about, p := range map[string]header.Peer{"trusted": from("10.1.2.3"), "over a unix socket": {Unix: true}, "without an address": {}} {
			c, ok := b.Enter(p)
			assert.True(t, ok, about)
			assert.True(t, c == nil, about)
			b.Leave(c)
		}
	}
	unlimited := budget(0)
	for range 3 {
		c, ok := unlimited.Enter(from("192.0.2.1"))
		assert.True(t, ok && c == nil, "no limit")
	}
}

// Clients come and go at random, and a model counts them.
func TestAClientCannotExceedItsConnectionLimit(t *testing.T) {
	const most = 3
	b := budget(most)
	open := make(map[string][]*serve.Client)
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		addr := fmt.Sprintf("2001:db8::%d:0:0:0:1", random.IntN(20))
		if all := open[addr]; len(all) > 0 && random.IntN(2) == 0 {
			b.Leave(all[0])
			open[addr] = all[1:]
			continue
		}
		c, ok := b.Enter(from(addr))
		require.Equal(t, len(open[addr]) < most, ok, addr)
		if ok {
			open[addr] = append(open[addr], c)
		}
	}
}

func TestConcurrentConnectionsOfAClientShareItsLimit(t *testing.T) {
	const most = 5
	b := budget(most)
	var mu sync.Mutex
	in := 0
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 200 {
				c, ok := b.Enter(from("192.0.2.1"))
				if !ok {
					continue
				}
				mu.Lock()
				in++
				assert.LessOrEqual(t, in, most)
				in--
				mu.Unlock()
				b.Leave(c)
			}
		})
	}
	all.Wait()
	for i := range most + 1 {
		_, ok := b.Enter(from("192.0.2.1"))
		assert.Equal(t, i < most, ok)
	}
}

// heap returns the bytes in use.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestClientsWithoutConnectionsAreForgotten(t *testing.T) {
	b := budget(2)
	visit := func(i uint32) {
		p := header.Peer{Addr: netip.AddrFrom4([4]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)})}
		one, _ := b.Enter(p)
		two, _ := b.Enter(p)
		_, ok := b.Enter(p) // a refused connection leaves nothing either
		require.False(t, ok)
		b.Leave(one)
		b.Leave(two)
	}
	visit(0)
	before := heap()
	for i := range uint32(200_000) {
		visit(i << 8)
	}
	after := heap()
	assert.Less(t, int64(after)-int64(before), int64(200_000), "less than a byte for each")
	runtime.KeepAlive(b)
}

func TestARefusedConnectionAllocatesNothing(t *testing.T) {
	b := budget(1)
	p := from("192.0.2.1")
	_, ok := b.Enter(p)
	require.True(t, ok)
	b.Enter(p) // the first is logged
	assert.Zero(t, testing.AllocsPerRun(1000, func() { b.Enter(p) }))
}

// written is a log whose lines can be received.
type written chan string

func (w written) Write(line []byte) (int, error) {
	w <- string(line)
	return len(line), nil
}

func TestRefusalsAreLoggedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		written := make(written, 10)
		lines := func() (all []string) {
			synctest.Wait()
			for len(written) > 0 {
				all = append(all, <-written)
			}
			return all
		}
		b := &serve.Budget{MaxPerClient: 1, Log: slog.New(slog.NewTextHandler(written, nil))}
		_, ok := b.Enter(from("192.0.2.1"))
		require.True(t, ok)
		refuse := func(n int) {
			for range n {
				_, ok := b.Enter(from("192.0.2.1"))
				require.False(t, ok)
			}
		}
		assert.Empty(t, lines())
		refuse(5)
		first := lines()
		require.Len(t, first, 1)
		assert.Contains(t, first[0], `level=WARN msg="connections refused" reason=MaxConnsPerClient limit=1 count=1 latest_client=192.0.2.1 remedy=`)
		time.Sleep(59 * time.Second)
		refuse(3)
		assert.Empty(t, lines(), "within the minute")
		time.Sleep(2 * time.Second)
		second := lines()
		require.Len(t, second, 1)
		assert.Contains(t, second[0], "count=7")
		refuse(1)
		assert.Empty(t, lines(), "within the next minute")
		time.Sleep(time.Minute)
		third := lines()
		require.Len(t, third, 1)
		assert.Contains(t, third[0], "count=1 ")
		time.Sleep(time.Hour)
		assert.Empty(t, lines(), "none was refused")
		refuse(1)
		assert.Len(t, lines(), 1, "at once, after a pause")
		refuse(1)
		b.Close()
		last := lines()
		require.Len(t, last, 1, "what was not logged yet")
		assert.Contains(t, last[0], "limit=1 count=1 ")
		refuse(1)
		time.Sleep(time.Hour)
		assert.Empty(t, lines(), "none after Close")
		require.Len(t, b.Describe().Refused, 1)
		assert.Equal(t, uint64(12), b.Describe().Refused[0].Count, "all are counted")
	})
}

func TestRefusedHandshakesAreCountedByReason(t *testing.T) {
	for _, tt := range []struct {
		about string
		wait  func(pauser) error // during a handshake for wait.test
		end   func(ln *pipes, roots *x509.CertPool)
		want  map[string]uint64
		logs  int
	}{
		{"no slot in time", func(pauser) error { <-time.After(time.Minute); return nil }, func(ln *pipes, roots *x509.CertPool) {
			_ = client(ln, roots, "a.test").Handshake()
		}, map[string]uint64{"handshakes MaxHandshakes": 1}, 1},
		{"too slow", held(0), func(*pipes, *x509.CertPool) { <-time.After(time.Minute) }, map[string]uint64{"handshakes HandshakeTimeout": 1}, 0},
		{"no certificate", func(pauser) error { return errors.New("no certificate") }, func(*pipes, *x509.CertPool) {}, map[string]uint64{"handshakes failed": 1}, 0},
		{"the server shuts down", held(0), func(ln *pipes, _ *x509.CertPool) { ln.Close() }, map[string]uint64{"handshakes shutdown": 1}, 0},
	} {
		t.Run(tt.about, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := make(written, 10)
				b := &serve.Budget{Log: slog.New(slog.NewTextHandler(log, nil))}
				defer b.Close()
				ln, roots := waitingServer(t, &serve.Server{Budget: b, MaxHandshakes: 1, HandshakeTimeout: 10 * time.Second}, tt.wait)
				done := make(chan error, 1)
				go func() { done <- client(ln, roots, "wait.test").Handshake() }()
				synctest.Wait()
				tt.end(ln, roots)
				synctest.Wait()
				got := make(map[string]uint64)
				for _, x := range b.Describe().Refused {
					got[x.What+" "+x.Why] = x.Count
				}
				assert.Equal(t, tt.want, got)
				assert.Len(t, log, tt.logs, "only what a larger limit would admit")
				<-done
			})
		})
	}
}

func BenchmarkEnterLeave(b *testing.B) {
	for _, most := range []int{0, 100} {
		for _, clients := range []uint32{1, 100_000} {
			b.Run(fmt.Sprintf("most=%d/clients=%d", most, clients), func(b *testing.B) {
				b.ReportAllocs()
				budget := budget(most)
				for i := range clients { // each client has a connection
					budget.Enter(header.Peer{Addr: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})})
				}
				for i := uint32(0); b.Loop(); i++ {
					j := i % clients
					c, _ := budget.Enter(header.Peer{Addr: netip.AddrFrom4([4]byte{10, byte(j >> 16), byte(j >> 8), byte(j)})})
					budget.Leave(c)
				}
			})
		}
	}
}

// BenchmarkConnection measures a connection without a request, as its client
// sees it. The client closes it, or the server refuses it.
func BenchmarkConnection(b *testing.B) {
	for _, most := range []int{0, 1_000, 1} {
		b.Run(fmt.Sprintf("most=%d", most), func(b *testing.B) {
			b.ReportAllocs()
			r := &hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
			run := proxytest.StartPlain(b, &hostproxy.Server{Router: r, MaxConnsPerClient: most})
			dial := func() net.Conn {
				c, err := net.Dial("tcp", run.Plain)
				require.NoError(b, err)
				return c
			}
			defer dial().Close() // takes the only place
			for b.Loop() {
				c := dial()
				if most == 1 {
					_, err := c.Read(make([]byte, 1))
					require.Error(b, err, "refused")
				}
				c.Close()
			}
		})
	}
}

func BenchmarkRefuse(b *testing.B) {
	b.ReportAllocs()
	budget := budget(1)
	budget.Enter(from("192.0.2.1"))
	for b.Loop() {
		budget.Enter(from("192.0.2.1"))
	}
}
