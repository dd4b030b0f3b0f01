package certs_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A zone is the content of DNS. Hosts that are not in it do not exist.
type zone struct {
	mu    sync.Mutex
	addrs map[string][]netip.Addr
	err   error
	asked []time.Time
}

func (z *zone) resolve(_ context.Context, host string) ([]netip.Addr, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked = append(z.asked, time.Now())
	if z.err != nil {
		return nil, z.err
	}
	if a, ok := z.addrs[host]; ok {
		return a, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (z *zone) set(host string, addrs ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.addrs == nil {
		z.addrs = make(map[string][]netip.Addr)
	}
	z.addrs[host] = ips(addrs...)
}

func (z *zone) times() []time.Time {
	z.mu.Lock()
	defer z.mu.Unlock()
	return append([]time.Time(nil), z.asked...)
}

func ips(texts ...string) []netip.Addr {
	all := make([]netip.Addr, 0, len(texts))
	for _, s := range texts {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

// asked is a template for a known public CA. It counts the requests and lets
// none through.
func asked(n *atomic.Int64) *certmagic.ACMEIssuer {
	i := letsEncrypt()
	i.HTTPProxy = func(*http.Request) (*url.URL, error) {
		n.Add(1)
		return nil, errors.New("this test has no network")
	}
	return i
}

// behind returns options with a zone and one public interface.
func behind(i certmagic.Issuer, z *zone) certs.Options {
	o := with(i)
	o.Resolve = z.resolve
	o.Interfaces = func() []netip.Addr { return ips("127.0.0.1", "::1", "fe80::1%eth0", "8.8.0.1", "2600::1") }
	return o
}

func TestNothingIsOrderedForAHostWithoutRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		var z zone
		var logs logBuffer
		o := behind(asked(&n), &z)
		o.Logger = logs.logger(0)
		m, _ := start(t, o, "blog.example.com")
		begin := time.Now()
		synctest.Wait()
		s := m.Statuses()[0]
		assert.Equal(t, certs.Failed, s.State)
		assert.ErrorContains(t, s.Err, "blog.example.com has no A or AAAA record: create one that points at this machine")
		assert.Zero(t, s.Attempts, "it is no failed attempt")
		assert.Equal(t, begin.Add(time.Minute), s.NextTry)

		time.Sleep(time.Hour - time.Second)
		var minutes []float64
		for _, at := range z.times() {
			minutes = append(minutes, at.Sub(begin).Minutes())
		}
		assert.Equal(t, []float64{0, 1, 3, 7, 15, 25, 35, 45, 55}, minutes)
		assert.Zero(t, n.Load(), "no request to the CA")
		assert.Zero(t, m.Statuses()[0].Attempts)
		assert.Equal(t, 1, strings.Count(logs.String(), "certificate not ordered"), "one line for one reason")
		assert.NotContains(t, logs.String(), "0001-01-01")
		_, err := shake(t, m, "blog.example.com")
		assert.Error(t, err)
	})
}

func TestRecordsThatAppearLeadToAnOrder(t *testing.T) {
	var n atomic.Int64
	var z zone
	m, r := start(t, behind(asked(&n), &z), "blog.example.com")
	proxytest.Eventually(t, "the first look-up", func() bool { return m.Statuses()[0].State == certs.Failed })
	assert.Zero(t, n.Load())
	z.set("new.example.com", "8.8.0.1")
	r.set("blog.example.com", "new.example.com")
	proxytest.Eventually(t, "the order", func() bool { return n.Load() > 0 })
}

func TestAPreflightReportsWhyAHostCannotBeValidated(t *testing.T) {
	const host = "blog.example.com"
	servfail := &net.DNSError{Err: "server misbehaving", Name: host, IsTemporary: true}
	timeout := &net.DNSError{Err: "i/o timeout", Name: host, IsTimeout: true, IsNotFound: true}
	dns := letsEncrypt()
	dns.DNS01Solver = &certmagic.DNS01Solver{DNSManager: certmagic.DNSManager{DNSProvider: struct{ certmagic.DNSProvider }{}}}
	for _, tt := range []struct {
		what    string
		records []string // nil means that the host does not exist
		err     error
		set     func(*certs.Options)
		want    string
	}{
		{what: "no such host", want: "has no A or AAAA record"},
		{what: "no records", records: []string{}, want: "has no A or AAAA record"},
		{what: "an address of an interface", records: []string{"8.8.0.1"}},
		{what: "an IPv6 address of an interface", records: []string{"8.8.9.9", "2600::1"}},
		{what: "addresses of another machine", records: []string{"8.8.9.9", "2600::2"}, want: "points at 8.8.9.9, 2600::2, not at this machine"},
		{what: "many of them", records: []string{"8.8.9.1", "8.8.9.2", "8.8.9.3", "8.8.9.4", "8.8.9.5"}, want: "8.8.9.1, 8.8.9.2, 8.8.9.3, 2 more"},
		{what: "private addresses, as of a hosts file", records: []string{"127.0.1.1", "10.0.0.9"}},
		{what: "a private and a foreign one", records: []string{"10.0.0.9", "8.8.9.9"}, want: "points at 8.8.9.9"},
		{what: "a resolver that fails", err: servfail},
		{what: "a resolver that does not answer", err: timeout},
		{what: "another error", err: errors.New("no route to host")},
		{what: "a resolver that panics", set: func(o *certs.Options) {
			o.Resolve = func(context.Context, string) ([]netip.Addr, error) { panic("resolver") }
		}},
		{what: "behind a translation of addresses", records: []string{"8.8.9.9"}, set: func(o *certs.Options) {
			o.Interfaces = func() []netip.Addr { return ips("127.0.0.1", "172.17.0.1", "8.8.0.1") }
		}},
		{what: "no interfaces", records: []string{"8.8.9.9"}, set: func(o *certs.Options) { o.Interfaces = func() []netip.Addr { return nil } }},
		{what: "an address that is named", records: []string{"8.8.9.9"}, set: func(o *certs.Options) { o.Addresses = ips("8.8.9.9") }},
		{what: "a mapped address that is named", records: []string{"8.8.9.9"}, set: func(o *certs.Options) { o.Addresses = ips("::ffff:8.8.9.9") }},
		{what: "one that is not named", records: []string{"8.8.0.1"}, set: func(o *certs.Options) { o.Addresses = ips("8.8.9.9") }, want: "TLS.Addresses"},
		{what: "turned off", set: func(o *certs.Options) { o.DisablePreflight = true }},
		{what: "DNS-01", set: func(o *certs.Options) { o.Public = []certmagic.Issuer{dns} }},
		{what: "a CA that is not known", set: func(o *certs.Options) { o.Public = []certmagic.Issuer{unreachable()} }},
		{what: "a fallback that is not ACME", set: func(o *certs.Options) { o.Public = append(o.Public, newIssuer(t, "any", day(90))) }},
	} {
		t.Run(tt.what, func(t *testing.T) {
			z := &zone{err: tt.err}
			if tt.records != nil {
				z.set(host, tt.records...)
			}
			o := behind(letsEncrypt(), z)
			if tt.set != nil {
				tt.set(&o)
			}
			m, _ := start(t, o)
			err := m.Preflight(t.Context(), host)
			if tt.want == "" {
				assert.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.want)
			assert.ErrorContains(t, err, host)
			assert.Contains(t, err.Error(), "TLS.", "the remedy")
		})
	}
}

func TestPreflightsOfAddressesAskNoResolver(t *testing.T) {
	var z zone
	m, _ := start(t, behind(letsEncrypt(), &z))
	assert.NoError(t, m.Preflight(t.Context(), "8.8.0.1"))
	assert.ErrorContains(t, m.Preflight(t.Context(), "8.8.9.9"), "points at 8.8.9.9")
	assert.NoError(t, m.Preflight(t.Context(), "*.example.com"))
	assert.NoError(t, m.Preflight(t.Context(), "app.test"))
	assert.Empty(t, z.times())
}

func TestAPreflightHasATimeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := behind(letsEncrypt(), new(zone))
		o.Resolve = func(ctx context.Context, _ string) ([]netip.Addr, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		m, _ := start(t, o)
		begin := time.Now()
		assert.NoError(t, m.Preflight(t.Context(), "a.example.com"), "it says nothing")
		assert.Equal(t, 5*time.Second, time.Since(begin))
	})
}

// A machine cannot know of a load balancer in front of it. A client that
// arrives is better evidence than the addresses of the interfaces.
func TestAHandshakeOverrulesTheAddressesOfTheInterfaces(t *testing.T) {
	var n atomic.Int64
	var z zone
	z.set("cdn.example.com", "8.8.9.9")
	m, _ := start(t, behind(asked(&n), &z), "cdn.example.com")
	proxytest.Eventually(t, "the first look-up", func() bool { return m.Statuses()[0].State == certs.Failed })
	assert.ErrorContains(t, m.Statuses()[0].Err, "points at 8.8.9.9")
	assert.Zero(t, n.Load())
	_, err := shake(t, m, "cdn.example.com")
	assert.Error(t, err)
	next := m.Statuses()[0].NextTry
	assert.Less(t, time.Until(next), 11*time.Second, "the next look comes soon")
	m.Preview("cdn.example.com")
	proxytest.Eventually(t, "the order", func() bool { return n.Load() > 0 })
}

func TestTheCADecidesAfterHalfAnHourWithoutAHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		var z zone
		z.set("a.example.com", "8.8.9.9")
		m, _ := start(t, behind(asked(&n), &z), "a.example.com")
		m.HoldOrders()
		time.Sleep(25*time.Minute - time.Second)
		assert.Zero(t, m.Ordered())
		time.Sleep(11 * time.Minute)
		assert.Equal(t, 1, m.Ordered())
		s := m.Statuses()[0]
		assert.Equal(t, certs.Pending, s.State, "handshakes wait for the order")
		assert.NoError(t, s.Err)
		assert.Zero(t, s.NextTry)
	})
}

func TestCloseEndsAPreflight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := behind(letsEncrypt(), new(zone))
		o.Resolve = func(ctx context.Context, _ string) ([]netip.Addr, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		m, _ := start(t, o, "a.example.com")
		synctest.Wait()
		begin := time.Now()
		require.NoError(t, m.Close())
		assert.Zero(t, time.Since(begin))
		assert.Zero(t, m.Ordered())
	})
}

func TestNamedAddressesAreNotOverruledByAHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		var z zone
		z.set("old.example.com", "8.8.0.1")
		o := behind(asked(&n), &z)
		o.Addresses = ips("8.8.9.9")
		m, _ := start(t, o, "old.example.com")
		for range 60 {
			time.Sleep(time.Minute)
			_, err := shake(t, m, "old.example.com")
			assert.Error(t, err)
		}
		assert.Zero(t, n.Load())
		assert.LessOrEqual(t, len(z.times()), 65, "handshakes cause few look-ups")
	})
}

func TestAFloodOfHandshakesCausesFewLookUps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		var z zone
		m, _ := start(t, behind(asked(&n), &z), "a.example.com")
		for range 1_000 {
			_, err := shake(t, m, "a.example.com")
			assert.Error(t, err)
			time.Sleep(100 * time.Millisecond)
		}
		assert.LessOrEqual(t, len(z.times()), 12)
		assert.Zero(t, n.Load())
	})
}

// Hosts without records have their own workers and do not block orders.
func TestAThousandHostsWithoutRecordsDelayNoOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		var z zone
		ca := newIssuer(t, "private", day(90))
		o := behind(asked(&n), &z)
		o.Choose = issuedBy(map[string]certmagic.Issuer{"good.example.com": ca})
		m, _ := start(t, o, append(names("none%d.example.com", 1_000), "good.example.com")...)
		begin := time.Now()
		require.NoError(t, m.Await(t.Context(), "good.example.com"))
		assert.Less(t, time.Since(begin), time.Second)
		time.Sleep(10 * time.Minute)
		assert.Zero(t, m.Ordered())
	})
}

func TestAValidCertificateIsRenewedWithoutAPreflight(t *testing.T) {
	var n atomic.Int64
	var z zone
	// from another process, with the same place in storage
	before := newIssuer(t, letsEncrypt().IssuerKey(), 20*time.Minute)
	before.age = 100 * time.Minute
	kept := with(before)
	kept.Storage = newMemStorage()
	first, _ := start(t, kept, "a.example.com")
	require.NoError(t, first.Await(t.Context()))
	require.NoError(t, first.Close())
	o := behind(asked(&n), &z)
	o.Storage = kept.Storage
	m, _ := start(t, o, "a.example.com")
	proxytest.Eventually(t, "the order", func() bool { return n.Load() > 0 })
	assert.Empty(t, z.times(), "no look-up is made before the order")
	_, err := shake(t, m, "a.example.com")
	assert.NoError(t, err)
}

func TestARefusalOfTheCAIsExplained(t *testing.T) {
	var z zone
	m, _ := start(t, behind(letsEncrypt(), &z))
	problem := acme.Problem{Status: 403, Type: acme.ProblemTypeNamespace + "unauthorized", Detail: "no answer"}
	err := m.Explain(t.Context(), "a.example.com", problem)
	assert.ErrorContains(t, err, "no answer")
	assert.ErrorContains(t, err, "a.example.com has no A or AAAA record")
	assert.ErrorAs(t, err, new(acme.Problem))
	network := errors.New("connection refused")
	assert.Equal(t, network, m.Explain(t.Context(), "a.example.com", network))
	limit := acme.Problem{Status: 429, Type: acme.ProblemTypeRateLimited}
	assert.NoError(t, z.err)
	assert.ErrorAs(t, m.Explain(t.Context(), "a.example.com", limit), new(acme.Problem))
}

func TestInvalidPreflightAddressesAreRefused(t *testing.T) {
	for what, o := range map[string]certs.Options{
		"Addresses[1]":     {Addresses: []netip.Addr{netip.MustParseAddr("8.8.8.8"), {}}},
		"DisablePreflight": {Addresses: ips("8.8.8.8"), DisablePreflight: true},
	} {
		r := &routes{}
		o.Hosts, o.Knows, o.Storage, o.Logger = r.all, r.knows, newMemStorage(), new(logBuffer).logger(0)
		_, err := certs.New(o)
		assert.ErrorContains(t, err, what)
	}
}
