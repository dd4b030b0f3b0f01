package certs_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestTheHotPathOfAHandshakeAllocatesNothing(t *testing.T) {
	m, _ := start(t, with(newIssuer(t, "ca", day(90))), "a.example.com", "*.example.org")
	require.NoError(t, m.Await(t.Context()))
	for _, sni := range []string{"a.example.com", "x.example.org"} {
		hello := &tls.ClientHelloInfo{ServerName: sni, SupportedProtos: []string{"h2", "http/1.1"}}
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			cert, err := m.GetCertificate(hello)
			if cert == nil || err != nil {
				t.Fatal(err)
			}
		})-knowsAllocs(sni), sni)
	}
}

// knowsAllocs returns the allocations of the kit's own gate.
func knowsAllocs(sni string) float64 {
	r := routesOf("a.example.com", "*.example.org")
	return testing.AllocsPerRun(100, func() { r.knows(sni) })
}

// A small version of 50,000 hosts that are loaded lazily with bounded memory.
func TestCertificatesBeyondTheMemoryLimitAreLoadedWhenAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		o.Storage = newMemStorage()
		r := routesOf(names("h%d.example.com", 40)...)
		o.Hosts, o.Wants, o.Knows, o.Logger = r.all, r.wants, r.knows, (&logBuffer{}).logger(0)
		m, err := certs.New(o)
		require.NoError(t, err)
		defer func() { require.NoError(t, m.Close()) }()
		m.MaxLoaded(10)
		m.Start(0)
		require.NoError(t, m.Await(t.Context()))
		for i := range 120 {
			host := fmt.Sprintf("h%d.example.com", (i*37)%40)
			leaf, err := shake(t, m, host)
			require.NoError(t, err)
			require.Equal(t, []string{host}, leaf.DNSNames)
			require.LessOrEqual(t, m.Held(), 10)
		}
		assert.Len(t, ca.issued(), 40)

		// Hosts that are not in memory are renewed like the others.
		time.Sleep(day(64))
		assert.Len(t, ca.issued(), 80)
		assert.LessOrEqual(t, m.Held(), 10)
		r.set()
		m.Changed()
		time.Sleep(time.Second)
		assert.Zero(t, m.Held())
	})
}

func TestAHostCostsLittleMemory(t *testing.T) {
	const n = 50_000
	r := routesOf(names("h%d.example.com", n)...)
	storage := newMemStorage()
	hang := make(chan struct{})
	storage.hook(func(string, string) error { <-hang; return nil })
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	m, err := certs.New(certs.Options{Hosts: r.all, Wants: r.wants, Knows: r.knows, Storage: storage, Logger: (&logBuffer{}).logger(8),
		Public: []certmagic.Issuer{newIssuer(t, "ca", day(90))}})
	require.NoError(t, err)
	m.Start(0)
	require.Len(t, m.Statuses(), n)
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := int(after.HeapAlloc-before.HeapAlloc) / n
	t.Logf("%d bytes a host without its certificate in memory", each)
	assert.Less(t, each, 1_500)
	close(hang)
	require.NoError(t, m.Close())
}

func TestAHandshakeDoesNotWaitForAHostThatHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		ca.hook(failing("no"))
		m, _ := start(t, with(ca), "a.example.com")
		synctest.Wait()
		begin := time.Now()
		_, err := shake(t, m, "a.example.com")
		assert.ErrorContains(t, err, "internal error")
		assert.Zero(t, time.Since(begin))
	})
}

func TestAnExpiredCertificateIsServedOnlyIfThereIsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", 3*time.Hour)
		m, _ := start(t, with(ca), "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		ca.hook(failing("down"))
		time.Sleep(4 * time.Hour)
		leaf, err := shake(t, m, "a.example.com")
		require.NoError(t, err)
		assert.True(t, time.Now().After(leaf.NotAfter), "the client may say what is wrong")
		ca.unhook()
		time.Sleep(15 * time.Minute)
		leaf, err = shake(t, m, "a.example.com")
		require.NoError(t, err)
		assert.True(t, time.Now().Before(leaf.NotAfter))
	})
}

func TestClientsWithoutServerNameGetTheDefaultHostIfItHasARoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := with(newIssuer(t, "ca", day(90)))
		o.DefaultHost = "a.example.com"
		m, r := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		leaf, err := shake(t, m, "")
		require.NoError(t, err)
		assert.Equal(t, []string{"a.example.com"}, leaf.DNSNames)
		r.set("b.example.com")
		_, err = shake(t, m, "")
		assert.ErrorContains(t, err, "unrecognized name", "the gate stands before the default host too")
	})
}

// certmagic would bind 80 and 443 for each challenge. CVE-2026-22045,
// CVE-2026-26999, CVE-2023-47124: a flood of probes is bounded and cheap.
func TestProbesForChallengesAreCheap(t *testing.T) {
	storage := newMemStorage()
	issuer := &certmagic.ACMEIssuer{CA: "https://127.0.0.1:1/directory"}
	m, _ := start(t, certs.Options{Public: []certmagic.Issuer{issuer}, Storage: storage}, "a.example.com")
	proxytest.Eventually(t, "the first attempt", func() bool { return m.Statuses()[0].State == certs.Failed })
	before := storage.reads.Load()
	token := strings.Repeat("t", 43)
	for _, c := range []struct{ what, host, path string }{
		{"no token", "a.example.com", "/.well-known/acme-challenge/"},
		{"a short token", "a.example.com", "/.well-known/acme-challenge/x"},
		{"a long token", "a.example.com", "/.well-known/acme-challenge/" + strings.Repeat("t", 300)},
		{"a path in the token", "a.example.com", "/.well-known/acme-challenge/" + token + "/x"},
		{"another path", "a.example.com", "/x"},
	} {
		w := httptest.NewRecorder()
		assert.False(t, m.HTTPChallenge(w, httptest.NewRequest("GET", c.path, nil), c.host), c.what)
	}
	assert.Equal(t, before, storage.reads.Load(), "no storage read")
}

func TestNamesOfAddressChallengesAreParsed(t *testing.T) {
	for name, want := range map[string]string{
		"4.3.2.1.in-addr.arpa": "1.2.3.4",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": "2001:db8::1",
		"3.2.1.in-addr.arpa": "", "x.3.2.1.in-addr.arpa": "", "4.3.2.1": "", "": "", ".in-addr.arpa": "",
		"444.3.2.1.in-addr.arpa": "", "10.0.ip6.arpa": "",
	} {
		got, ok := certs.ReverseName(name)
		assert.Equal(t, want != "", ok, name)
		if ok {
			assert.Equal(t, want, got)
		}
	}
}

func FuzzReverseName(f *testing.F) {
	f.Add("4.3.2.1.in-addr.arpa")
	f.Add("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa")
	f.Fuzz(func(t *testing.T, name string) {
		got, ok := certs.ReverseName(name)
		if !ok {
			return
		}
		a, err := netip.ParseAddr(got)
		require.NoError(t, err)
		assert.Equal(t, a.String(), got, "the address is canonical")
		assert.Equal(t, name, reverse(a), "and has one name")
	})
}

// reverse returns the name of an address in DNS.
func reverse(a netip.Addr) string {
	var b strings.Builder
	raw := a.AsSlice()
	if a.Is4() {
		return fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa", raw[3], raw[2], raw[1], raw[0])
	}
	for i := len(raw) - 1; i >= 0; i-- {
		fmt.Fprintf(&b, "%x.%x.", raw[i]&15, raw[i]>>4)
	}
	return b.String() + "ip6.arpa"
}

func TestStaticCertificatesAreServedForTheirHosts(t *testing.T) {
	exact, _ := proxytest.Certificate(t, "A.example.com", "10.0.0.1")
	wild, _ := proxytest.Certificate(t, "*.example.com")
	o := with(newIssuer(t, "ca", day(90)))
	o.Config = &tls.Config{Certificates: []tls.Certificate{exact, wild}}
	m, _ := start(t, o, "a.example.com", "b.example.com", "*.example.com", "other.example.org")
	require.NoError(t, m.Await(t.Context()))
	require.NoError(t, m.Await(t.Context(), "a.example.com", "z.example.com"))
	for sni, want := range map[string]*x509.Certificate{"a.example.com": exact.Leaf, "b.example.com": wild.Leaf} {
		leaf, err := shake(t, m, sni)
		require.NoError(t, err)
		assert.Equal(t, want.SerialNumber, leaf.SerialNumber, sni)
	}
	states := make(map[string]string)
	for _, s := range m.Statuses() {
		states[s.Host] = s.State
	}
	assert.Equal(t, map[string]string{
		"a.example.com": "static", "*.example.com": "static", "10.0.0.1": "static", "other.example.org": "valid",
	}, states)
}

// asks returns client authentication with its own CAs that accepts every
// client: so any refusal comes from another realm.
func asks(t testing.TB) *certs.ClientAuth {
	_, pool := clientCertificate(t)
	return &certs.ClientAuth{CAs: pool, Mode: tls.RequestClientCert}
}

func TestHostsShareARealmOnlyWithEqualClientAuthentication(t *testing.T) {
	a, internal, rest := asks(t), asks(t), asks(t)
	o := with(newIssuer(t, "ca", day(90)))
	o.Choose = chosen(map[string]certs.Choice{
		"a.example.com": {ClientAuth: a}, "*.internal.example.com": {ClientAuth: internal}, "*": {ClientAuth: rest},
	})
	m, _ := start(t, o, "a.example.com", "*.internal.example.com", "*")
	for _, c := range []struct {
		sni, host string
		same      bool
	}{
		{"a.example.com", "a.example.com", true},
		{"A.Example.com", "a.example.com", true},
		{"b.example.com", "c.example.org", true},
		{"b.example.com", "a.example.com", false},
		{"a.example.com", "b.example.com", false},
		{"x.internal.example.com", "y.internal.example.com", true},
		{"x.internal.example.com", "x.y.internal.example.com", false},
		{"", "a.example.com", false},
		{"", "b.example.com", true},
		{"not a name", "a.example.com", false},
		{"no name.internal.example.com", "y.internal.example.com", false},
		{"no name.internal.example.com", "b.example.com", true},
	} {
		state := &tls.ConnectionState{ServerName: c.sni}
		proxytest.Eventually(t, c.sni+", "+c.host, func() bool { return m.Admits(state, c.host) == c.same })
	}
	state := &tls.ConnectionState{ServerName: "x.internal.example.com"}
	assert.Zero(t, testing.AllocsPerRun(100, func() { m.Admits(state, "x.internal.example.com") }))
}

func TestClientsWithoutServerNameAreInTheRealmOfTheDefaultHost(t *testing.T) {
	o := with(newIssuer(t, "ca", day(90)))
	o.Choose = chosen(map[string]certs.Choice{"a.example.com": {ClientAuth: asks(t)}, "*": {ClientAuth: asks(t)}})
	o.DefaultHost = "a.example.com"
	m, _ := start(t, o, "a.example.com", "*")
	state := new(tls.ConnectionState)
	proxytest.Eventually(t, "the hook", func() bool { return m.Admits(state, "a.example.com") })
	assert.False(t, m.Admits(state, "b.example.com"))
}

func TestWithoutAHookAllHostsAreOneRealm(t *testing.T) {
	m, _ := start(t, with(newIssuer(t, "ca", day(90))), "a.example.com", "b.example.com")
	assert.True(t, m.Admits(&tls.ConnectionState{ServerName: "a.example.com"}, "b.example.com"))
}
