package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n"

func TestAFramingErrorInTheRequestBodyIsTheClientsFault(t *testing.T) {
	t.Parallel()
	tests := []struct{ about, body string }{
		{"a chunk size that is none", "xyz\r\nabc\r\n0\r\n\r\n"},
		{"a chunk size with a sign", "+3\r\nabc\r\n0\r\n\r\n"},
		{"a chunk size with 0x", "0x3\r\nabc\r\n0\r\n\r\n"},
		{"a chunk size that overflows", "10000000000000003\r\nabc\r\n0\r\n\r\n"},
		{"a bare LF behind the chunk size", "3\nabc\r\n0\r\n\r\n"},
		{"a chunk longer than its size", "3\r\nabcd\r\n0\r\n\r\n"},
		{"chunk extensions without end", strings.Repeat("1;"+strings.Repeat("e", 4<<10)+"\r\na\r\n", 64) + "0\r\n\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				c := s.dial(t)
				_ = c.Conn.Send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" + tt.body + smuggled)
				answer := c.Rest()
				assert.True(t, strings.HasPrefix(answer, "HTTP/1.1 400 "), "%q", answer)
				assert.Equal(t, 1, strings.Count(answer, "HTTP/1.1 "), "%q", answer)
				var failure *hostproxy.Error
				require.ErrorAs(t, s.record(t, 1).Err, &failure)
				assert.Equal(t, hostproxy.SideClient, failure.Side, "no strike against the target")
				for _, q := range s.backend.Requests() {
					assert.NotContains(t, string(q.Raw), "smuggled")
				}
			})
		})
	}
}

func TestFramingNamesInTrailersAreDroppedInBothDirections(t *testing.T) {
	script := proxytest.Reply("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length, X-Sum\r\n\r\n" +
		"2\r\nok\r\n0\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\nHost: evil\r\nSet-Cookie: a=b\r\nX-Sum: 7\r\n\r\n")
	overEachLane(t, script, func(t *testing.T, s *site) {
		p := s.dial(t).Do("POST / HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n" +
			"3\r\nabc\r\n0\r\nContent-Length: 9\r\nHost: evil\r\nAuthorization: x\r\nX-Sum: 8\r\n\r\n")
		assert.Equal(t, "ok", string(p.Content))
		assert.Equal(t, map[string][]string{"X-Sum": {"7"}}, map[string][]string(p.Trailer))

		q := s.backend.WaitRequests(1)[0]
		assert.Equal(t, "abc", string(q.Content))
		assert.Equal(t, map[string][]string{"X-Sum": {"8"}}, map[string][]string(q.Trailer))
		assert.NotContains(t, string(q.Raw), "evil")
	})
}

// Without TE and Trailer the request takes the fast lane.
func TestFramingNamesInUnannouncedTrailersAreDropped(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		c := s.dial(t)
		for range 2 {
			c.Do("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" +
				"3\r\nabc\r\n0\r\nContent-Length: 9\r\nHost: evil\r\nAuthorization: x\r\n\r\n")
		}
		for _, q := range s.backend.WaitRequests(2) {
			assert.Equal(t, "abc", string(q.Content))
			assert.Empty(t, q.Trailer)
			assert.NotContains(t, string(q.Raw), "evil")
		}
	})
}

// CVE-2026-71324: a proxied CONNECT with a body desynchronises the upstream
// connection.
func TestConnectIsRefusedAndReachesNoTarget(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nContent-Length: 40\r\n\r\n" + smuggled)
		assert.Contains(t, []int{405, 501}, c.Response("POST").StatusCode)
		assert.Equal(t, "ok", string(s.dial(t).Do(get).Content), "others are served as before")
		require.Len(t, s.backend.Requests(), 1)
		assert.True(t, strings.HasPrefix(string(s.backend.Requests()[0].Raw), "GET / "))
	})
}

func TestRequestTargetsAreForwardedByteForByte(t *testing.T) {
	targets := []string{
		"/a%2Fb", "/a//b", "//", "/a;b=c", "/a+b", "/%41%5f", "/a%20b?c=%20+d", "/?a=1;b=2&c=%x", "/?", "/a?b?c", "/.%2e/x", "/a/../b", "/a/./b",
		"/%C3%A9", "/a%00b", "/?" + strings.Repeat("a=b&", 2000), "/!$&'()*,:@~", "/a|b", "/a\"b", "/{x}",
	}
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		c := s.dial(t)
		for i, target := range targets {
			p := c.Do("GET " + target + " HTTP/1.1\r\nHost: a.test\r\n\r\n")
			require.Equal(t, 200, p.StatusCode, target)
			assert.Equal(t, "GET "+target+" HTTP/1.1", lines(s.backend.WaitRequests(i + 1)[i].Raw)[0])
		}
	})
}

// RFC 9112, 3.2.2: the target's authority overrides Host, also for the backend.
func TestTheAuthorityOfAnAbsoluteTargetDecidesTheRoute(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ target, host, first string }{
		{"http://a.test/x?y", "a.test", "GET /x?y"},
		{"HTTP://a.test/x//y%2F?", "b.test", "GET /x//y%2F?"},
		{"https://a.test:8443?y", "nowhere.test", "GET /?y"},
		{"http://A.test.", "b.test:80", "GET /"},
	} {
		t.Run(tt.target, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				c := s.dial(t)
				for i := range 2 {
					assert.Equal(t, 200, c.Do("GET "+tt.target+" HTTP/1.1\r\nHost: "+tt.host+"\r\n\r\n").StatusCode)
					q := s.backend.WaitRequests(i + 1)[i]
					assert.Equal(t, tt.first+" HTTP/1.1", lines(q.Raw)[0])
					_, rest, _ := strings.Cut(tt.target, "//")
					authority := rest[:strings.IndexAny(rest+"/", "/?")]
					assert.Equal(t, []string{authority}, field(q.Raw, "Host"))
					assert.Equal(t, []string{authority}, field(q.Raw, "X-Forwarded-Host"))
					assert.Equal(t, authority, s.record(t, i+1).Host)
				}
			})
		})
	}
}

// On a kept connection too, after a request in either lane.
func TestARequestTargetThatIsNoHTTPURLIsRefusedOnAnyRequest(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"foo:bar", "mailto:x@y", "a.test:80", "http:x", "http:///x", "http://?x", "ftp://a.test/", "http://u@a.test/", "http://a..test/", "http://a.test:1:2/"} {
		t.Run(target, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				for _, first := range []string{"", get, purge} {
					n := len(s.backend.Requests())
					c := s.dial(t)
					if first != "" {
						require.Equal(t, 200, c.Do(first).StatusCode)
						n++
					}
					assert.Equal(t, 400, c.Do("GET "+target+" HTTP/1.1\r\nHost: a.test\r\n\r\n").StatusCode)
					assert.Len(t, s.backend.Requests(), n)
				}
			})
		})
	}
}

func TestOptionsStarIsForwarded(t *testing.T) {
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		if s.lane.foreign {
			return // net/http answers OPTIONS * by itself
		}
		for i, target := range []string{"*", "http://a.test"} { // the same, says RFC 9112, 3.2.4
			assert.Equal(t, 200, s.dial(t).Do("OPTIONS "+target+" HTTP/1.1\r\nHost: a.test\r\n\r\n").StatusCode)
			assert.Equal(t, "OPTIONS * HTTP/1.1", lines(s.backend.WaitRequests(i + 1)[i].Raw)[0])
		}
		s.dial(t).Do("OPTIONS http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
		s.dial(t).Do("OPTIONS http://a.test? HTTP/1.1\r\nHost: a.test\r\n\r\n")
		assert.Equal(t, "OPTIONS / HTTP/1.1", lines(s.backend.WaitRequests(3)[2].Raw)[0])
		assert.Equal(t, "OPTIONS /? HTTP/1.1", lines(s.backend.WaitRequests(4)[3].Raw)[0])
	})
}

func TestResponsesWithoutABodyEndAtTheirHead(t *testing.T) {
	t.Parallel()
	tests := []struct{ about, method, answer string }{
		{"HEAD with a Content-Length", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"},
		{"HEAD with chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n"},
		{"304 with a Content-Length", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\n"},
		{"a body of no bytes", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(tt.answer, ok), func(t *testing.T, s *site) {
				c := s.dial(t)
				c.Send(tt.method + " / HTTP/1.1\r\nHost: a.test\r\n\r\n")
				p := c.Response(tt.method)
				assert.Equal(t, tt.answer[9:12], p.Status[:3])
				assert.Empty(t, p.Content)
				assert.Equal(t, "ok", string(c.Do(get).Content), "the next answer begins where this one ends")
			})
		})
	}
}

func TestACloseDelimitedResponseIsChunkedAndItsConnectionNotReused(t *testing.T) {
	script := func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil {
			_ = c.Send("HTTP/1.1 200 OK\r\n\r\nuntil the end")
		}
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		for range 2 {
			p := c.Do(get)
			assert.Equal(t, []string{"chunked"}, p.TransferEncoding)
			assert.Equal(t, "until the end", string(p.Content))
		}
		assert.Equal(t, 2, s.backend.Conns())

		c = s.dial(t)
		c.Send("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n")
		answer := c.Rest()
		assert.True(t, strings.HasSuffix(answer, "\r\n\r\nuntil the end"), "%q", answer)
		assert.NotContains(t, strings.ToLower(answer), "chunked")
	})
}

func TestUpstreamsThatBreakTheirFramingAre502(t *testing.T) {
	t.Parallel()
	tests := []struct{ about, answer string }{
		{"garbage", "not http at all\r\n\r\n"},
		{"an invalid Transfer-Encoding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"},
		{"Content-Length with Transfer-Encoding", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"},
		{"two different Content-Lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"},
		{"a bare LF", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok"},
		{"a folded line", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok"},
		{"a NUL in a value", "HTTP/1.1 200 OK\r\nX: a\x00\r\nContent-Length: 2\r\n\r\nok"},
		{"a 101 that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"},
		{"a head without end", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2<<20)},
		{"interim responses without end", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 10000)},
		{"interim responses of too many bytes", strings.Repeat("HTTP/1.1 103 Early Hints\r\nX: "+strings.Repeat("x", 6000)+"\r\n\r\n", 20)},
		{"half a head", "HTTP/1.1 200 OK\r\nContent-Le"},
		{"nothing", ""},
	}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			script := func(c *proxytest.BackendConn) {
				if _, err := c.ReadRequest(); err == nil && c.Send(tt.answer) == nil && strings.HasPrefix(tt.answer, "HTTP/1.1 1") {
					c.Wait(nil)
				}
			}
			overEachLane(t, script, func(t *testing.T, s *site) {
				// Not idempotent: it is not retried.
				p := s.dial(t).Do("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n")
				assert.Equal(t, 502, p.StatusCode)
				assert.NotEmpty(t, p.Header.Get("Proxy-Status"))
				var failure *hostproxy.Error
				require.ErrorAs(t, s.record(t, 1).Err, &failure)
				assert.Equal(t, hostproxy.SideUpstream, failure.Side)
			})
		})
	}
}

func TestUnsolicitedBytesNeverAnswerAnotherRequest(t *testing.T) {
	script := proxytest.Reply(ok+"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", ok)
	overEachLane(t, script, func(t *testing.T, s *site) {
		for range 5 {
			assert.Equal(t, "ok", string(s.dial(t).Do(get).Content))
		}
		assert.Greater(t, s.backend.Conns(), 1, "the poisoned connection was dropped")
	})
}

func TestAnUpstreamThatDiesInMidBodyAbortsTheClient(t *testing.T) {
	t.Parallel()
	tests := []struct{ about, head string }{
		{"sized", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart"},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"},
		{"chunked, then garbage", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\nzz\r\n"},
		{"chunked, with a bare LF behind a size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n3\nabc\r\n0\r\n\r\n"},
		{"chunked, with a bare LF behind an extension", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n3;x\nabc\r\n0\r\n\r\n"},
		{"chunked, with a bare LF behind the last size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n0\n\r\n"},
		{"chunked, with a bare LF at the end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n0\r\n\n"},
		{"chunked, with a bare LF behind the data", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\n0\r\n\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			begun := make(chan struct{})
			i := strings.Index(tt.head, "part") + len("part")
			script := func(c *proxytest.BackendConn) {
				if _, err := c.ReadRequest(); err == nil && c.Send(tt.head[:i]) == nil && c.Wait(begun) {
					_ = c.Send(tt.head[i:])
				}
			}
			overEachLane(t, script, func(t *testing.T, s *site) {
				c := s.dial(t)
				c.Send(get)
				if strings.Contains(c.Head(), "chunked") {
					c.Expect("4\r\npart\r\n")
				} else {
					c.Expect("part")
				}
				begun <- struct{}{}
				assert.Empty(t, c.Rest(), "no last chunk, and no error text behind a started body")
				x := s.record(t, 1)
				var failure *hostproxy.Error
				require.ErrorAs(t, x.Err, &failure)
				assert.Equal(t, "copy", failure.Op)
				assert.Equal(t, hostproxy.SideUpstream, failure.Side)
				assert.Equal(t, 200, x.Status)
			})
		})
	}
}

// A fault of the body is known in time if it arrives with the head.
func TestAChunkedBodyThatBeginsMalformedIs502(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"zz\r\n", "+5\r\nhello\r\n0\r\n\r\n", "5\nhello\r\n0\r\n\r\n", "4\r\npart\r\nzz\r\n", "4\r\npartx\r\n", "0\n\r\n", "0\r\nX : y\r\n\r\n"} {
		t.Run(label(body), func(t *testing.T) {
			for _, before := range []string{"", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"} {
				script := proxytest.Reply(before + "HTTP/1.1 200 OK\r\nX-A: 1\r\nSet-Cookie: a=b\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
				overEachLane(t, script, func(t *testing.T, s *site) {
					for i, start := range []string{"GET", "POST", "PURGE"} {
						p := s.dial(t).Do(start + " / HTTP/1.1\r\n" + host + sized("hello"))
						assert.Equal(t, 502, p.StatusCode)
						assert.Equal(t, "hostproxy; error=http_protocol_error", p.Header.Get("Proxy-Status"))
						assert.Empty(t, p.Header["X-A"], "nothing of the target's answer")
						assert.Empty(t, p.Header["Set-Cookie"])
						x := s.record(t, i+1)
						var failure *hostproxy.Error
						require.ErrorAs(t, x.Err, &failure)
						assert.Equal(t, "read", failure.Op)
						assert.Equal(t, hostproxy.SideUpstream, failure.Side)
						assert.Equal(t, 502, x.Status)
					}
					if s.lane.secure {
						p, _ := do(t, proxytest.HTTPClient(t, s.addr, s.tls.RootCAs, "h2"), newRequest(t, "GET", "/", nil))
						assert.Equal(t, 502, p.StatusCode)
					}
				})
			}
		})
	}
}

// For an HTTP/1.0 client the end of the connection ends the body, unless it is
// a reset.
func TestAnUpstreamThatDiesInMidBodyResetsAnHTTP10Client(t *testing.T) {
	script := func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil {
			_ = c.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n")
		}
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n")
		var err error
		for p := make([]byte, 1024); err == nil; {
			_, err = c.Conn.Conn.Read(p)
		}
		assert.NotErrorIs(t, err, os.ErrDeadlineExceeded)
		assert.NotEqual(t, io.EOF, err, "the connection is reset")
	})
}

// The head of a response without a body is read before its connection gets
// another request.
func TestAnswersWithoutABodyKeepTheirOwnLength(t *testing.T) {
	b := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		for {
			q, err := c.ReadRequest()
			if err != nil || q == nil {
				return
			}
			id := strings.TrimPrefix(q.URL.Path, "/")
			_ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: " + id + "\r\nX-Id: " + id + "\r\n\r\n")
		}
	})
	r := new(hostproxy.Router)
	r.Handle("a.test", hostproxy.To(b.Addr()))
	s := proxytest.StartPlain(t, &hostproxy.Server{Router: r, Handler: http.HandlerFunc(r.ServeHTTP)})
	var all sync.WaitGroup
	for w := range 8 {
		c := proxytest.Dial(t, s.Plain)
		all.Go(func() {
			for i := range 200 {
				id := fmt.Sprint(w*1000 + i)
				a := c.Do(request("HEAD /"+id, "\r\n"))
				if !assert.Equal(t, []string{id}, a.Header["X-Id"]) || !assert.Equal(t, []string{id}, a.Header["Content-Length"]) {
					return
				}
			}
		})
	}
	all.Wait()
}
