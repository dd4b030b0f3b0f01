package e2e_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A timed site has handlers of the program that return while what they wrap
// still serves the request, as http.TimeoutHandler does. Its target answers all
// paths but those under /slow, which it never answers, and /stream, which it
// never ends.
type timed struct {
	*site
	target *proxytest.Server
	client *http.Client
	base   string // URL of the site

	around    func(http.Handler) http.Handler // wraps the Router; nil does not
	attempted atomic.Bool                     // a late record had an attempt
}

// tooSoon is the time limit of paths that the target does not answer in time.
const tooSoon = 50 * time.Millisecond

// timeout is an http.TimeoutHandler around h.
func timeout(h http.Handler) http.Handler {
	short, long := http.TimeoutHandler(h, tooSoon, "too late"), http.TimeoutHandler(h, proxytest.Patience, "much too late")
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if strings.HasPrefix(q.URL.Path, "/s") {
			short.ServeHTTP(w, q)
		} else {
			long.ServeHTTP(w, q)
		}
	})
}

// overEachServer runs check on a new site for each server and protocol.
func overEachServer(t *testing.T, set func(*timed), check func(*testing.T, *timed)) {
	t.Helper()
	proxytest.NoLeaks(t)
	for _, foreign := range []bool{false, true} {
		for _, protocol := range []string{"h1", "h1 over TLS", "h2"} {
			t.Run(fmt.Sprintf("%s foreign=%v", protocol, foreign), func(t *testing.T) {
				s := &timed{site: &site{router: new(hostproxy.Router), lane: lane{foreign: foreign, secure: protocol != "h1"}}}
				s.target = proxytest.NewServer(t, http.HandlerFunc(slowly))
				s.upstream = hostproxy.To(s.target.Addr())
				s.router.Observe = s.observe
				s.router.Logger = panicsFail(t)
				s.router.Handle("plain.test", s.upstream)
				set(s)
				s.start(t, protocol)
				check(t, s)
				s.settles(t)
			})
		}
	}
}

func slowly(w http.ResponseWriter, q *http.Request) {
	switch {
	case strings.HasPrefix(q.URL.Path, "/slow"):
		if _, err := io.Copy(io.Discard, q.Body); err == nil { // net/http sees an end only then
			<-q.Context().Done()
		}
	case q.URL.Path == "/stream":
		for q.Context().Err() == nil {
			_, _ = io.WriteString(w, "some\n")
			_ = http.NewResponseController(w).Flush()
		}
	default:
		got, _ := io.ReadAll(q.Body)
		_, _ = fmt.Fprintf(w, "%s %s%s", q.Method, q.URL.Path, got)
	}
}

func (s *timed) start(t *testing.T, protocol string) {
	t.Helper()
	var h http.Handler = s.router
	if s.around != nil {
		h = s.around(h)
	}
	var roots *x509.CertPool
	var config *tls.Config
	if s.base = "http://"; s.lane.secure {
		config, roots = proxytest.TLS(t, "a.test", "b.test", "plain.test")
		s.base = "https://"
	}
	if s.lane.foreign {
		server := httptest.NewUnstartedServer(h)
		if s.addr = server.Listener.Addr().String(); s.lane.secure {
			server.TLS, server.EnableHTTP2 = config, true
			server.StartTLS()
		} else {
			server.Start()
		}
		t.Cleanup(func() {
			server.Close()
			for pattern := range s.router.All() {
				s.router.Remove(pattern)
			}
		})
	} else {
		server := &hostproxy.Server{Router: s.router}
		if s.around != nil {
			server.Handler = h
		}
		if s.lane.secure {
			s.router.TLS.Config = config
			s.addr = proxytest.Start(t, server).HTTPS
		} else {
			s.addr = proxytest.StartPlain(t, server).Plain
		}
	}
	kind, _, _ := strings.Cut(protocol, " ")
	s.client = proxytest.HTTPClient(t, s.addr, roots, kind)
}

// do sends a request and returns the status and the body of the response.
func (s *timed) do(t *testing.T, method, host, path string, body io.Reader) (int, string) {
	t.Helper()
	q := newRequest(t, method, path, body)
	q.URL.Scheme, _, _ = strings.Cut(s.base, ":")
	q.URL.Host, q.Host = host, host
	q.SetBasicAuth("ann", "s3cret")
	p, content := do(t, s.client, q)
	return p.StatusCode, content
}

// settles waits until nothing is in flight at any target.
func (s *timed) settles(t *testing.T) {
	t.Helper()
	proxytest.Eventually(t, "the end of all requests at the target", func() bool {
		for target := range s.upstream.All() {
			if target.InFlight() != 0 {
				return false
			}
		}
		return true
	})
}

// users are those of a BasicAuth.
func users(t testing.TB) map[string]string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	require.NoError(t, err)
	return map[string]string{"ann": string(hash)}
}

// tooLate checks a response after the time limit. It is the handler's, or that
// of the Upstream, which has the same limit and may be the first to notice.
func tooLate(t *testing.T, status int, body string) {
	t.Helper()
	assert.Contains(t, []string{"503 too late", "504 504 Gateway Timeout: connection_timeout\n"}, fmt.Sprint(status, " ", body))
}

// late checks the record of a request whose client got that response from a
// handler that did not wait for the Upstream.
func (s *timed) late(t *testing.T, x hostproxy.Exchange, status int, body string) {
	t.Helper()
	tooLate(t, status, body)
	assert.Equal(t, status, x.Status)
	require.Len(t, x.Timeline, x.Attempts)
	if x.Attempts == 0 {
		t.Log("a busy machine: the timeout came before the first attempt")
		return
	}
	s.attempted.Store(true)
	assert.Equal(t, 1, x.Attempts)
	assert.Equal(t, s.target.Addr(), x.Target)
	assert.Equal(t, s.target.Addr(), x.Timeline[0].Target)
	assert.Positive(t, x.Timeline[0].Duration)
	assert.LessOrEqual(t, x.Timeline[0].Duration, x.Duration)
	assert.GreaterOrEqual(t, x.Duration, tooSoon)
	assert.EqualValues(t, len(body), x.ResponseBytes)
	var fault *hostproxy.Error
	// a dial may notice the deadline before the context does
	if assert.ErrorAs(t, x.Err, &fault) && fault.Op != "dial" {
		assert.Equal(t, hostproxy.SideProxy, fault.Side, "%v", fault)
		assert.Equal(t, s.target.Addr(), fault.Target)
	}
}

// A client gets its 503 in time, and the record says so, once. Later requests
// on the connection are not affected by what still goes on.
func TestATimeoutHandlerInARouteHasARecordOfWhatTheClientGot(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	known := users(t)
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"alone":           timeout,
		"around the auth": func(u http.Handler) http.Handler { return timeout(&hostproxy.BasicAuth{Users: known, Next: u}) },
		"behind the auth": func(u http.Handler) http.Handler { return &hostproxy.BasicAuth{Users: known, Next: timeout(u)} },
		"around a guard":  func(u http.Handler) http.Handler { return timeout(&hostproxy.Guard{Next: u}) },
	} {
		t.Run(name, func(t *testing.T) {
			overEachServer(t, func(s *timed) { s.router.Handle("a.test", wrap(s.upstream)) }, func(t *testing.T, s *timed) {
				for i := range 4 {
					status, body := s.do(t, "GET", "a.test", "/slow", nil)
					s.late(t, s.record(t, 3*i+1), status, body)
					status, body = s.do(t, "GET", "a.test", "/fast", nil)
					assert.Equal(t, "200 GET /fast", fmt.Sprint(status, " ", body))
					x := bare(t, s.record(t, 3*i+2))
					assert.Equal(t, []any{200, s.target.Addr(), nil, int64(len("GET /fast"))}, []any{x.Status, x.Target, x.Err, x.ResponseBytes})
					assert.Equal(t, strings.Contains(name, "auth"), x.User == "ann")
					status, _ = s.do(t, "GET", "plain.test", "/fast", nil)
					assert.Equal(t, 200, status)
					x = bare(t, s.record(t, 3*i+3))
					assert.Equal(t, []any{200, "plain.test", s.target.Addr(), nil, ""}, []any{x.Status, x.Pattern, x.Target, x.Err, x.User})
				}
				s.settles(t)
				assert.Equal(t, 12, s.recorded())
				assert.True(t, s.attempted.Load())
			})
		})
	}
}
