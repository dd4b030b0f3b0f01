package discover_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/hostproxy/hostproxy/internal/discover"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// A story has the calls that Run made.
type story struct {
	applied [][]discover.Endpoint
	failed  []string
}

// run runs source for d in a bubble.
func run(t *testing.T, source discover.Source, d time.Duration) *story {
	t.Helper()
	s := new(story)
	var mu sync.Mutex
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		discover.Run(ctx, source, func(es []discover.Endpoint) error {
			mu.Lock()
			defer mu.Unlock()
			s.applied = append(s.applied, es)
			return nil
		}, func(err error) {
			mu.Lock()
			defer mu.Unlock()
			s.failed = append(s.failed, err.Error())
		})
	}()
	over := time.NewTimer(d)
	<-over.C
	synctest.Wait()
	cancel()
	<-done
	return s
}

func at(targets ...string) (es []discover.Endpoint) {
	for _, s := range targets {
		es = append(es, discover.Endpoint{Target: s})
	}
	return es
}

func TestOnlyChangesAreApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := run(t, func(ctx context.Context, publish func([]discover.Endpoint)) error {
			publish(at("http://a", "http://b"))
			publish(at("http://b", "http://a", "http://b"))
			publish(nil)
			publish(at("http://b"))
			publish([]discover.Endpoint{{Target: "http://b", Weight: 2}})
			<-ctx.Done()
			return nil
		}, time.Second)
		assert.Equal(t, [][]discover.Endpoint{at("http://a", "http://b"), at("http://b"), {{Target: "http://b", Weight: 2}}}, s.applied)
		assert.Equal(t, []string{"no endpoints found; keeping the previous ones"}, s.failed)
	})
}

func TestASourceThatEndsIsRestartedWithBackoff(t *testing.T) {
	for name, end := range map[string]func() error{
		"with an error": func() error { return errors.New("oh") },
		"by itself":     func() error { return nil },
		"with a panic":  func() error { panic("oh") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var starts []time.Time
				s := run(t, func(context.Context, func([]discover.Endpoint)) error {
					starts = append(starts, time.Now())
					return end()
				}, 10*time.Minute)
				assert.Len(t, s.failed, len(starts))
				assert.InDelta(t, 17, len(starts), 7)
				for i, when := range starts[1:] {
					assert.GreaterOrEqual(t, when.Sub(starts[i]), 500*time.Millisecond)
					assert.LessOrEqual(t, when.Sub(starts[i]), time.Minute)
				}
			})
		})
	}
}

func TestTheNumberOfEndpointsIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := run(t, func(ctx context.Context, publish func([]discover.Endpoint)) error {
			var es []discover.Endpoint
			for i := range 10_000 {
				es = append(es, discover.Endpoint{Target: fmt.Sprint("http://h", i)})
			}
			publish(es)
			<-ctx.Done()
			return nil
		}, time.Second)
		assert.Len(t, s.applied[0], discover.MaxEndpoints)
	})
}

// dns answers each question with the next entry of its table.
type dns struct {
	answers [][]string // the last one stays; nil means that the name does not exist
	asked   []time.Time
	srv     []*net.SRV
}

func (d *dns) LookupNetIP(_ context.Context, network, host string) (addrs []netip.Addr, err error) {
	if network != "ip" || host != "app.test" {
		return nil, fmt.Errorf("asked for %s %s", network, host)
	}
	a := d.answers[min(len(d.asked), len(d.answers)-1)]
	d.asked = append(d.asked, time.Now())
	if a == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	for _, s := range a {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	return addrs, nil
}

func (d *dns) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	return "", d.srv, nil
}

func TestHostsFollowTheAddressesOfTheirName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dns{answers: [][]string{{"10.0.0.2", "10.0.0.1"}, {"10.0.0.1", "10.0.0.2"}, nil, {"0.0.0.0", "224.0.0.1"}, {}, {"::ffff:10.0.0.3", "fd00::1"}}}
		u, _ := url.Parse("https://app.test:8443/base")
		s := run(t, discover.Hosts(d, u, 10*time.Second), 2*time.Minute)
		of := func(addrs ...string) (es []discover.Endpoint) {
			for _, a := range addrs {
				es = append(es, discover.Endpoint{Target: "https://app.test:8443/base", Addr: a + ":8443"})
			}
			return es
		}
		assert.Equal(t, [][]discover.Endpoint{of("10.0.0.1", "10.0.0.2"), of("10.0.0.3", "[fd00::1]")}, s.applied)
		require.Len(t, s.failed, 3)
		assert.Contains(t, s.failed[0], "no such host")
		assert.Contains(t, s.failed[1], "no usable address")
	})
}

func TestDNSIsQueriedAtMostOncePerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dns{answers: [][]string{{"10.0.0.1"}}}
		u, _ := url.Parse("http://app.test")
		run(t, discover.Hosts(d, u, time.Nanosecond), time.Minute)
		assert.InDelta(t, 60, len(d.asked), 2)
	})
}

func TestOnlySRVRecordsOfTheFirstPriorityAreUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dns{srv: []*net.SRV{
			{Target: "b.test.", Port: 81, Priority: 1, Weight: 3}, {Target: "c.test.", Port: 82, Priority: 2, Weight: 9},
			{Target: "a.test.", Port: 80, Priority: 1}, {Target: ".", Port: 80, Priority: 0}, {Target: "d.test.", Priority: 0},
		}}
		s := run(t, discover.Services(d, "http", "web", "tcp", "app.test", time.Minute), time.Second)
		assert.Equal(t, [][]discover.Endpoint{{{Target: "http://a.test:80", Weight: 1}, {Target: "http://b.test:81", Weight: 30}}}, s.applied)
		d.srv = nil
		assert.Contains(t, run(t, discover.Services(d, "http", "web", "tcp", "app.test", time.Minute), time.Second).failed[0], "no SRV record")
	})
}

// The standard resolver, over UDP, returns the server's addresses.
func TestTheStandardResolverReturnsTheAddresses(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := reply(buf[:n]); answer != nil {
				_, _ = pc.WriteTo(answer, from)
			}
		}
	}()
	defer func() { pc.Close(); <-served }()
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
	u, _ := url.Parse("http://app.test")
	got := make(chan []discover.Endpoint, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		discover.Run(ctx, discover.Hosts(r, u, time.Minute), func(es []discover.Endpoint) error { got <- es; return nil }, func(err error) { t.Error(err) })
	}()
	assert.Equal(t, []discover.Endpoint{{Target: "http://app.test", Addr: "10.1.2.3:80"}, {Target: "http://app.test", Addr: "10.1.2.4:80"}}, <-got)
	cancel()
	<-done
}

// reply answers a question for IPv4 addresses with two, and others with none.
func reply(question []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(question) != nil || len(m.Questions) != 1 {
		return nil
	}
	m.Header.Response, m.Additionals = true, nil
	if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
		for _, last := range []byte{4, 3} {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: [4]byte{10, 1, 2, last}}})
		}
	}
	b, _ := m.Pack()
	return b
}
