package hostproxy_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// explain explains a GET of a URL; the client is 192.0.2.1.
func explain(r *hostproxy.Router, url string) hostproxy.Explanation {
	return r.Explain(httptest.NewRequest("GET", url, nil))
}

// rule returns what a rule of an explanation did, as "outcome: detail".
func rule(t *testing.T, e hostproxy.Explanation, name string) string {
	t.Helper()
	for _, l := range e.Rules {
		if l.Name == name {
			return l.Outcome + ": " + l.Detail
		}
	}
	require.Fail(t, "no such rule", "%s in\n%s", name, e)
	return ""
}

func TestExplainNamesTheRuleThatDecides(t *testing.T) {
	client, other := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	limit := &hostproxy.RateLimit{Rate: 0.1, Burst: 3}
	for _, tt := range []struct {
		rule, want string
		status     int
		set        func(u *hostproxy.Upstream)
	}{
		{"Upstream.Deny", "refuses: the client's address is on the list", 403, func(u *hostproxy.Upstream) { u.Deny = client }},
		{"Upstream.Deny", "passes: the client's address is not on the list", 0, func(u *hostproxy.Upstream) { u.Deny = other }},
		{"Upstream.Allow", "refuses: the client's address is not on the list", 403, func(u *hostproxy.Upstream) { u.Allow = other }},
		{"Upstream.Allow", "passes: the client's address is on the list", 0, func(u *hostproxy.Upstream) { u.Allow = client }},
		{"Upstream.MaxRequestBody", "passes: the body has 0 bytes; the limit is 9", 0, func(u *hostproxy.Upstream) { u.MaxRequestBody = 9 }},
		{"Upstream.RateLimit", "passes: requests left for the client: 3", 0, func(u *hostproxy.Upstream) { u.RateLimit = limit }},
		{"Upstream.RateLimit", "passes: requests in flight for the client: 0 of 2", 0, func(u *hostproxy.Upstream) {
			u.RateLimit = &hostproxy.RateLimit{MaxInFlight: 2}
		}},
		{"Upstream.RateLimit", "passes: requests left for the client (the request has no header X-Tenant): 3", 0, func(u *hostproxy.Upstream) {
			u.RateLimit = &hostproxy.RateLimit{Rate: 0.1, Burst: 3, MaxInFlight: 2, By: hostproxy.LimitKey{Header: "x-tenant"}}
		}},
		{"Upstream.RateLimit", "passes: requests left for the client (the request has no cookie id): 3", 0, func(u *hostproxy.Upstream) {
			u.RateLimit = &hostproxy.RateLimit{Rate: 0.1, Burst: 3, By: hostproxy.LimitKey{Cookie: "id"}}
		}},
		{"Upstream.RateLimit", "passes: requests left for this value of the host: 3", 0, func(u *hostproxy.Upstream) {
			u.RateLimit = &hostproxy.RateLimit{Rate: 0.1, Burst: 3, By: hostproxy.LimitKey{Host: true}}
		}},
		{"Upstream.RateLimit", "unknown: By.Func decides what the request counts for; Explain does not call it", 0, func(u *hostproxy.Upstream) {
			u.RateLimit = &hostproxy.RateLimit{Rate: 1, By: hostproxy.LimitKey{Func: func(*http.Request) string { panic("called") }}}
		}},
		{"Upstream.MaxInFlight", "passes: requests in flight: 0 of 2", 0, func(u *hostproxy.Upstream) { u.MaxInFlight = 2 }},
		{"Upstream.Maintain", "refuses: every request gets the page passed to Maintain, until Resume", 418, func(u *hostproxy.Upstream) { _ = u.Maintain(hostproxy.Page{Status: 418}) }},
		{"Upstream.Pause", "refuses: paused for too long", 503, func(u *hostproxy.Upstream) { _ = u.Pause(-1) }},
		{"Upstream.Drain", "refuses: upstream is draining", 503, func(u *hostproxy.Upstream) { _ = u.Drain(context.Background()) }},
		{"Upstream.Targets", "refuses: no target is available: all are down, full or already tried", 503, func(u *hostproxy.Upstream) {
			u.FailClosed, u.Health = true, &hostproxy.HealthCheck{StartDown: true}
		}},
		{"Upstream.Canary", "passes: the client is in the share of clients that the canary serves", 403, func(u *hostproxy.Upstream) {
			to := hostproxy.To("c:1")
			to.Deny = client
			_ = u.Canary(to, 1)
		}},
		{"Upstream", "refuses: MaxInFlight is negative", 500, func(u *hostproxy.Upstream) { u.MaxInFlight = -1 }},
	} {
		t.Run(tt.rule+" "+tt.want, func(t *testing.T) {
			var r hostproxy.Router
			u := hostproxy.To("a:1")
			r.Handle("a.test", u)
			tt.set(u)
			e := explain(&r, "http://a.test/")
			assert.Equal(t, "a.test", e.Pattern)
			assert.Contains(t, rule(t, e, tt.rule), tt.want)
			assert.Equal(t, tt.status, e.Status, "%s", e)
			if tt.status != 0 {
				assert.Contains(t, e.String(), fmt.Sprintf("\nresponse: %d, %s", tt.status, e.Reason))
			} else {
				assert.Contains(t, e.String(), "\nresponse: from target a:1\n")
			}
		})
	}
}

func TestExplainNamesTheRulesOfAGuard(t *testing.T) {
	client := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	keyed := &hostproxy.RateLimit{Rate: 0.1, Burst: 1, By: hostproxy.LimitKey{Header: "X-Api-Key"}}
	var r hostproxy.Router
	r.Handle("a.test", &hostproxy.Guard{Allow: client, RateLimit: keyed, Next: status(204)})
	r.Handle("b.test", &hostproxy.Guard{Deny: client, Next: hostproxy.To("b:1")})
	for range 3 {
		e := explain(&r, "http://a.test/")
		assert.Equal(t, []string{"*hostproxy.Guard", "http.HandlerFunc"}, e.Handlers)
		assert.Equal(t, "passes: the client's address is on the list", rule(t, e, "Guard.Allow"))
		assert.Equal(t, "passes: requests left for the client (the request has no header X-Api-Key): 1", rule(t, e, "Guard.RateLimit"))
	}
	q := httptest.NewRequest("GET", "http://a.test/", nil)
	q.Header.Set("X-Api-Key", "secret")
	r.ServeHTTP(httptest.NewRecorder(), q)
	e := r.Explain(q)
	assert.Equal(t, 429, e.Status)
	assert.Contains(t, rule(t, e, "Guard.RateLimit"), "refuses: too many requests for this value of the header X-Api-Key: the next one is allowed in ")
	assert.NotContains(t, e.String(), "secret")

	e = explain(&r, "http://b.test/")
	assert.Equal(t, 403, e.Status)
	assert.Equal(t, "refuses: the client's address is on the list", rule(t, e, "Guard.Deny"))
}

func TestExplainSaysWhichTargetsAreEligible(t *testing.T) {
	up, broken := proxytest.NewServer(t, nil), proxytest.NewServer(t, status(500))
	u := hostproxy.To(up.Addr(), broken.Addr(), "spare:1")
	u.Policy, u.Weights = hostproxy.RoundRobin, []int{1, 1, 0}
	u.Breaker = &hostproxy.Breaker{Failures: 1, Statuses: []int{500}}
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	r.Handle("a.test", u)
	for range 2 {
		turn := explain(&r, "http://a.test/").Target
		q := httptest.NewRequest("GET", "http://a.test/", nil)
		var served string
		r.Observe = func(x *hostproxy.Exchange) { served = x.Target }
		r.ServeHTTP(httptest.NewRecorder(), q)
		assert.Equal(t, turn, served, "the target whose turn it is")
	}
	e := explain(&r, "http://a.test/")
	assert.Equal(t, []hostproxy.Choice{{Name: up.Addr()}, {Name: broken.Addr(), Why: "its breaker is open: 1 failure: answered with status 500"},
		{Name: "spare:1", Why: "its weight is 0"}}, e.Targets)
	assert.Equal(t, up.Addr(), e.Target)
	assert.Equal(t, "the next in turn", e.Selection)
}

// roundTrip is a Transport.
type roundTrip func(*http.Request) *http.Response

func (f roundTrip) RoundTrip(q *http.Request) (*http.Response, error) { return f(q), nil }

func TestExplainKnowsThatAHalfOpenBreakerIsBeingTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := make(chan struct{})
		u := hostproxy.To("a:1")
		u.FailClosed, u.Breaker = true, &hostproxy.Breaker{Failures: 1, Statuses: []int{500}, OpenFor: time.Minute}
		u.Transport = roundTrip(func(q *http.Request) *http.Response {
			if q.URL.Path == "/fails" {
				return &http.Response{StatusCode: 500, Body: http.NoBody}
			}
			<-held
			return &http.Response{StatusCode: 200, Body: http.NoBody}
		})
		r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
		r.Handle("a.test", u)
		ask(&r, "GET", "http://a.test/fails")
		why := func() string { return explain(&r, "http://a.test/").Targets[0].Why }
		assert.Contains(t, why(), "its breaker is open: ")
		time.Sleep(time.Minute)
		assert.Empty(t, why())
		done := make(chan int)
		go func() { done <- ask(&r, "GET", "http://a.test/").Code }()
		synctest.Wait()
		assert.Contains(t, why(), "its breaker is half-open, and its trial requests are in flight: ")
		assert.Equal(t, 503, explain(&r, "http://a.test/").Status)
		close(held)
		assert.Equal(t, 200, <-done)
		assert.Empty(t, why())
	})
}

func TestExplainReportsARandomChoice(t *testing.T) {
	var r hostproxy.Router
	u := hostproxy.To("a:1", "b:2")
	r.Handle("a.test", u)
	e := explain(&r, "http://a.test/")
	assert.Empty(t, e.Target)
	assert.Equal(t, "the less busy of two drawn at random", e.Selection)
	assert.Contains(t, e.String(), "\nresponse: from one of 2 targets\n")
}

func TestExplainKnowsTheTargetsOfStickyAndHashedRequests(t *testing.T) {
	one, two := proxytest.NewServer(t, nil), proxytest.NewServer(t, nil)
	var r hostproxy.Router
	sticky, hashed := hostproxy.To(one.Addr(), two.Addr()), hostproxy.To(one.Addr(), two.Addr())
	sticky.Sticky = &hostproxy.Sticky{}
	hashed.Policy, hashed.HashBy = hostproxy.ConsistentHash, hostproxy.HashKey{URI: true}
	r.Handle("sticky.test", sticky)
	r.Handle("hashed.test", hashed)
	var served string
	r.Observe = func(x *hostproxy.Exchange) { served = x.Target }

	cookie := ask(&r, "GET", "http://sticky.test/").Result().Cookies()[0]
	q := httptest.NewRequest("GET", "http://sticky.test/", nil)
	q.AddCookie(cookie)
	e := r.Explain(q)
	assert.Equal(t, served, e.Target)
	assert.Equal(t, "the target of the client's Sticky cookie", e.Selection)
	for _, path := range []string{"/a", "/b", "/c", "/d"} {
		e := explain(&r, "http://hashed.test"+path)
		ask(&r, "GET", "http://hashed.test"+path)
		assert.Equal(t, served, e.Target)
	}
}

func TestExplainSaysWhatARequestWouldWaitFor(t *testing.T) {
	held := make(chan struct{})
	began := make(chan struct{}, 10)
	b := proxytest.NewServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { began <- struct{}{}; <-held }))
	for _, tt := range []struct {
		about string
		set   func(u *hostproxy.Upstream)
		waits string
		want  string
		fails int
	}{
		{"no room at the upstream", func(u *hostproxy.Upstream) { u.MaxInFlight = 1 }, "", "refuses: MaxInFlight is reached (1 of 1 requests); the queue is full (0 of 0 requests)", 503},
		{"a place in the queue", func(u *hostproxy.Upstream) {
			u.MaxInFlight, u.Queue = 1, hostproxy.Queue{Max: 5, Wait: time.Minute}
		}, "Upstream.Queue: MaxInFlight is reached (1 of 1 requests); the request waits in the queue; requests ahead of it: 0; longest wait: 1m0s",
			"waits: MaxInFlight is reached (1 of 1 requests); the request waits in the queue; requests ahead of it: 0; longest wait: 1m0s", 0},
		{"no room at the target", func(u *hostproxy.Upstream) { u.MaxTargetInFlight = 1 }, "", "refuses: MaxTargetInFlight is reached at every available target; the queue is full (0 of 0 requests)", 503},
	} {
		t.Run(tt.about, func(t *testing.T) {
			var r hostproxy.Router
			u := hostproxy.To(b.Addr())
			tt.set(u)
			r.Handle("a.test", u)
			done := make(chan struct{})
			go func() { defer close(done); ask(&r, "GET", "http://a.test/") }()
			<-began
			e := explain(&r, "http://a.test/")
			held <- struct{}{}
			<-done
			assert.Equal(t, tt.want, rule(t, e, "Upstream.Queue"))
			assert.Equal(t, tt.waits, e.Wait)
			assert.Equal(t, tt.fails, e.Status)
		})
	}
	u := hostproxy.To("a:1")
	require.NoError(t, u.Pause(time.Hour))
	var r hostproxy.Router
	r.Handle("a.test", u)
	assert.Contains(t, explain(&r, "http://a.test/").Wait, "Upstream.Pause: the request waits for Resume, at most ")
}

func TestExplainLooksThroughHandlers(t *testing.T) {
	b := proxytest.NewServer(t, nil)
	u := hostproxy.To(b.Addr())
	users := map[string]string{"ali": "$2a$04$r.H.IwusjCYoQM/2jE2t1ex2PJE9s8XUMzwU8yUGnPrQeuF57GLjS"}
	var r hostproxy.Router
	r.Handle("basic.test", &hostproxy.BasicAuth{Users: users, Next: &hostproxy.ForwardAuth{Auth: hostproxy.To("auth:1"), Path: "/verify", Next: u}})

	e := explain(&r, "http://basic.test/")
	assert.Equal(t, []string{"*hostproxy.BasicAuth", "*hostproxy.ForwardAuth", "*hostproxy.Upstream"}, e.Handlers)
	assert.Equal(t, 401, e.Status)
	assert.Equal(t, "refuses: the request needs exactly one Authorization header, with Basic credentials", rule(t, e, "BasicAuth"))
	assert.Equal(t, "unknown: the authentication server decides (GET /verify); an explanation does not ask it", rule(t, e, "ForwardAuth"))
	assert.Equal(t, b.Addr(), e.Target, "the target if both let the request pass")
	q := httptest.NewRequest("GET", "http://basic.test/", nil)
	q.SetBasicAuth("ali", "wrong")
	assert.Equal(t, "unknown: the request has Basic credentials, which an explanation does not verify", rule(t, r.Explain(q), "BasicAuth"))

}

// A handler of the program may send each request elsewhere: where earlier ones
// went says nothing about the next.
func TestExplainNamesNoTargetBehindAHandlerThatDecides(t *testing.T) {
	b := proxytest.NewServer(t, nil)
	u, other := hostproxy.To(b.Addr()), hostproxy.To(b.Addr())
	var r hostproxy.Router
	r.Handle("*", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch q.Host {
		case "bob.test":
			u.ServeHTTP(w, q)
		case "eve.test":
			other.ServeHTTP(w, q)
		default:
			http.NotFound(w, q)
		}
	}))
	opaque := func() hostproxy.Explanation {
		t.Helper()
		e := explain(&r, "http://nobody.test/")
		assert.Equal(t, []string{"http.HandlerFunc"}, e.Handlers)
		assert.Contains(t, e.String(), "\nresponse: from http.HandlerFunc\n")
		assert.Empty(t, e.Target)
		assert.Empty(t, e.Targets)
		return e
	}
	assert.Empty(t, opaque().Rules)
	const hint = "unknown: it decides what to do with each request; earlier ones reached an Upstream through it: " +
		"if all do, give it a method Unwrap() http.Handler"
	for _, host := range []string{"bob.test", "eve.test"} {
		require.Equal(t, 200, ask(&r, "GET", "http://"+host+"/").Code)
		assert.Equal(t, hint, rule(t, opaque(), "http.HandlerFunc"))
	}
}

// never is a set of hooks that Explain must not call.
type never struct{ t *testing.T }

func (n never) called()                                                          { n.t.Error("a hook is called") }
func (n never) ServeHTTP(http.ResponseWriter, *http.Request)                     { n.called() }
func (n never) RoundTrip(*http.Request) (*http.Response, error)                  { n.called(); return nil, nil }
func (n never) Allow(context.Context, netip.Addr) (q hostproxy.Quota, err error) { n.called(); return }

func TestExplainHasNoEffect(t *testing.T) {
	n := never{t}
	u := hostproxy.To("a:1", "b:2")
	u.Transport = n
	u.Pick = func(*http.Request, []*hostproxy.Target) *hostproxy.Target { n.called(); return nil }
	u.Rewrite = func(*httputil.ProxyRequest) { n.called() }
	u.ModifyResponse = func(*http.Response) error { n.called(); return nil }
	u.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { n.called() }
	u.TargetChanged = func(*hostproxy.Target, hostproxy.Health) { n.called() }
	u.Discover = func(context.Context, func([]hostproxy.Endpoint)) error { n.called(); return nil }
	u.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: n}
	u.Health = &hostproxy.HealthCheck{Interval: time.Millisecond}
	r := hostproxy.Router{NotFound: n, Observe: func(*hostproxy.Exchange) { n.called() }, RateLimit: &hostproxy.RateLimit{Rate: 0.1, Burst: 1}}
	r.TLS.Host = func(string) (hostproxy.HostTLS, error) { n.called(); return hostproxy.HostTLS{}, nil }
	r.TLS.HostPolicy = func(context.Context, string) error { n.called(); return nil }
	r.Handle("a.test", u)
	r.Handle("b.test", &hostproxy.ForwardAuth{Auth: u, Next: n})
	r.Handle("c.test", n)
	for range 3 {
		for _, host := range []string{"a.test", "b.test", "c.test", "d.test"} {
			e := explain(&r, "https://"+host+"/")
			assert.Equal(t, "passes: requests left for the client: 1", rule(t, e, "Router.RateLimit"), "no token is taken")
		}
	}
	assert.Equal(t, "chosen by Upstream.Pick", explain(&r, "http://a.test/").Selection)
	assert.Equal(t, []string{"hostproxy_test.never"}, explain(&r, "http://d.test/").Handlers, "NotFound")

	// Explain has put no field in force
	u.Deny = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	assert.Equal(t, 403, explain(&r, "http://a.test/").Status)
	r.RateLimit = &hostproxy.RateLimit{Rate: 0.1, Burst: 2}
	assert.Equal(t, "passes: requests left for the client: 2", rule(t, explain(&r, "http://a.test/"), "Router.RateLimit"))
	r.RateLimit.Burst = 1
	require.NoError(t, r.Check())
	u.Transport, u.Discover, u.Health, u.TargetChanged, r.Observe, u.RateLimit = nil, nil, nil, nil, nil, nil
	assert.Equal(t, 403, ask(&r, "GET", "http://a.test/").Code)
	assert.Equal(t, 429, explain(&r, "http://a.test/").Status, "the request has taken the token")
}

func TestExplainReportsAPassthrough(t *testing.T) {
	var r hostproxy.Router
	r.Handle("a.test", &hostproxy.Passthrough{Addr: "10.0.0.9:443"})
	e := explain(&r, "https://a.test/")
	assert.Equal(t, 421, e.Status)
	assert.Equal(t, "none here: TLS for a.test ends at 10.0.0.9:443 (Passthrough)", e.TLS)
	assert.Zero(t, e.Certificate)
}

func TestTheStatusPageExplains(t *testing.T) {
	var r hostproxy.Router
	r.Handle("a.test", hostproxy.To("b:1"))
	h := hostproxy.StatusHandler(&r)
	about := "/?client=192.0.2.1&url=" + url.QueryEscape("http://a.test/x")
	want := explain(&r, "http://a.test/x").String()
	assert.Contains(t, ask(h, "GET", about).Body.String(), "<pre>"+want+"</pre>")
	var got struct {
		Pattern, Target, Text string
	}
	require.NoError(t, json.Unmarshal(ask(h, "GET", about+"&format=json").Body.Bytes(), &got))
	assert.Equal(t, []string{"a.test", "b:1", want}, []string{got.Pattern, got.Target, got.Text})
	assert.Equal(t, 405, ask(h, "POST", about).Code)
}

func TestExplainShowsTheCertificate(t *testing.T) {
	t.Parallel() // mostly waiting
	conf, _ := proxytest.TLS(t, "own.example.com")
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler), TLS: hostproxy.TLS{Config: conf, Storage: files(t), Lazy: true, DisablePreflight: true}}
	r.Handle("own.example.com", says("own"))
	r.Handle("local.test", says("local"))
	r.Handle("lazy.example.com", says("lazy"))
	assert.Equal(t, "none: the Router does not listen with TLS", explain(&r, "https://local.test/").TLS)
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	ca := &hostproxy.LocalCA{Storage: r.TLS.Storage}
	root, err := ca.RootPEM(t.Context())
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	c := proxytest.DialTLS(t, s.HTTPS, &tls.Config{RootCAs: roots, ServerName: "local.test"})
	leaf := c.Conn.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0]

	e := explain(&r, "https://local.test/")
	assert.Equal(t, "a certificate of its own", e.TLS)
	assert.Equal(t, hostproxy.CertValid, e.Certificate.State)
	assert.Equal(t, leaf.SerialNumber, e.Certificate.Serial)
	assert.Contains(t, e.String(), "\ncertificate: a certificate of its own: valid, issued by hostproxy-local, valid until "+leaf.NotAfter.UTC().Format("2006-01-02"))
	e = explain(&r, "https://own.example.com/")
	assert.Equal(t, hostproxy.CertStatic, e.Certificate.State)
	assert.Equal(t, "a certificate from TLS.Files or TLS.Config", e.TLS)
	e = explain(&r, "https://lazy.example.com/")
	assert.Equal(t, "no certificate yet: the handshake waits for it", e.TLS)
	assert.Equal(t, hostproxy.CertPending, e.Certificate.State)
	assert.Equal(t, "no certificate: no route serves the host", explain(&r, "https://other.test/").TLS)
	assert.Equal(t, 421, explain(&r, "https://other.test/").Status)

	changes, err := r.CheckReplace(map[string]http.Handler{"own.example.com": says("own"), "new.example.com": says("new"), "*.wild.example.com": says("wild")})
	require.NoError(t, err)
	assert.Empty(t, changes.Certificates, "with Lazy, a handshake orders the host; the wildcard cannot be issued")
}
