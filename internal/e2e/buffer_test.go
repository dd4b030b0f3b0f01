package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// buffering sets the buffers of an upstream.
func buffering(requests, responses int64) setting {
	return func(s *site) { s.upstream.BufferRequests, s.upstream.BufferResponses = requests, responses }
}

func TestASlowUploadDoesNotOccupyTheTarget(t *testing.T) {
	body := strings.Repeat("0123456789", 20_000)
	for name, raw := range map[string]string{
		"sized": sized(body), "chunked": "Transfer-Encoding: chunked\r\n\r\n" + chunked(body, 10_000),
	} {
		t.Run(name, func(t *testing.T) {
			overEachLane(t, good, func(t *testing.T, s *site) {
				slow := s.dial(t)
				slow.Send("POST / HTTP/1.1\r\n" + host + raw[:150_000])
				assert.Equal(t, "good 0", string(s.dial(t).Do(get).Content), "the only place at the target is free")
				assert.Len(t, s.backend.Requests(), 1)
				noneInFlight(t, s.upstream)
				slow.Send(raw[150_000:])
				assert.Equal(t, "good 200000", string(slow.Response("POST").Content))
				q := s.backend.WaitRequests(2)[1]
				assert.Equal(t, []string{"200000"}, field(q.Raw, "Content-Length"))
				assert.Empty(t, field(q.Raw, "Transfer-Encoding"))
				assert.Equal(t, body, string(q.Content))
				x := s.record(t, 2)
				assert.Equal(t, int64(200_000), x.RequestBytes)
				assert.Equal(t, "good 0", string(slow.Do(get).Content), "the connection goes on")
			}, buffering(1<<20, 0), func(s *site) { s.upstream.MaxTargetInFlight = 1 })
		})
	}
}

func TestABodyLongerThanTheBufferIsStreamed(t *testing.T) {
	for _, size := range []int64{100, 32 << 10, 100_000} {
		body := strings.Repeat("x", 300_000)
		overEachLane(t, good, func(t *testing.T, s *site) {
			c := s.dial(t)
			head, rest, _ := strings.Cut(sized(body), "\r\n\r\n")
			c.Send("POST / HTTP/1.1\r\n" + host + head + "\r\n\r\n" + rest[:200_000])
			s.backend.WaitConns(1)
			c.Send(rest[200_000:])
			assert.Equal(t, "good 300000", string(c.Response("POST").Content))
			assert.Equal(t, body, string(s.backend.WaitRequests(1)[0].Content))
		}, buffering(size, 0))
	}
}

func TestEmptyAndChunkedBodiesAreBuffered(t *testing.T) {
	overEachLane(t, good, func(t *testing.T, s *site) {
		c := s.dial(t)
		for i, tt := range []struct {
			raw, content   string
			length, coding []string
		}{
			{"Content-Length: 0\r\n\r\n", "", []string{"0"}, nil},
			{"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "", []string{"0"}, nil},
			{"Transfer-Encoding: chunked\r\n\r\n" + chunked("hello", 2), "hello", []string{"5"}, nil},
			{"Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked("hello", 2, "X-Sum: 1", "Host: b.test"), "hello", nil, []string{"chunked"}},
		} {
			assert.Equal(t, fmt.Sprint("good ", len(tt.content)), string(c.Do("POST / HTTP/1.1\r\n"+host+tt.raw).Content))
			q := s.backend.WaitRequests(i + 1)[i]
			assert.Equal(t, tt.content, string(q.Content))
			assert.Equal(t, tt.length, field(q.Raw, "Content-Length"))
			assert.Equal(t, tt.coding, field(q.Raw, "Transfer-Encoding"))
			if tt.coding != nil {
				assert.Equal(t, http.Header{"X-Sum": {"1"}}, q.Trailer)
			}
		}
	}, buffering(1000, 0))
}

func TestABufferedBodyIsSentAgain(t *testing.T) {
	body := strings.Repeat("x", 500_000)
	busy := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		for {
			q, err := c.ReadRequest()
			if err != nil || q == nil || c.Send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n") != nil {
				return
			}
		}
	})
	calm := proxytest.NewBackend(t, good)
	for _, buffered := range []bool{true, false} {
		inLanes(t, func() *hostproxy.Upstream {
			u := hostproxy.To(busy.Addr(), calm.Addr())
			u.Policy, u.Retry.Statuses = hostproxy.FirstAvailable, []int{503}
			if buffered {
				u.BufferRequests = 1 << 20
			}
			return u
		}, func(t *testing.T, c *proxytest.Client, records <-chan hostproxy.Exchange) {
			a := c.Do("PUT / HTTP/1.1\r\n" + host + sized(body))
			x := <-records
			if !buffered {
				assert.Equal(t, 503, a.StatusCode)
				return
			}
			assert.Equal(t, "good 500000", string(a.Content))
			assert.Equal(t, 2, x.Attempts)
		})
	}
}

func TestABodyThatIsRefusedReachesNoTarget(t *testing.T) {
	big := strings.Repeat("x", 200_000)
	overEachLane(t, good, func(t *testing.T, s *site) {
		assert.Equal(t, 413, s.dial(t).Do("POST / HTTP/1.1\r\n"+host+"Transfer-Encoding: chunked\r\n\r\n"+chunked(big, 10_000)).StatusCode)
		assert.Empty(t, s.backend.Requests())
	}, buffering(1<<20, 0), func(s *site) { s.upstream.MaxRequestBody = 100_000 })
}

func TestAClientThatWaitsFor100ContinueGetsItFromTheProxy(t *testing.T) {
	overEachLane(t, good, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send("POST / HTTP/1.1\r\n" + host + "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
		c.Expect("HTTP/1.1 100 Continue\r\n\r\n")
		assert.Empty(t, s.backend.Requests())
		c.Send("hello")
		a := c.Response("POST")
		assert.Equal(t, "good 5", string(a.Content))
		assert.Empty(t, field(s.backend.WaitRequests(1)[0].Raw, "Expect"))
	}, buffering(1000, 0))
}

func TestAClientThatLeavesWhileItsBodyIsBufferedReachesNoTarget(t *testing.T) {
	overEachLane(t, good, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send("POST / HTTP/1.1\r\n" + host + "Content-Length: 1000\r\n\r\nsome")
		require.NoError(t, c.Close())
		x := s.record(t, 1)
		assert.Error(t, x.Err)
		assert.Contains(t, []int{400, 499}, x.Status)
		assert.Empty(t, x.Target)
		assert.Empty(t, s.backend.Requests())
		assert.Equal(t, "good 0", string(s.dial(t).Do(get).Content))
	}, buffering(1<<20, 0))
}

func TestADrainEndsABufferedUpload(t *testing.T) {
	t.Parallel()
	overOurLanes(t, good, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send("POST / HTTP/1.1\r\n" + host + "Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
		c.Expect("HTTP/1.1 100 Continue\r\n\r\n") // and the body is read
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		assert.ErrorContains(t, s.upstream.Drain(ctx), "1 request")
		assert.Equal(t, 503, c.Response("POST").StatusCode)
		assert.Empty(t, s.backend.Requests())
	}, buffering(1<<20, 0))
}

func TestWebSocketsGRPCAndEventStreamsAreNotBuffered(t *testing.T) {
	overEachLane(t, echoes, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(upgrade)
		require.Contains(t, c.Head(), " 101 ")
		c.Send("hello")
		c.Expect("hello")
		require.NoError(t, c.Close())
	}, buffering(1<<20, 1<<20))
	for name, kind := range map[string]string{"gRPC": "application/grpc", "an event stream": "text/event-stream"} {
		t.Run(name, func(t *testing.T) {
			h := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				w.Header().Set("Content-Type", kind)
				_ = http.NewResponseController(w).Flush()
				if kind == "application/grpc" {
					_, _ = io.Copy(w, q.Body)
				}
				_, _ = io.WriteString(w, "end")
			})
			_, u := newUpstream(t, "h2c", h)
			u.BufferRequests, u.BufferResponses = 1<<20, 1<<20
			client := clientOf(t, "h2", u)
			body, send := io.Pipe()
			q := newRequest(t, "POST", "/", body)
			if q.Header.Set("Content-Type", kind); kind != "application/grpc" {
				q = newRequest(t, "GET", "/", nil)
			}
			p, err := client.Do(q) // returns before the body has ended
			require.NoError(t, err)
			send.Close()
			text, err := io.ReadAll(p.Body)
			require.NoError(t, err)
			assert.Equal(t, "end", string(text))
			p.Body.Close()
		})
	}
}

// big is more than socket buffers hold.
const big = 12 << 20

// overBuffers runs check with backends that send a large body, one for each
// kind.
func overBuffers(t *testing.T, check func(t *testing.T, s *site, want []byte), settings ...setting) {
	data := bytes.Repeat([]byte("0123456789abcdef"), big/16)
	for name, raw := range map[string]string{
		"sized": sized(string(data)), "chunked": "Transfer-Encoding: chunked\r\n\r\n" + chunked(string(data), 1<<16, "X-Sum: 1"),
	} {
		t.Run(name, func(t *testing.T) {
			whole := "HTTP/1.1 200 OK\r\n" + raw
			script := func(c *proxytest.BackendConn) {
				for {
					q, err := c.ReadRequest()
					if err != nil || q == nil {
						return
					}
					answer := whole
					if q.RequestURI != "/big" {
						answer = ok
					}
					if c.Send(answer) != nil {
						return
					}
				}
			}
			overEachLane(t, script, func(t *testing.T, s *site) { check(t, s, data) }, settings...)
		})
	}
}

func TestASlowClientDoesNotOccupyTheTarget(t *testing.T) {
	t.Parallel()
	overBuffers(t, func(t *testing.T, s *site, want []byte) {
		slow := s.dial(t)
		slow.Send("GET /big HTTP/1.1\r\n" + host + "\r\n")
		s.backend.WaitRequests(1)
		noneInFlight(t, s.upstream)
		assert.Equal(t, "ok", string(s.dial(t).Do(get).Content), "the only place at the target is free")
		s.backend.WaitConns(1)
		assert.Equal(t, 1, s.backend.Conns(), "by the same connection")
		a := slow.Response("GET")
		assert.True(t, bytes.Equal(want, a.Content))
		x := s.record(t, 2)
		assert.NoError(t, x.Err)
		assert.Equal(t, int64(big), x.ResponseBytes)
		assert.Equal(t, "ok", string(slow.Do(get).Content))
	}, buffering(0, 2*big), func(s *site) { s.upstream.MaxTargetInFlight = 1 })
}

func TestASlowClientGetsAWholeResponseThatExceedsTheBuffer(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{1, 32 << 10, 1 << 20} {
		overBuffers(t, func(t *testing.T, s *site, want []byte) {
			slow := s.dial(t)
			slow.Send("GET /big HTTP/1.1\r\n" + host + "\r\n")
			s.backend.WaitRequests(1)
			assert.Equal(t, "ok", string(s.dial(t).Do(get).Content))
			a := slow.Response("GET")
			assert.True(t, bytes.Equal(want, a.Content))
			if a.Trailer != nil {
				assert.Equal(t, http.Header{"X-Sum": {"1"}}, a.Trailer)
			}
			noneInFlight(t, s.upstream)
		}, buffering(0, size))
	}
}

func TestAClientThatLeavesItsBufferedResponseIs499(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{1 << 20, 2 * big} {
		overBuffers(t, func(t *testing.T, s *site, _ []byte) {
			c := s.dial(t)
			c.Send("GET /big HTTP/1.1\r\n" + host + "\r\n")
			c.Head()
			require.NoError(t, c.Close())
			x := s.record(t, 1)
			assert.Equal(t, 499, x.Status)
			noneInFlight(t, s.upstream)
			assert.Equal(t, "ok", string(s.dial(t).Do(get).Content))
		}, buffering(0, size))
	}
}

func TestATargetThatBreaksOffABufferedResponseIsToBlame(t *testing.T) {
	script := afterRequest(func(c *proxytest.BackendConn) { _ = c.Send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome") })
	overEachLane(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		require.NoError(t, c.Conn.Send(get))
		_, err := c.ReadResponse("GET")
		assert.Error(t, err)
		x := s.record(t, 1)
		var failure *hostproxy.Error
		require.ErrorAs(t, x.Err, &failure)
		assert.Equal(t, hostproxy.SideUpstream, failure.Side)
	}, buffering(0, 1<<20))
}

func TestBuffersWorkOverEachProtocol(t *testing.T) {
	t.Parallel()
	data := strings.Repeat("0123456789abcdef", 1<<14)
	h := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		body, _ := io.ReadAll(q.Body)
		_, _ = w.Write(body)
		w.Header().Set("X-Sum", q.Trailer.Get("X-Sent"))
	})
	for _, front := range []string{"h1", "h2"} {
		for _, back := range []string{"http", "h2c", "https", "unix"} {
			for _, size := range []int64{1000, 1 << 20} {
				t.Run(fmt.Sprint(front, " to ", back, " ", size), func(t *testing.T) {
					proxytest.NoLeaks(t)
					_, u := newUpstream(t, back, h)
					u.BufferRequests, u.BufferResponses = size, size
					client := clientOf(t, front, u)
					for _, body := range []io.Reader{strings.NewReader(data), io.MultiReader(strings.NewReader(data))} {
						q := newRequest(t, "POST", "/", body)
						q.Trailer = http.Header{"X-Sent": {"1"}}
						p, got := do(t, client, q)
						assert.Equal(t, 200, p.StatusCode)
						assert.True(t, got == data, "%d bytes", len(got))
						// with a Content-Length, HTTP/1.1 has no trailers
						if q.ContentLength == 0 {
							assert.Equal(t, "1", p.Trailer.Get("X-Sum"))
						}
					}
				})
			}
		}
	}
}
