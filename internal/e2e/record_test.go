package e2e_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// bare returns x without the fields that differ each time, after a check that
// their values are possible.
func bare(t *testing.T, x hostproxy.Exchange) hostproxy.Exchange {
	t.Helper()
	assert.WithinDuration(t, time.Now(), x.Start, time.Minute)
	assert.Positive(t, x.Duration)
	assert.LessOrEqual(t, x.FirstByte, x.Duration)
	assert.LessOrEqual(t, x.Dial, x.Duration)
	assert.Len(t, x.Timeline, x.Attempts)
	x.Start, x.Duration, x.FirstByte, x.Dial, x.Timeline = time.Time{}, 0, 0, 0, nil
	return x
}

// Every field of a record is right, and has nothing of an earlier request on
// the connection.
func TestEachFieldOfTheRecordIsRight(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	require.NoError(t, err)
	overEachLane(t, good, func(t *testing.T, s *site) {
		local := netip.MustParseAddr("127.0.0.1")
		plain := hostproxy.Exchange{Client: local, Peer: local, Proto: "HTTP/1.1", Scheme: "http", Method: "GET", Host: "a.test", Path: "/",
			Pattern: "a.test", Status: 200, ResponseBytes: 6, Target: s.backend.Addr(), Attempts: 1}
		if s.tls != nil {
			plain.Scheme, plain.TLSVersion, plain.ServerName = "https", tls.VersionTLS13, "a.test"
		}
		full := plain
		full.Client, full.Method, full.Path, full.Query = netip.MustParseAddr("192.0.2.7"), "POST", "/p%41/", "a=b&c"
		full.UserAgent, full.Referer, full.RequestID, full.RequestBytes = "curl/8.0 (x)", "https://b.test/?q", "id-1", 5
		users := full
		users.Host, users.Pattern, users.User = "b.test:80", "b.test", "ann"
		refused := plain
		refused.Host, refused.Pattern, refused.Target, refused.Attempts, refused.Status = "c.test", "c.test", "", 0, 403
		fields := "X-Forwarded-For: 192.0.2.7\r\nX-Request-Id: id-1\r\nuser-agent: curl/8.0 (x)\r\nREFERER: https://b.test/?q\r\n"
		c := s.dial(t)
		for i, tt := range []struct {
			raw  string
			want hostproxy.Exchange
		}{
			{"POST /p%41/?a=b&c HTTP/1.1\r\n" + host + fields + sized("hello"), full},
			{get, plain},
			{"POST /p%41/?a=b&c HTTP/1.1\r\n" + host + fields + "Transfer-Encoding: chunked\r\n\r\n" + chunked("hello", 2), full},
			{get, plain},
			{"GET / HTTP/1.1\r\nHost: c.test\r\n\r\n", refused},
			{get, plain},
			{"POST /p%41/?a=b&c HTTP/1.1\r\nHost: b.test:80\r\n" + credentials("ann", "s3cret") + fields + sized("hello"), users},
			{get, plain},
		} {
			a := c.Do(tt.raw)
			x := bare(t, s.record(t, i+1))
			assert.Equal(t, int64(len(a.Content)), x.ResponseBytes)
			if tt.want.RequestID == "" {
				assert.Regexp(t, made, x.RequestID)
				x.RequestID = ""
			}
			tt.want.ResponseBytes = x.ResponseBytes
			assert.Equal(t, tt.want, x, "%q", tt.raw)
		}
	}, numbered, trusting, func(s *site) {
		s.router.Handle("b.test", &hostproxy.BasicAuth{Users: map[string]string{"ann": string(hash)}, Next: s.upstream})
		denied := hostproxy.To(s.backend.Addr())
		denied.Deny = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
		s.router.Handle("c.test", denied)
	})
}

func TestTheRecordNamesNoUserWhoWasRefused(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	require.NoError(t, err)
	deny := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-User", "eve")
		w.WriteHeader(403)
	}))
	overEachLane(t, good, func(t *testing.T, s *site) {
		c := s.dial(t)
		assert.Equal(t, 401, c.Do("GET / HTTP/1.1\r\nHost: b.test\r\n"+credentials("ann", "wrong")+"\r\n").StatusCode)
		assert.Empty(t, s.record(t, 1).User)
		assert.Equal(t, 403, c.Do("GET / HTTP/1.1\r\nHost: c.test\r\nX-User: eve\r\n\r\n").StatusCode)
		assert.Empty(t, s.record(t, 2).User)
	}, func(s *site) {
		s.router.Handle("b.test", &hostproxy.BasicAuth{Users: map[string]string{"ann": string(hash)}, Next: s.upstream})
		s.router.Handle("c.test", &hostproxy.ForwardAuth{Auth: hostproxy.To(deny.Addr()), Fields: []string{"X-User"}, User: "X-User", Next: s.upstream})
	})
	r := new(hostproxy.Router)
	err = r.Set("a.test", &hostproxy.ForwardAuth{Auth: hostproxy.To("a:1"), Fields: []string{"X-User"}, User: "X-Users", Next: hostproxy.To("a:1")})
	assert.ErrorContains(t, err, `ForwardAuth.User is "X-Users": want one of the headers in ForwardAuth.Fields`)
}

func TestTheRecordIsTheSameOverHTTP2(t *testing.T) {
	for _, foreign := range []bool{false, true} {
		t.Run(fmt.Sprint("foreign ", foreign), func(t *testing.T) {
			backend := proxytest.NewBackend(t, good)
			records := make(chan hostproxy.Exchange, 2)
			r := &hostproxy.Router{Logger: silent(), Observe: func(x *hostproxy.Exchange) { records <- *x }}
			r.Handle("a.test", hostproxy.To(backend.Addr()))
			var client *http.Client
			if config, roots := proxytest.TLS(t, "a.test"); foreign {
				s := httptest.NewUnstartedServer(r)
				s.TLS, s.EnableHTTP2 = config, true
				s.StartTLS()
				t.Cleanup(s.Close)
				client = proxytest.HTTPClient(t, s.Listener.Addr().String(), roots, "h2")
			} else {
				r.TLS.Config = config
				client = proxytest.HTTPClient(t, proxytest.Start(t, &hostproxy.Server{Router: r}).HTTPS, roots, "h2")
			}
			local := netip.MustParseAddr("127.0.0.1")
			want := hostproxy.Exchange{Client: local, Peer: local, Proto: "HTTP/2.0", Scheme: "https", Method: "POST", Host: "a.test", Path: "/p",
				Query: "a=b", Pattern: "a.test", UserAgent: "agent", Referer: "https://b.test/", TLSVersion: tls.VersionTLS13, ServerName: "a.test",
				Status: 200, RequestBytes: 5, ResponseBytes: 6, Target: backend.Addr(), Attempts: 1}
			for range 2 {
				q := newRequest(t, "POST", "/p?a=b", strings.NewReader("hello"))
				q.Header = http.Header{"User-Agent": {"agent"}, "Referer": {"https://b.test/"}}
				do(t, client, q)
				assert.Equal(t, want, bare(t, <-records))
			}
		})
	}
}

func TestTheRecordKeepsTheBeginningOfLongTexts(t *testing.T) {
	overEachLane(t, good, func(t *testing.T, s *site) {
		long := strings.Repeat("x", 5000)
		s.dial(t).Do("GET / HTTP/1.1\r\n" + host + "User-Agent: " + long + "\r\nReferer: " + long + "\r\n\r\n")
		x := s.record(t, 1)
		assert.Equal(t, long[:1024], x.UserAgent)
		assert.Equal(t, long[:1024], x.Referer)
	})
}

// No request that is accepted causes a second line or control bytes in the log.
func TestNoRequestForgesALineOfTheAccessLog(t *testing.T) {
	for format, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"JSON": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		t.Run(format, func(t *testing.T) {
			overEachLane(t, good, func(t *testing.T, s *site) {
				for i, raw := range []string{
					"GET /%0d%0alevel=WARN?%0a HTTP/1.1\r\n" + host + "User-Agent: a\" status=500 \xff\xc2\x9b \"\r\nReferer: \t{\"}\r\n\r\n",
					"GET /a\"b\\c?d=\"e\"&level=WARN HTTP/1.1\r\n" + host + "User-Agent: a=b,{}\r\n\r\n",
				} {
					s.dial(t).Do(raw)
					x := s.record(t, i+1)
					var out bytes.Buffer
					hostproxy.AccessLog(slog.New(handler(&out)))(&x)
					line := out.String()
					assert.Equal(t, 1, strings.Count(line, "\n"))
					assert.Equal(t, 1, strings.Count(line, "INFO"))
					assert.NotContains(t, line, "\t")
					if format == "JSON" {
						var m map[string]any
						require.NoError(t, json.Unmarshal(out.Bytes(), &m))
						assert.Equal(t, 200.0, m["status"])
						assert.Equal(t, x.Path, m["path"])
						assert.Equal(t, x.Query, m["query"])
					}
				}
			})
		})
	}
}

// An invalid request, which no lane forwards, has a record with the cause, like
// each failed one.
func TestARequestThatIsRefusedHasARecordOfTheCause(t *testing.T) {
	overEachLane(t, good, func(t *testing.T, s *site) {
		for i, tt := range []struct {
			line, path, cause string
			status            int
		}{
			{"GET /api/..%2fx HTTP/1.1\r\nHost: a.test", "/api/..%2fx", "path is ambiguous", 400},
			{"GET /x/../api/ HTTP/1.1\r\nHost: a.test", "/x/../api/", "path is ambiguous", 400},
			{"GET /x HTTP/1.1\r\nHost: a..test", "", "host", 400},
			{"CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80", "", "CONNECT", 501},
		} {
			c := s.dial(t)
			c.Send(tt.line + "\r\n\r\n")
			assert.Equal(t, tt.status, c.Response("GET").StatusCode, tt.line)
			x := s.record(t, i+1)
			assert.Equal(t, tt.status, x.Status, tt.line)
			if tt.path != "" {
				assert.Equal(t, tt.path, x.Path)
			}
			var e *hostproxy.Error
			require.ErrorAs(t, x.Err, &e, tt.line)
			assert.Equal(t, hostproxy.SideClient, e.Side)
			assert.Equal(t, "read", e.Op)
			assert.Contains(t, strings.ToLower(e.Error()), strings.ToLower(tt.cause))
			var line strings.Builder
			hostproxy.AccessLog(slog.New(slog.NewTextHandler(&line, nil)))(&x)
			assert.Contains(t, line.String(), " cause=", tt.line)
		}
		assert.Empty(t, s.backend.Requests())
	}, func(s *site) { s.router.Handle("a.test/api/", hostproxy.To("localhost:1")) })
}

func TestTheRecordOfARefusedHeadSaysWhatWasAsked(t *testing.T) {
	for name, start := range map[string]func(testing.TB, shape) *track{"fast": newFast, "adapter": newAdapter} {
		t.Run(name, func(t *testing.T) {
			k := start(t, shape{})
			c := k.connect(t)
			require.NoError(t, c.Send("PUT /p?q HTTP/1.1\r\nHost: ..x\r\n\r\n"))
			a, err := c.ReadResponse("PUT")
			require.NoError(t, err)
			x := <-k.records
			assert.Equal(t, 400, a.StatusCode)
			assert.Equal(t, []any{400, "PUT", "..x", "/p", int64(len(a.Content))}, []any{x.Status, x.Method, x.Host, x.Path, x.ResponseBytes})
		})
	}
}

// If the client disconnects, the request's context of a handler of the program
// ends, and the record has it.
func TestARecordSaysThatTheClientOfAHandlerHasLeft(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	const wrote = "wrote"
	handlers := map[string]http.HandlerFunc{
		"waits": func(w http.ResponseWriter, q *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			<-q.Context().Done()
		},
		"streams": func(w http.ResponseWriter, q *http.Request) {
			_, _ = io.WriteString(w, wrote)
			_ = http.NewResponseController(w).Flush()
			<-q.Context().Done()
		},
		"writes until it fails": func(w http.ResponseWriter, q *http.Request) {
			_, _ = io.WriteString(w, wrote)
			_ = http.NewResponseController(w).Flush()
			for err := error(nil); err == nil; {
				_, err = w.Write(make([]byte, 64<<10))
			}
			<-q.Context().Done()
		},
		"has said all": func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(wrote)))
			_, _ = io.WriteString(w, wrote)
			_ = http.NewResponseController(w).Flush()
			<-q.Context().Done()
		},
		"has answered HEAD": func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(wrote)))
			_ = http.NewResponseController(w).Flush()
			<-q.Context().Done()
		},
	}
	for name, h := range handlers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			overLanesAtOnce(t, good, func(t *testing.T, s *site) {
				c := s.dial(t)
				method := "GET"
				if name == "has answered HEAD" {
					method = "HEAD"
				}
				c.Send(method + " / HTTP/1.1\r\nHost: own.test\r\n\r\n")
				_, err := c.ReadHead()
				require.NoError(t, err)
				c.Close()
				x := s.record(t, 1)
				if strings.HasPrefix(name, "has ") {
					assert.Equal(t, 200, x.Status)
					assert.NoError(t, x.Err)
					return
				}
				assert.Equal(t, 499, x.Status)
				var fault *hostproxy.Error
				require.ErrorAs(t, x.Err, &fault)
				assert.Equal(t, hostproxy.SideClient, fault.Side)
			}, func(s *site) { s.router.Handle("own.test", h) })
		})
	}
}

// A deadline that middleware sets does not count as a client disconnect.
func TestADeadlineOfMiddlewareIsNotTheClients(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	for name, target := range map[string]http.HandlerFunc{
		"before the response": func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() },
		"within it": func(w http.ResponseWriter, q *http.Request) {
			_, _ = io.WriteString(w, "some")
			_ = http.NewResponseController(w).Flush()
			<-q.Context().Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			backend := httptest.NewServer(target)
			defer backend.Close()
			var records []hostproxy.Exchange
			router := &hostproxy.Router{Observe: func(x *hostproxy.Exchange) { records = append(records, *x) }}
			upstream := hostproxy.To(backend.URL)
			defer func() { _ = upstream.Drain(context.Background()) }()
			router.Handle("a.test", upstream)
			func() {
				defer func() { _ = recover() }() // http.ErrAbortHandler, in a begun response
				q := httptest.NewRequest("GET", "http://a.test/", nil)
				ctx, cancel := context.WithTimeout(q.Context(), 100*time.Millisecond)
				defer cancel()
				w := httptest.NewRecorder()
				router.ServeHTTP(w, q.WithContext(ctx))
				assert.Equal(t, http.StatusGatewayTimeout, w.Code)
			}()
			require.Len(t, records, 1)
			var fault *hostproxy.Error
			require.ErrorAs(t, records[0].Err, &fault)
			assert.Equal(t, hostproxy.SideProxy, fault.Side)
			assert.ErrorIs(t, fault, context.DeadlineExceeded)
			assert.NotEqual(t, 499, records[0].Status)
		})
	}
}

// Middleware that reads or replaces the body, but does not change the length,
// breaks the request. The target is not to blame.
func TestABodyThatMiddlewareHasChangedIsTheProxysFault(t *testing.T) {
	targets := map[string]func(*testing.T, http.Handler) string{
		"HTTP/1.1": func(t *testing.T, h http.Handler) string {
			s := httptest.NewServer(h)
			t.Cleanup(s.Close)
			return s.URL
		},
		"h2c": func(t *testing.T, h http.Handler) string { return "h2c://" + proxytest.NewH2CServer(t, h).Addr() },
	}
	for name, body := range map[string]string{"shorter": "123", "empty": "", "longer": "1234567"} {
		for protocol, start := range targets {
			if name == "longer" && protocol == "HTTP/1.1" {
				continue // only the bytes of the length are read
			}
			t.Run(name+" "+protocol, func(t *testing.T) {
				target := start(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { _, _ = io.Copy(io.Discard, q.Body) }))
				var records []hostproxy.Exchange
				router := &hostproxy.Router{Observe: func(x *hostproxy.Exchange) { records = append(records, *x) }}
				upstream := hostproxy.To(target)
				defer func() { _ = upstream.Drain(context.Background()) }()
				router.Handle("a.test", upstream)
				q := httptest.NewRequest("POST", "http://a.test/", strings.NewReader("12345"))
				q.Body = io.NopCloser(strings.NewReader(body))
				w := httptest.NewRecorder()
				router.ServeHTTP(w, q)
				assert.Equal(t, 500, w.Code)
				require.Len(t, records, 1)
				var fault *hostproxy.Error
				require.ErrorAs(t, records[0].Err, &fault)
				assert.Equal(t, hostproxy.SideProxy, fault.Side)
				assert.ErrorContains(t, fault, "ContentLength")
			})
		}
	}
}
