package e2e_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// flood is more than any valid use needs and sockets hold.
const flood = 64 << 20

// pour sends part again and again, until the other end closes the connection or
// a flood is sent. It returns the number of bytes sent.
func pour(c *proxytest.Conn, part string) (sent int) {
	block := strings.Repeat(part, 1+(64<<10)/len(part))
	for sent < flood && c.Send(block) == nil {
		sent += len(block)
	}
	return sent
}

// CVE-2021-31525, CVE-2023-24534, CVE-2025-58186, CVE-2021-40346: heads that
// cost more memory than their size.
func TestHeadsThatCostTooMuchMemoryAreRefused(t *testing.T) {
	for _, tt := range []struct{ about, fields string }{
		{"10,000 header lines", strings.Repeat("a: b\r\n", 10_000)},
		{"10,000 lines of one byte", strings.Repeat("a:\r\n", 10_000)},
		{"a megabyte of cookies", "Cookie: " + strings.Repeat("a=;", 350_000) + "\r\n"},
		{"a name of 70 KB", strings.Repeat("n", 70<<10) + ": v\r\n"},
		{"a hundred names of 200 bytes", strings.Repeat(strings.Repeat("n", 200)+": v\r\n", 100)},
	} {
		t.Run(tt.about, func(t *testing.T) {
			overOurLanes(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				// built once, since a client's copies would count
				head := []byte("GET / HTTP/1.1\r\nHost: a.test\r\n" + tt.fields + "\r\n")
				grown := growth(func() {
					for range 10 {
						c := s.dial(t)
						_, _ = c.Conn.Write(head)
						assert.True(t, strings.HasPrefix(c.Rest(), "HTTP/1.1 431 "))
					}
				})
				assert.Less(t, grown, int64(4<<20), "bytes of heap")
				assert.Empty(t, s.backend.Requests())
			})
		})
	}
}

// CVE-2023-39326 and similar: everything that a client or an upstream may
// repeat has a limit.
func TestAFloodOfAClientIsCutOff(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	post := "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, tt := range []struct{ about, first, part string }{
		{"chunk extensions of 900 bytes", post, "1;" + strings.Repeat("e", 900) + "\r\na\r\n"},
		{"a chunk extension without end", post + "1;", strings.Repeat("e", 1000)},
		{"a chunk size without end", post, strings.Repeat("0", 1000)},
		{"trailers", post + "0\r\n", "X-Sum: 1\r\n"},
		{"a trailer without end", post + "0\r\nX-Sum: ", strings.Repeat("1", 1000)},
		{"a head", "GET / HTTP/1.1\r\nHost: a.test\r\n", "X-A: 1\r\n"},
		{"a request line", "GET /", strings.Repeat("a", 1000)},
		{"empty lines", "", "\r\n"},
	} {
		t.Run(tt.about, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				c := s.dial(t)
				require.NoError(t, c.Conn.Send(tt.first))
				assert.Less(t, pour(c.Conn, tt.part), flood/2)
				assert.Equal(t, "ok", string(s.dial(t).Do(get).Content), "others are served as before")
			})
		})
	}
}

func TestAFloodOfAnUpstreamIsCutOff(t *testing.T) {
	t.Parallel()
	head := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, tt := range []struct {
		about, first, part string
		status             int // 200 if the flood is in the body
	}{
		{"chunk extensions of 900 bytes", head, "1;" + strings.Repeat("e", 900) + "\r\na\r\n", 200},
		{"a chunk extension without end", head + "1;", strings.Repeat("e", 1000), 200},
		{"a chunk size without end", head, strings.Repeat("0", 1000), 200},
		{"trailers", head + "0\r\n", "X-Sum: 1\r\n", 200},
		{"a head", "HTTP/1.1 200 OK\r\n", "X-A: 1\r\n", 502},
		{"a reason", "HTTP/1.1 200 ", strings.Repeat("a", 1000), 502},
		{"early hints", "", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 502},
		{"100 Continue", "", "HTTP/1.1 100 Continue\r\n\r\n", 502},
	} {
		t.Run(tt.about, func(t *testing.T) {
			sent, begun := make(chan int, 1), make(chan struct{}, 1)
			script := func(c *proxytest.BackendConn) {
				q, err := c.ReadRequest()
				if err != nil {
					return
				}
				if q.RequestURI != "/flood" {
					_ = c.Send(ok)
					return
				}
				_ = c.Send(tt.first)
				if tt.status != 200 || c.Wait(begun) { // a fault at the beginning causes a 502
					sent <- pour(c.Conn, tt.part)
				}
			}
			overEachLane(t, script, func(t *testing.T, s *site) {
				c := s.dial(t)
				c.Send("POST /flood HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n" + sized(""))
				rest := ""
				if tt.status == 200 {
					rest = c.Head()
					begun <- struct{}{}
				}
				rest += c.Rest()
				assert.Less(t, <-sent, flood/2)
				final := rest[max(0, strings.LastIndex(rest, "HTTP/1.1 ")):]
				assert.True(t, strings.HasPrefix(final, "HTTP/1.1 "+itoa(tt.status)+" "), "%s", short(final))
				assert.False(t, tt.status == 200 && strings.HasSuffix(rest, "0\r\n\r\n"), "the response does not look complete")
				assert.LessOrEqual(t, strings.Count(rest, "HTTP/1.1 1"), 64)
				k := s.record(t, 1)
				var failure *hostproxy.Error
				require.ErrorAs(t, k.Err, &failure)
				assert.Equal(t, hostproxy.SideUpstream, failure.Side)
				assert.Equal(t, "ok", string(s.dial(t).Do(get).Content), "others are served as before")
			})
		})
	}
}

// Requests that arrive together are answered one by one, in order.
func TestAThousandPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	script := func(c *proxytest.BackendConn) {
		for {
			q, err := c.ReadRequest()
			if err != nil || c.Send("HTTP/1.1 200 OK\r\n"+sized(q.RequestURI)) != nil {
				return
			}
		}
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		const n = 300
		var all strings.Builder
		for i := range n {
			all.WriteString("GET /" + itoa(i) + " HTTP/1.1\r\nHost: a.test\r\n\r\n")
		}
		c := s.dial(t)
		go func() { _ = c.Conn.Send(all.String()) }()
		for i := range n {
			require.Equal(t, "/"+itoa(i), string(c.Response("GET").Content))
		}
		assert.Equal(t, 1, s.backend.Conns())
	})
}
