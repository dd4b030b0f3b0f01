package e2e_test

import (
	"bufio"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// An explained is a Router whose explanations are compared with its responses,
// both of ServeHTTP and of the front.
type explained struct {
	*hostproxy.Router
	t        testing.TB
	backends []string
	addr     string
	served   chan hostproxy.Exchange // records of requests from inProcess
	// records of requests through the front that reached a target; requests
	// that the front refuses have none
	routed chan hostproxy.Exchange
}

// inProcess is the client address of requests without a connection.
const inProcess = "127.0.0.2"

func newExplained(t testing.TB) *explained {
	t.Helper()
	answers := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("X-Fail") != "" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	x := &explained{Router: &hostproxy.Router{Logger: silent()}, t: t, backends: []string{proxytest.NewServer(t, answers).Addr(), proxytest.NewServer(t, answers).Addr()},
		served: make(chan hostproxy.Exchange, 1), routed: make(chan hostproxy.Exchange, 1)}
	x.Observe = func(e *hostproxy.Exchange) {
		switch {
		case e.Peer.String() == inProcess:
			x.served <- *e
		case e.Status == http.StatusOK:
			x.routed <- *e
		}
	}
	x.addr = proxytest.StartPlain(t, &hostproxy.Server{Router: x.Router}).Plain
	return x
}

// handler returns a handler in a state that m chooses.
func (x *explained) handler(m *menu) http.Handler {
	switch m.pick(8) {
	case 0:
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	case 1:
		return &hostproxy.Passthrough{Addr: "127.0.0.1:1"}
	case 2:
		return &hostproxy.BasicAuth{Users: map[string]string{"ali": "$2a$04$r.H.IwusjCYoQM/2jE2t1ex2PJE9s8XUMzwU8yUGnPrQeuF57GLjS"}, Next: x.upstream(m, true)}
	}
	return x.upstream(m, true)
}

func (x *explained) upstream(m *menu, canaries bool) *hostproxy.Upstream {
	u := hostproxy.To(x.backends...)
	u.Policy, u.TargetChanged = hostproxy.Policy(m.pick(6)), func(*hostproxy.Target, hostproxy.Health) {}
	here, away := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	for range m.pick(4) {
		switch m.pick(12) {
		case 0:
			u.Deny = here
		case 1:
			u.Deny = away
		case 2:
			u.Allow = here
		case 3:
			u.Allow = away
		case 4:
			u.MaxRequestBody = 3
		case 5:
			u.MaxRequestBody = 5
		case 6:
			u.RateLimit = &hostproxy.RateLimit{Rate: 0.001, Burst: 1 + m.pick(2)}
		case 7:
			u.Weights = []int{0, 1}
		case 8:
			u.Breaker, u.FailClosed = &hostproxy.Breaker{Failures: 1, Statuses: []int{500}}, m.pick(2) == 0
		case 9:
			u.MaxInFlight, u.MaxTargetInFlight = 100, 100
		case 10:
			u.Rewrite = func(*httputil.ProxyRequest) {}
		case 11:
			u.Sticky = &hostproxy.Sticky{}
		}
	}
	if canaries && m.pick(4) == 0 {
		require.NoError(x.t, u.Canary(x.upstream(m, false), float64(m.pick(2))))
	}
	x.use(u, m)
	return u
}

// use brings u into a state that is possible after its first use.
func (x *explained) use(u *hostproxy.Upstream, m *menu) {
	switch m.pick(8) {
	case 0:
		require.NoError(x.t, u.Pause(-1))
	case 1:
		require.NoError(x.t, u.Maintain(hostproxy.Page{Status: 418}))
	case 2:
		require.NoError(x.t, u.Drain(x.t.Context()))
	case 3: // opens the Breaker of each target
		for range 2 {
			q := httptest.NewRequest("GET", "/", nil)
			q.RemoteAddr = "127.0.0.1:1"
			q.Header.Set("X-Fail", "1")
			u.ServeHTTP(httptest.NewRecorder(), q)
		}
	}
}

// replace replaces the routes.
func (x *explained) replace(m *menu) {
	rs := make(map[string]http.Handler)
	for range 1 + m.pick(5) {
		pattern := m.of("a.test", "b.test", "*.test", "*", "[::1]", "a.test/api", "a.test/api/v2", "*.test/api", "*/x", "b.test/a%20b", "xn--bcher-kva.test")
		h := x.handler(m)
		if _, ok := h.(*hostproxy.Passthrough); !ok || !strings.Contains(pattern, "/") {
			rs[pattern] = h
		}
	}
	_, err := x.CheckReplace(rs)
	require.NoError(x.t, err)
	require.NoError(x.t, x.Replace(rs))
	require.NoError(x.t, x.Check())
}

// request returns the bytes of a client's request.
func (x *explained) request(m *menu) string {
	target := m.of("/", "/api/x", "/api", "/api/v2/", "/x", "*", "a.test:80", "http://a.test/api")
	for range m.pick(4) {
		target += m.of("/", "//", "..", ".", "%2e%2E", "%2F", "%61pi", "api", "v2", "x", ";p", ";a=b", "%3B", `\`, "%5c", "%20", "%zz", "%00", "?q=/api", "*")
	}
	host := m.of("a.test", "A.Test.", "b.test:8080", "c.test", "a.test:", "[::1]", "[::1]:80", "::1", "127.0.0.1", "", "a..test", "a.test:x", "other.org", "x.y.test",
		"xn--bcher-kva.test", "-a.test", "a_b.test", "a.test:65536", "%61.test")
	fields := m.of("", "", "Authorization: Basic YWxpOm9wZW4gc2VzYW1l\r\n", "Authorization: Basic !\r\n", "Expect: x\r\n", "X-Forwarded-For: 192.0.2.7\r\n")
	return m.of("GET", "POST", "HEAD", "OPTIONS", "CONNECT", "OWN") + " " + target + " HTTP/1.1\r\nHost: " + host + "\r\n" + fields + "Connection: close\r\n"
}

// parse returns a request as net/http reads it, or false if net/http refuses
// it.
func parse(raw string) (*http.Request, bool) {
	q, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil || !h1.ValidTarget(q.RequestURI) || !strings.HasPrefix(q.RequestURI, "/") && q.RequestURI != "*" && q.Method != "CONNECT" {
		return nil, false
	}
	q.RemoteAddr = inProcess + ":1"
	return q, true
}

// expect returns the pattern and the status that Explain predicts.
func (x *explained) expect(q *http.Request) (string, int, hostproxy.Explanation) {
	e := x.Explain(q)
	for range 2 { // Explain has no effect
		again := x.Explain(q)
		require.Equal(x.t, []any{e.Pattern, e.Status, e.Target, e.Targets, e.Candidates}, []any{again.Pattern, again.Status, again.Target, again.Targets, again.Candidates})
	}
	if e.Status == 0 {
		return e.Pattern, http.StatusOK, e
	}
	return e.Pattern, e.Status, e
}

// ask compares explanations of a request with the responses to it.
func (x *explained) ask(raw string) {
	q, ok := parse(raw)
	if !ok {
		return
	}
	state := []*tls.ConnectionState{nil, {ServerName: "a.test", HandshakeComplete: true}}
	for _, q.TLS = range state {
		pattern, want, e := x.expect(q)
		served, _ := parse(raw)
		served.TLS = q.TLS
		w := httptest.NewRecorder()
		x.ServeHTTP(w, served)
		record := <-x.served
		require.Equal(x.t, want, w.Code, "%s\n%q\n%v", e, raw, record.Err)
		require.Equal(x.t, pattern, record.Pattern, "%s\n%q", e, raw)
		require.Equal(x.t, pattern, served.Pattern)
		x.compareTarget(&e, &record)
	}
	if q.Header.Get("Expect") != "" || q.RequestURI == "*" && q.Method != http.MethodOptions {
		return // the front refuses it, regardless of the routes
	}
	q.TLS, q.RemoteAddr = nil, "127.0.0.1:1"
	pattern, want, e := x.expect(q)
	nc, err := net.DialTimeout("tcp", x.addr, proxytest.Patience)
	require.NoError(x.t, err)
	c := proxytest.NewConn(nc)
	defer c.Close()
	require.NoError(x.t, c.Send(raw))
	method, _, _ := strings.Cut(raw, " ")
	res, err := c.ReadResponse(method)
	require.NoError(x.t, err, "%q", raw)
	require.Equal(x.t, want, res.StatusCode, "%s\n%q", e, raw)
	if want != http.StatusOK {
		return
	}
	var record hostproxy.Exchange
	proxytest.Eventually(x.t, "the record", func() bool {
		select {
		case record = <-x.routed:
			return true
		default:
			return false
		}
	})
	require.Equal(x.t, pattern, record.Pattern, "%s\n%q", e, raw)
	x.compareTarget(&e, &record)
}

// compareTarget checks that the target that served is one of those that could.
func (x *explained) compareTarget(e *hostproxy.Explanation, record *hostproxy.Exchange) {
	if record.Target == "" {
		return
	}
	if e.Target != "" {
		require.Equal(x.t, e.Target, record.Target, "%s", e)
	}
	i := slices.IndexFunc(e.Targets, func(c hostproxy.Choice) bool { return c.Name == record.Target })
	require.GreaterOrEqual(x.t, i, 0, "%s is none of the targets of\n%s", record.Target, e)
	require.Empty(x.t, e.Targets[i].Why, "%s", e)
}

func FuzzExplanationsAgreeWithAnswers(f *testing.F) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		seed := make([]byte, 60)
		for i := range seed {
			seed[i] = byte(random.Uint32())
		}
		f.Add(seed)
	}
	x := newExplained(f)
	f.Fuzz(func(t *testing.T, choices []byte) {
		m := menu(choices)
		x.t = t // the t of this run
		x.replace(&m)
		for range 4 {
			head := x.request(&m)
			x.ask(head + m.of("\r\n", "Content-Length: 4\r\n\r\nbody", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))
		}
	})
}
