package e2e_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestTargetsAreFoundWhileRequestsGoOn(t *testing.T) {
	addrs := named(t, 2)
	type list = []hostproxy.Endpoint
	lists := make(chan list)
	var running atomic.Int64
	var seen *hostproxy.Router // shows how many requests wait at the upstream
	build := func() *hostproxy.Upstream {
		u := &hostproxy.Upstream{Discover: func(ctx context.Context, publish func([]hostproxy.Endpoint)) error {
			running.Add(1)
			defer running.Add(-1)
			for {
				select {
				case es := <-lists:
					publish(es)
				case <-ctx.Done():
					return nil
				}
			}
		}}
		seen = new(hostproxy.Router)
		seen.Handle("seen.test", u)
		return u
	}
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
		assert.Zero(t, running.Load(), "it does not run before it is needed")
		c.Send(request("GET /", "\r\n"))
		proxytest.Eventually(t, "the request to wait", func() bool { return queued(t, seen) == 1 })
		lists <- list{{Target: "http://nowhere.test:80", Addr: addrs[0]}, {Target: "::nonsense"}}
		assert.Equal(t, "0", string(c.Response("GET").Content), "the first request waits until there are targets")
		x := <-records
		assert.Equal(t, "nowhere.test:80 ("+addrs[0]+")", x.Target)
		assert.Positive(t, x.Queue)

		lists <- list{{Target: addrs[1]}}
		lists <- nil // changes nothing
		lists <- list{{Target: "nonsense"}}
		for range 5 {
			assert.Equal(t, "1", string(c.Do(request("GET /", "\r\n")).Content))
		}
	})
	assert.Zero(t, running.Load(), "it has ended with its server")
}

func TestANameIsResolvedToItsAddresses(t *testing.T) {
	b := proxytest.NewBackend(t, says("here"))
	_, port, err := net.SplitHostPort(b.Addr())
	require.NoError(t, err)
	u := &hostproxy.Upstream{Discover: hostproxy.DNSSource("localhost:"+port, 0)}
	r := new(hostproxy.Router)
	require.NoError(t, r.Set("a.test", u))
	s := proxytest.StartPlain(t, &hostproxy.Server{Router: r})
	assert.Equal(t, "here", string(proxytest.Dial(t, s.Plain).Do(request("GET /", "\r\n")).Content))
	require.NoError(t, u.Drain(t.Context()))
	assert.Panics(t, func() { hostproxy.DNSSource("nonsense", 0) })
}

// A name that does not resolve fails only its own requests, within a limit.
func TestANameThatDoesNotResolveFailsOnlyItsOwnRequests(t *testing.T) {
	b := proxytest.NewBackend(t, says("here"))
	failing := hostproxy.To(b.Addr())
	failing.Discover = hostproxy.DNSSource("does-not-exist.invalid:80", 0)
	build := func() *hostproxy.Upstream { return failing }
	inLanes(t, build, func(t *testing.T, c *proxytest.Client, _ <-chan hostproxy.Exchange) {
		assert.Equal(t, "here", string(c.Do(request("GET /", "\r\n")).Content), "Targets serve until others are found")
	})
}

// A nameServer answers over UDP: with the SRV records of the last call of say,
// and with 127.0.0.1 for every address.
type nameServer struct {
	t  testing.TB
	pc net.PacketConn

	mu      sync.Mutex
	records []dnsmessage.SRVResource
	asked   []string // names in SRV questions
}

// resolveHere makes the standard resolver ask a new server until the test ends.
// Other tests must not run meanwhile.
func resolveHere(t testing.TB) *nameServer {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &nameServer{t: t, pc: pc}
	ended := make(chan struct{})
	go func() { defer close(ended); s.serve() }()
	standard := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
	t.Cleanup(func() { net.DefaultResolver = standard; pc.Close(); <-ended })
	return s
}

func (s *nameServer) serve() {
	buf := make([]byte, 1500)
	for {
		n, from, err := s.pc.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if !assert.NoError(s.t, m.Unpack(buf[:n])) {
			return
		}
		m.Response, m.Answers, m.Additionals = true, s.answers(m.Questions[0]), nil
		b, err := m.Pack()
		if assert.NoError(s.t, err) {
			_, _ = s.pc.WriteTo(b, from)
		}
	}
}

func (s *nameServer) answers(q dnsmessage.Question) (as []dnsmessage.Resource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := func(body dnsmessage.ResourceBody) {
		as = append(as, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}, Body: body})
	}
	switch q.Type {
	case dnsmessage.TypeA:
		answer(&dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}})
	case dnsmessage.TypeSRV:
		s.asked = append(s.asked, q.Name.String())
		for i := range s.records {
			answer(&s.records[i])
		}
	}
	return as
}

// say makes records the answer to each SRV question.
func (s *nameServer) say(records ...dnsmessage.SRVResource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = records
}

// record returns an SRV record with that host and the port of addr.
func record(t testing.TB, host, addr string, priority, weight uint16) dnsmessage.SRVResource {
	t.Helper()
	to := netip.MustParseAddrPort(addr)
	return dnsmessage.SRVResource{Priority: priority, Weight: weight, Port: to.Port(), Target: dnsmessage.MustNewName(host)}
}

func TestAServiceIsFoundByItsSRVRecords(t *testing.T) {
	names := resolveHere(t)
	addrs := named(t, 3)
	first, second := record(t, "one.app.test.", addrs[0], 10, 3), record(t, "two.app.test.", addrs[1], 10, 1)
	spare := record(t, "three.app.test.", addrs[2], 20, 100)
	names.say(spare, second, first)
	u := &hostproxy.Upstream{Discover: hostproxy.SRVSource("http", "web", "tcp", "app.test", 0), Policy: hostproxy.RoundRobin, TargetHost: true}
	records := make(chan hostproxy.Exchange, 1000)
	r := &hostproxy.Router{Logger: silent(), Observe: func(x *hostproxy.Exchange) { records <- *x }}
	r.Handle("a.test", u)
	var lanes []*proxytest.Client
	for _, s := range []*hostproxy.Server{{Router: r}, {Router: r, Handler: http.HandlerFunc(r.ServeHTTP)}} {
		lanes = append(lanes, proxytest.Dial(t, proxytest.StartPlain(t, s).Plain))
	}
	get := func(c *proxytest.Client) int { return int(c.Do(request("GET /", "\r\n")).Content[0] - '0') }
	for _, c := range lanes {
		var served [3]int
		for range 40 {
			served[get(c)]++
		}
		assert.Equal(t, [3]int{30, 10, 0}, served, "by weight, and nothing of a higher priority value")
		x := <-records
		assert.Regexp(t, `^(one|two)\.app\.test:\d+$`, x.Target)
	}
	names.say(spare)
	for _, c := range lanes {
		proxytest.Eventually(t, "the change", func() bool { return get(c) == 2 })
		for range 10 {
			assert.Equal(t, 2, get(c))
		}
	}
	names.say() // an empty answer changes nothing
	proxytest.Eventually(t, "one more question", func() bool {
		names.mu.Lock()
		defer names.mu.Unlock()
		assert.Equal(t, "_web._tcp.app.test.", names.asked[0])
		return len(names.asked) > 2
	})
	for _, c := range lanes {
		assert.Equal(t, 2, get(c))
	}
	for _, scheme := range []string{"", "unix", "HTTP", "tcp", "ftp"} {
		assert.PanicsWithValue(t, `hostproxy: SRVSource: scheme "`+scheme+`": want http, https or h2c`, func() {
			hostproxy.SRVSource(scheme, "web", "tcp", "app.test", 0)
		})
	}
}

// lost are sources that find nothing, by the host of their route. Read-only.
var lost = map[string]hostproxy.Source{
	"silence.test": func(ctx context.Context, _ func([]hostproxy.Endpoint)) error { <-ctx.Done(); return nil },
	"errors.test":  func(context.Context, func([]hostproxy.Endpoint)) error { return errors.New("no") },
	"panics.test":  func(context.Context, func([]hostproxy.Endpoint)) error { panic("no") },
	"useless.test": func(ctx context.Context, publish func([]hostproxy.Endpoint)) error {
		publish(nil)
		publish([]hostproxy.Endpoint{{Target: "::nonsense"}})
		<-ctx.Done()
		return nil
	},
}

// Requests for which no target is found fail within a limit, and do not disturb
// others.
func TestDiscoveryThatFindsNoTargetFailsOnlyItsOwnRequests(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	records := make(chan hostproxy.Exchange, 100)
	r := &hostproxy.Router{Logger: silent(), Observe: func(x *hostproxy.Exchange) {
		if x.Pattern != "a.test" {
			records <- *x
		}
	}}
	r.Handle("a.test", hostproxy.To(named(t, 1)...))
	for host, source := range lost {
		r.Handle(host, &hostproxy.Upstream{Discover: source})
	}
	var addrs []string
	for _, s := range []*hostproxy.Server{{Router: r}, {Router: r, Handler: http.HandlerFunc(r.ServeHTTP)}} {
		addr := proxytest.StartPlain(t, s).Plain
		addrs = append(addrs, addr)
		for host := range lost {
			other, leaves := proxytest.Dial(t, addr), proxytest.Dial(t, addr)
			leaves.Send(strings.Replace(get, "a.test", host, 1))
			assert.Equal(t, "0", string(other.Do(get).Content))
			require.NoError(t, leaves.Close())
		}
	}
	for range len(addrs) * len(lost) {
		x := <-records
		assert.Equal(t, 499, x.Status, "a client that leaves is not waited for")
		assert.Less(t, x.Duration, 9*time.Second)
	}
	began := time.Now()
	var waiting []*proxytest.Client
	for _, addr := range addrs {
		for host := range lost {
			other, waits := proxytest.Dial(t, addr), proxytest.Dial(t, addr)
			waiting = append(waiting, waits)
			waits.Send(strings.Replace(get, "a.test", host, 1))
			assert.Equal(t, "0", string(other.Do(get).Content))
		}
	}
	for _, c := range waiting {
		a := c.Response("GET")
		assert.Equal(t, 503, a.StatusCode)
		assert.GreaterOrEqual(t, time.Since(began), 9*time.Second)
		x := <-records
		assert.Equal(t, 503, x.Status)
		assert.Empty(t, x.Target)
		assert.Greater(t, x.Queue, 9*time.Second)
		var e *hostproxy.Error
		require.ErrorAs(t, x.Err, &e)
		assert.Equal(t, "pick", e.Op)
	}
}
