package e2e_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A tracer sets one header for each exchange and one for each attempt, and
// keeps a value for each.
type tracer struct{ exchanges, attempts atomic.Int64 }

func (c *tracer) begin(b *hostproxy.Beginning) {
	n := c.exchanges.Add(1)
	b.Exchange.Value = fmt.Sprint("exchange ", n, " of ", b.Header("X-Trace"))
	b.SetHeader("x-trace", "unused")
	b.SetHeader("X-Trace", fmt.Sprint("t", n))
	b.RemoveHeader("X-State")
	b.SetHeader("X-Span", "replaced by each attempt")
}

func (c *tracer) attempt(b *hostproxy.Beginning) {
	n := c.attempts.Add(1)
	b.Attempt.Value = n
	b.SetHeader("X-Span", fmt.Sprint(b.Header("X-Trace"), "-s", n, "-", b.Exchange.Attempts))
}

// traced gives a site's router the hooks of a tracer.
func traced(s *site) {
	c := new(tracer)
	s.router.Begin, s.router.BeginAttempt = c.begin, c.attempt
}

// The client's own copies of the headers that the hooks set, in a head and in a
// trailer section.
const (
	traces   = "X-Trace: forged\r\nX_Trace: forged\r\nx-span: forged\r\nX_SPAN: forged\r\nX-State: forged\r\nX_State: forged\r\n"
	trailing = traces + "X-Sum: 1"
)

// traceFields returns the lines of a message that a CGI-like program reads as
// the headers of the hooks.
func traceFields(raw []byte) (lines []string) {
	for line := range strings.SplitSeq(string(raw), "\r\n") {
		name, _, ok := strings.Cut(line, ":")
		switch strings.ToLower(strings.ReplaceAll(name, "_", "-")) {
		case "x-trace", "x-span", "x-state":
			if ok {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

func TestHooksAtTheBeginningSetHeadersAndKeepValues(t *testing.T) {
	overEachLane(t, good, func(t *testing.T, s *site) {
		c := s.dial(t)
		for i, raw := range []string{
			"GET / HTTP/1.1\r\n" + host + traces + "\r\n",
			"GET / HTTP/1.1\r\n" + host + "\r\n",
			"POST / HTTP/1.1\r\n" + host + traces + sized("hello"),
			"POST / HTTP/1.1\r\n" + host + traces + "Transfer-Encoding: chunked\r\n\r\n" + chunked("hello", 2, trailing),
			"POST / HTTP/1.1\r\n" + host + traces + "Trailer: X-Trace, X-Span, X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n" +
				chunked(strings.Repeat("x", 70_000), 9000, trailing),
			"GET / HTTP/1.1\r\n" + host + traces + "Connection: x-trace, x-span\r\n\r\n",
		} {
			require.Equal(t, 200, c.Do(raw).StatusCode)
			q := s.backend.WaitRequests(i + 1)[i]
			n := i + 1
			assert.ElementsMatch(t, []string{fmt.Sprint("X-Trace: t", n), fmt.Sprintf("X-Span: t%d-s%d-1", n, n)}, traceFields(q.Raw), "%q", raw)
			assert.Equal(t, strings.Contains(raw, "X-Sum: 1"), strings.Contains(string(q.Raw), "X-Sum: 1"))
			x := s.record(t, n)
			want := fmt.Sprint("exchange ", n, " of ")
			if strings.Contains(raw, "X-Trace: forged") {
				want += "forged"
			}
			assert.Equal(t, want, x.Value)
			require.Len(t, x.Timeline, 1)
			a := x.Timeline[0]
			assert.Equal(t, int64(n), a.Value)
			assert.Equal(t, s.backend.Addr(), a.Target)
			assert.Equal(t, 200, a.Status)
			assert.NoError(t, a.Err)
			assert.False(t, a.Retry || a.Hedge)
			assert.Positive(t, a.FirstByte)
			assert.GreaterOrEqual(t, a.Duration, a.FirstByte)
			assert.GreaterOrEqual(t, x.Duration, a.Duration)
			assert.False(t, a.Start.Before(x.Start))
			assert.Equal(t, x.Dial, a.Dial)
		}
	}, traced)
}

// Records have the times of attempts also with hooks for attempts only, and
// without hooks.
func TestRecordsHaveTheTimesOfAttempts(t *testing.T) {
	for name, set := range map[string]setting{
		"no hook":                  func(*site) {},
		"a hook for attempts":      func(s *site) { s.router.BeginAttempt = func(b *hostproxy.Beginning) { b.SetHeader("X-Span", "s") } },
		"a hook that does nothing": func(s *site) { s.router.Begin = func(*hostproxy.Beginning) {} },
	} {
		t.Run(name, func(t *testing.T) {
			down := proxytest.Refused(t)
			overEachLane(t, good, func(t *testing.T, s *site) {
				c := s.dial(t)
				for i := range 2 {
					require.Equal(t, 200, c.Do(get).StatusCode)
					x := s.record(t, i+1)
					require.Len(t, x.Timeline, 2)
					lost, won := x.Timeline[0], x.Timeline[1]
					assert.Equal(t, []string{down, s.backend.Addr()}, []string{lost.Target, won.Target})
					assert.Equal(t, []bool{false, true}, []bool{lost.Retry, won.Retry})
					var e *hostproxy.Error
					require.ErrorAs(t, lost.Err, &e)
					assert.Equal(t, "dial", e.Op)
					assert.Equal(t, x.Retried, []error{lost.Err})
					assert.Zero(t, lost.Status)
					assert.Zero(t, lost.FirstByte)
					assert.Equal(t, 200, won.Status)
					assert.NoError(t, won.Err)
					assert.Equal(t, x.FirstByte, won.FirstByte)
					assert.Equal(t, x.Dial, lost.Dial+won.Dial)
				}
			}, set, func(s *site) {
				s.upstream = hostproxy.To(down, s.backend.Addr())
				s.upstream.Policy = hostproxy.FirstAvailable
			})
		})
	}
}

// Begin is called for each exchange that Observe gets, no matter what answers
// it, and for requests that cannot be read.
func TestBeginIsCalledWheneverObserveIs(t *testing.T) {
	overEachLane(t, good, func(t *testing.T, s *site) {
		for i, raw := range []string{
			get,
			"GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: moved.test\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: denied.test\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: limited.test\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: down.test\r\n\r\n",
			"CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n",
			"GET /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: gzip\r\n\r\n",
		} {
			if s.lane.foreign && i > 5 {
				break // net/http itself answers these
			}
			s.dial(t).Do(raw)
			x := s.record(t, i+1)
			assert.Equal(t, fmt.Sprint("exchange ", i+1, " of "), x.Value, "%s: %d", raw, x.Status)
		}
	}, traced, func(s *site) {
		denied, limited := hostproxy.To(s.backend.Addr()), hostproxy.To(s.backend.Addr())
		denied.Deny = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
		limited.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: refuses{}}
		s.router.Handle("denied.test", denied)
		s.router.Handle("limited.test", limited)
		s.router.Handle("moved.test", hostproxy.Redirect("a.test"))
		s.router.Handle("down.test", hostproxy.To(proxytest.Refused(t)))
	})
}

func TestBeginKnowsTheRequestAndNotItsRoute(t *testing.T) {
	overEachLane(t, good, func(t *testing.T, s *site) {
		s.dial(t).Do("GET /p?q HTTP/1.1\r\n" + host + "User-Agent: u\r\nReferer: r\r\nX-A: 1\r\nx-a: 2\r\n\r\n")
		x := s.record(t, 1)
		for i, began := range []hostproxy.Exchange{x.Value.([]hostproxy.Exchange)[0], x.Value.([]hostproxy.Exchange)[1]} {
			assert.Equal(t, []any{x.Start, x.Client, x.Peer, x.Proto, x.Scheme, x.Method, x.Host, x.Path, x.Query, x.UserAgent, x.Referer, x.RequestID, x.TLSVersion, x.ServerName},
				[]any{began.Start, began.Client, began.Peer, began.Proto, began.Scheme, began.Method, began.Host, began.Path, began.Query, began.UserAgent, began.Referer, began.RequestID, began.TLSVersion, began.ServerName})
			assert.NotEmpty(t, began.RequestID)
			assert.Equal(t, i > 0, began.Pattern == "a.test")
			assert.Equal(t, i > 0, began.Target == s.backend.Addr())
			assert.Equal(t, i, began.Attempts)
		}
	}, numbered, func(s *site) {
		s.router.Begin = func(b *hostproxy.Beginning) {
			assert.Equal(t, "1, 2", b.Header("X-A"))
			assert.Equal(t, b.Exchange.RequestID, b.Header("X-Request-Id"))
			assert.Empty(t, b.Header("X-B"))
			b.Exchange.Value = []hostproxy.Exchange{*b.Exchange}
		}
		s.router.BeginAttempt = func(b *hostproxy.Beginning) {
			assert.Equal(t, b.Exchange.RequestID, b.Header("X-Request-Id"))
			b.Exchange.Value = append(b.Exchange.Value.([]hostproxy.Exchange), *b.Exchange)
		}
	})
}

// failingHooks sets hooks that fail requests with certain paths.
func failingHooks(s *site) {
	fails := func(b *hostproxy.Beginning, where string) {
		if why, ok := strings.CutPrefix(b.Exchange.Path, where); ok {
			switch why {
			case "panic":
				panic("as told")
			case "hop":
				b.SetHeader("Connection", "close")
			case "value":
				b.SetHeader("X-A", "1\r\nX-B: 2")
			}
		}
	}
	s.router.Begin = func(b *hostproxy.Beginning) { b.SetHeader("X-Trace", "t"); fails(b, "/exchange/") }
	s.router.BeginAttempt = func(b *hostproxy.Beginning) { b.Attempt.Value = "tried"; fails(b, "/attempt/") }
}

func TestAHookThatFailsFailsOnlyItsRequest(t *testing.T) {
	log := new(proxytest.Log)
	overEachLane(t, good, func(t *testing.T, s *site) {
		c, n := s.dial(t), 0
		for _, where := range []string{"exchange", "attempt"} {
			for why, rule := range map[string]string{"panic": "as told", "hop": `header "Connection" is not allowed: want`, "value": "want one without control characters"} {
				for _, raw := range []string{"GET /" + where + "/" + why + " HTTP/1.1\r\n" + host + "\r\n", "POST /" + where + "/" + why + " HTTP/1.1\r\n" + host + sized("hello")} {
					n++
					a := c.Do(raw)
					assert.Equal(t, 500, a.StatusCode, raw)
					x := s.record(t, n)
					assert.Equal(t, 500, x.Status)
					var e *hostproxy.Error
					require.ErrorAs(t, x.Err, &e)
					assert.Equal(t, hostproxy.SideProxy, e.Side)
					assert.ErrorContains(t, e, rule)
					assert.Contains(t, log.String(), strings.ReplaceAll(rule, `"`, `\"`))
					assert.Equal(t, where == "attempt", x.Pattern == "a.test", "the route is not known before")
					if where == "attempt" {
						require.Len(t, x.Timeline, 1)
						assert.Equal(t, "tried", x.Timeline[0].Value)
						assert.ErrorContains(t, x.Timeline[0].Err, rule)
					}
					if !a.Close {
						n++
						require.Equal(t, 200, c.Do(get).StatusCode, "the next request on the connection")
						continue
					}
					c = s.dial(t)
				}
			}
		}
		assert.Len(t, s.backend.Requests(), len(s.backend.WaitRequests(0)))
		for _, q := range s.backend.Requests() {
			assert.Equal(t, "/", q.URL.Path, "nothing of the others has been sent")
		}
		noneInFlight(t, s.upstream)
	}, failingHooks, func(s *site) { s.router.Logger = slog.New(slog.NewTextHandler(log, nil)) })
}

// Hooks cannot set headers that the proxy itself writes or reads.
func TestHooksCannotSetWhatTheProxyWrites(t *testing.T) {
	for _, name := range []string{"", "a b", "X-A\r\n", "Host", "Content-Length", "Transfer-Encoding", "transfer_encoding", "Connection", "Upgrade", "TE", "Trailer",
		"Keep-Alive", "Expect", "Via", "X-Forwarded-For", "X_Forwarded_For", "Forwarded", "X-Real-Ip", ":path", "X-Request-Id", "x_request_id"} {
		errs := make(chan error, 1)
		r := &hostproxy.Router{Logger: silent(), RequestID: hostproxy.RequestIDHeader{Name: "X-Request-Id"},
			Begin: func(b *hostproxy.Beginning) { b.SetHeader(name, "1"); b.SetHeader("X-Good", "1") }, Observe: func(x *hostproxy.Exchange) { errs <- x.Err }}
		r.Handle("a.test", hostproxy.To("127.0.0.1:1"))
		assert.Equal(t, 500, proxytest.Dial(t, proxytest.StartPlain(t, &hostproxy.Server{Router: r}).Plain).Do(get).StatusCode)
		assert.ErrorContains(t, <-errs, fmt.Sprintf("header %q is not allowed", name))
	}
}

// refuses is a Limiter that allows nothing.
type refuses struct{}

func (refuses) Allow(context.Context, netip.Addr) (hostproxy.Quota, error) {
	return hostproxy.Quota{}, nil
}

func TestEachHedgedAttemptHasItsOwnHeaders(t *testing.T) {
	left := make(chan string, 9)
	slow, fast := slowAndFast(t, left)
	overEachLane(t, good, func(t *testing.T, s *site) {
		before := len(fast.Requests())
		require.Equal(t, 200, s.dial(t).Do("GET / HTTP/1.1\r\nHost: b.test\r\n"+traces+"\r\n").StatusCode)
		x := s.record(t, 1)
		require.Len(t, x.Timeline, 2)
		first, second := x.Timeline[0], x.Timeline[1]
		assert.Equal(t, []any{slow.Addr(), false, false, int64(1)}, []any{first.Target, first.Retry, first.Hedge, first.Value})
		assert.ErrorContains(t, first.Err, "another target was faster")
		assert.Zero(t, first.Status)
		assert.Equal(t, []any{fast.Addr(), false, true, int64(2), 200}, []any{second.Target, second.Retry, second.Hedge, second.Value, second.Status})
		assert.NoError(t, second.Err)
		assert.Positive(t, second.FirstByte)
		assert.True(t, second.Start.After(first.Start))
		assert.ElementsMatch(t, []string{"X-Trace: t1", "X-Span: t1-s1-1"}, traceFields(slow.Requests()[len(slow.Requests())-1].Raw))
		assert.ElementsMatch(t, []string{"X-Trace: t1", "X-Span: t1-s2-2"}, traceFields(fast.WaitRequests(before + 1)[before].Raw))
		<-left
	}, traced, func(s *site) { s.router.Handle("b.test", hedged(slow, fast)()) })
}

func TestAHookThatFailsTheSecondOfTwoAttemptsFailsTheRequest(t *testing.T) {
	left := make(chan string, 9)
	slow := proxytest.NewBackend(t, thinks(left))
	fast := proxytest.NewBackend(t, good)
	overEachLane(t, good, func(t *testing.T, s *site) {
		u := hedged(slow, fast)()
		s.router.Handle("b.test", u)
		c := s.dial(t)
		require.Equal(t, 500, c.Do("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n").StatusCode)
		<-left // the first attempt is given up
		x := s.record(t, 1)
		assert.ErrorContains(t, x.Err, "panic in BeginAttempt: second")
		require.Len(t, x.Timeline, 2)
		assert.ErrorContains(t, x.Timeline[1].Err, "panic in BeginAttempt: second")
		assert.Error(t, x.Timeline[0].Err)
		noneInFlight(t, u)
		assert.Equal(t, 200, c.Do(get).StatusCode)
		assert.Empty(t, fast.Requests())
	}, func(s *site) {
		s.router.Logger = silent()
		s.router.BeginAttempt = func(b *hostproxy.Beginning) {
			if b.Attempt.Hedge {
				panic("second")
			}
		}
	})
}

func TestHooksAreCalledForUpgrades(t *testing.T) {
	script := afterRequest(func(c *proxytest.BackendConn) {
		_ = c.Send(switched)
		_, _ = c.ReadAll()
	})
	overEachLane(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(strings.Replace(upgrade, "\r\n", "\r\n"+traces, 1))
		require.Contains(t, c.Head(), " 101 ")
		require.NoError(t, c.Close())
		x := s.record(t, 1)
		assert.Equal(t, 101, x.Status)
		assert.Equal(t, "exchange 1 of forged", x.Value)
		require.Len(t, x.Timeline, 1)
		assert.Equal(t, []any{int64(1), 101}, []any{x.Timeline[0].Value, x.Timeline[0].Status})
		assert.Greater(t, x.Timeline[0].Duration, x.Timeline[0].FirstByte)
		assert.ElementsMatch(t, []string{"X-Trace: t1", "X-Span: t1-s1-1"}, traceFields(s.backend.WaitRequests(1)[0].Raw))
	}, traced)
}

// A copy gets the target's headers. The request to an authentication server
// gets the headers of Begin, and is no attempt.
func TestCopiesAndAuthenticationRequestsCarryTheHeadersOfHooks(t *testing.T) {
	copies := proxytest.NewServer(t, nil)
	asked := make(chan http.Header, 10)
	auth := proxytest.NewServer(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { asked <- q.Header }))
	overEachLane(t, good, func(t *testing.T, s *site) {
		before := len(copies.Seen())
		for i, name := range []string{"a.test", "b.test"} {
			require.Equal(t, 200, s.dial(t).Do("GET / HTTP/1.1\r\nHost: "+name+"\r\n"+traces+"\r\n").StatusCode)
			n := i + 1
			require.Len(t, s.record(t, n).Timeline, 1)
			proxytest.Eventually(t, "the copy", func() bool { return len(copies.Seen()) > before+i })
			h := copies.Seen()[before+i].Header
			assert.Equal(t, []string{fmt.Sprint("t", n)}, h["X-Trace"])
			assert.Equal(t, []string{fmt.Sprintf("t%d-s%d-1", n, n)}, h["X-Span"])
			for name := range h {
				assert.NotContains(t, name, "_")
			}
			assert.NotContains(t, h, "X-State")
		}
		h := <-asked
		assert.Equal(t, []string{"t2"}, h["X-Trace"])
		assert.Equal(t, []string{"replaced by each attempt"}, h["X-Span"])
		assert.NotContains(t, h, "X-State")
	}, traced, func(s *site) {
		require.NoError(t, s.upstream.Mirror(hostproxy.To(copies.Addr()), 1))
		s.router.Handle("b.test", &hostproxy.ForwardAuth{Auth: hostproxy.To(auth.Addr()), Next: s.upstream})
	})
}

// An exchange that waited in the fast lane continues in the other lane; Begin
// is called once.
func TestAnExchangeThatChangesItsLaneBeginsOnce(t *testing.T) {
	seen, arrived := make(chan http.Header, 10), make(doorbell, 10)
	backend := proxytest.NewH2CServer(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { seen <- q.Header }))
	overEachLane(t, good, func(t *testing.T, s *site) {
		require.NoError(t, s.upstream.Pause(time.Minute))
		c := s.dial(t)
		c.Send("GET / HTTP/1.1\r\n" + host + traces + "\r\n" + get)
		<-arrived
		require.NoError(t, s.upstream.Replace(t.Context(), "h2c://"+backend.Addr()))
		require.NoError(t, s.upstream.Resume())
		for i, forged := range []string{"forged", ""} {
			n := i + 1
			require.Equal(t, 200, c.Response("GET").StatusCode)
			x := s.record(t, n)
			assert.Equal(t, fmt.Sprint("exchange ", n, " of ", forged), x.Value)
			require.Len(t, x.Timeline, 1)
			h := <-seen
			assert.Equal(t, []string{fmt.Sprint("t", n)}, h["X-Trace"])
			assert.Equal(t, []string{fmt.Sprintf("t%d-s%d-1", n, n)}, h["X-Span"])
			assert.NotContains(t, h, "X-State")
		}
		<-arrived
	}, traced, func(s *site) { s.upstream.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: arrived} })
}

// Handlers and middleware of the route see the headers of Begin, and may change
// them. Edits apply to them.
func TestHandlersSeeWhatBeginSets(t *testing.T) {
	overEachLane(t, good, func(t *testing.T, s *site) {
		c := s.dial(t)
		for i, name := range []string{"mine.test", "edited.test", "rewritten.test"} {
			require.Equal(t, 200, c.Do("GET / HTTP/1.1\r\nHost: "+name+"\r\n"+traces+"\r\n").StatusCode)
			got := traceFields(s.backend.WaitRequests(i + 1)[i].Raw)
			n := i + 1
			want := []string{fmt.Sprint("X-Trace: t", n), fmt.Sprintf("X-Span: t%d-s%d-1", n, n)}
			switch name {
			case "mine.test":
				want = []string{"X-Trace: changed t1", "X-Span: changed t1-s1-1"}
			case "edited.test":
				want = want[1:]
			}
			assert.ElementsMatch(t, want, got, name)
		}
	}, traced, func(s *site) {
		s.router.Handle("mine.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			q.Header.Set("X-Trace", "changed "+q.Header.Get("X-Trace"))
			s.upstream.ServeHTTP(w, q)
		}))
		edited, rewritten := hostproxy.To(s.backend.Addr()), hostproxy.To(s.backend.Addr())
		edited.RequestHeader.Remove = []string{"x-trace"}
		rewritten.ModifyResponse = func(*http.Response) error { return nil }
		s.router.Handle("edited.test", edited)
		s.router.Handle("rewritten.test", rewritten)
	})
}

// Hooks are called for each HTTP/2 stream, also for extended CONNECT, and run
// at the same time.
func TestHooksAreCalledForEachHTTP2Stream(t *testing.T) {
	for _, start := range []func(testing.TB, shape) *track{newFast, newAdapter} {
		var mu sync.Mutex
		values := make(map[any]bool)
		c := new(tracer)
		k := start(t, shape{secure: true, routes: func(r *hostproxy.Router, u *hostproxy.Upstream) {
			r.Begin, r.BeginAttempt = c.begin, c.attempt
			r.Observe = func(x *hostproxy.Exchange) {
				mu.Lock()
				defer mu.Unlock()
				assert.Len(t, x.Timeline, 1)
				assert.Equal(t, "HTTP/2.0", x.Proto)
				values[x.Timeline[0].Value], values[x.Value] = true, true
			}
			r.Handle("*", u)
		}})
		k.mirror.answer.Store(&say)
		p := newH2(t, k)
		p.listen()
		const streams = 50
		for i := range uint32(streams) {
			require.NoError(t, p.ask(2*i+1, true, ":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a.test", "x-trace", "forged", "x_span", "forged"))
		}
		proxytest.Eventually(t, "all records", func() bool { mu.Lock(); defer mu.Unlock(); return len(values) == 2*streams })
		for _, q := range k.mirror.taken() {
			lines := traceFields(q.Raw)
			require.Len(t, lines, 2)
			assert.NotContains(t, strings.Join(lines, ""), "forged")
		}
	}
}

// A request that cannot be read is refused before the hook is called.
func TestAHookThatPanicsLeavesARefusalAsItIs(t *testing.T) {
	log := new(proxytest.Log)
	overOurLanes(t, good, func(t *testing.T, s *site) {
		for i := range 2 {
			assert.Equal(t, 400, s.dial(t).Do("GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: x\r\n\r\n").StatusCode)
			assert.Equal(t, 400, s.record(t, i+1).Status)
		}
		assert.Contains(t, log.String(), "panic in Begin: bug")
	}, func(s *site) {
		s.router.Logger = slog.New(slog.NewTextHandler(log, nil))
		s.router.Begin = func(*hostproxy.Beginning) { panic("bug") }
	})
}

// A hook that blocks delays only its own request, no other stream of the
// connection and no other connection.
func TestAHookThatBlocksHoldsUpItsOwnRequest(t *testing.T) {
	for _, start := range []func(testing.TB, shape) *track{newFast, newAdapter} {
		for _, where := range []string{"exchange", "attempt"} {
			free, blocked := make(chan struct{}), make(chan struct{}, 1)
			blocks := func(at string) func(*hostproxy.Beginning) {
				return func(b *hostproxy.Beginning) {
					if at == where && b.Exchange.Path == "/blocks" {
						blocked <- struct{}{}
						<-free
					}
				}
			}
			k := start(t, shape{secure: true, routes: func(r *hostproxy.Router, u *hostproxy.Upstream) {
				r.Begin, r.BeginAttempt = blocks("exchange"), blocks("attempt")
				r.Handle("*", u)
			}})
			k.mirror.answer.Store(&say)
			p := newH2(t, k)
			p.listen()
			ask := func(stream uint32, path string) {
				require.NoError(t, p.ask(stream, true, ":method", "GET", ":scheme", "https", ":path", path, ":authority", "a.test"))
			}
			ask(1, "/blocks")
			<-blocked
			ask(3, "/")
			assert.Equal(t, "200", p.outcome(t, 3))
			other := newH2(t, k)
			other.listen()
			require.NoError(t, other.ask(1, true, ":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a.test"))
			assert.Equal(t, "200", other.outcome(t, 1))
			close(free)
			assert.Equal(t, "200", p.outcome(t, 1))
		}
	}
}

func TestHooksAtTheBeginningStayOnTheFastLane(t *testing.T) {
	assertLane(t, newSite(t, lanes[0], proxytest.Reply(ok), traced), true)
}

func TestHooksReadTheSameHeadersInEachLane(t *testing.T) {
	raw := "POST / HTTP/1.1\r\nHost: A.test:80\r\nCookie: a=1\r\nCookie: b=2\r\nx-a:\r\nX-A: 2\r\nX_A: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked("hello", 2)
	overEachLane(t, good, func(t *testing.T, s *site) {
		require.Equal(t, 200, s.dial(t).Do(raw).StatusCode)
		assert.Equal(t, map[string]string{"host": "A.test:80", "cookie": "a=1, b=2", "x-a": ", 2", "X_A": "3", "Transfer-Encoding": "", "Content-Length": "", "X-B": ""}, s.record(t, 1).Value)
	}, func(s *site) {
		s.router.Begin = func(b *hostproxy.Beginning) {
			values := make(map[string]string)
			for _, name := range []string{"host", "cookie", "x-a", "X_A", "Transfer-Encoding", "Content-Length", "X-B"} {
				values[name] = b.Header(name)
			}
			b.Exchange.Value = values
		}
	})
}

// A handler may call several upstreams in turn, and middleware may be slow: an
// attempt begins when it is made.
func TestAnAttemptBehindAHandlerBeginsWhenItIsMade(t *testing.T) {
	second := proxytest.NewBackend(t, good)
	overEachLane(t, good, func(t *testing.T, s *site) {
		require.Equal(t, 200, s.dial(t).Do("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n").StatusCode)
		x := s.record(t, 1)
		require.Len(t, x.Timeline, 2)
		one, two := x.Timeline[0], x.Timeline[1]
		assert.Equal(t, []string{s.backend.Addr(), second.Addr()}, []string{one.Target, two.Target})
		between := x.Value.(time.Time)
		assert.False(t, two.Start.Before(between))
		assert.False(t, two.Start.Before(one.Start.Add(one.Duration)))
		assert.Positive(t, one.Duration)
		assert.False(t, two.Retry)
	}, func(s *site) {
		u := hostproxy.To(second.Addr())
		var between atomic.Value
		s.router.BeginAttempt = func(b *hostproxy.Beginning) {
			if v := between.Load(); v != nil {
				b.Exchange.Value = v
			}
		}
		s.router.Handle("b.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			s.upstream.ServeHTTP(httptest.NewRecorder(), q)
			between.Store(time.Now())
			u.ServeHTTP(w, q)
		}))
	})
}
