package e2e_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

const (
	upgrade  = "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + token + "\r\n"
	switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)

// echoes accepts an upgrade, echoes until the client ends, and then ends too.
func echoes(c *proxytest.BackendConn) {
	if _, err := c.ReadHead(); err != nil || c.Send(switched) != nil {
		return
	}
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		if n > 0 && c.Send(string(buf[:n])) != nil || err != nil {
			return
		}
	}
}

func TestBytesReachTheClientAsTheyCome(t *testing.T) {
	for _, kind := range []string{"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked", "Content-Length: 12"} {
		frame := func(part string) string {
			if strings.HasPrefix(kind, "Content-Length") {
				return part
			}
			return "4\r\n" + part + "\r\n"
		}
		t.Run(kind, func(t *testing.T) {
			next := make(chan struct{})
			script := func(c *proxytest.BackendConn) {
				if _, err := c.ReadRequest(); err != nil {
					return
				}
				_ = c.Send("HTTP/1.1 200 OK\r\n" + kind + "\r\n\r\n")
				for _, part := range []string{"one\n", "two\n", "end\n"} {
					if !c.Wait(next) {
						return
					}
					_ = c.Send(frame(part))
				}
				if frame("") != "" {
					_ = c.Send("0\r\n\r\n")
				}
			}
			overEachLane(t, script, func(t *testing.T, s *site) {
				c := s.dial(t)
				c.Send(get)
				assert.True(t, strings.HasPrefix(c.Head(), "HTTP/1.1 200 OK"), "the head comes before the first byte of the body")
				for _, part := range []string{"one\n", "two\n", "end\n"} {
					next <- struct{}{}
					c.Expect(frame(part))
				}
			})
		})
	}
}

// With http.Transport the proxy cannot know which bytes have arrived.
func TestASlowSizedBodyFromAnH2CTargetReachesTheClientAsItComes(t *testing.T) {
	next := make(chan struct{})
	backend := proxytest.NewH2CServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Length", "12")
		for _, part := range []string{"one\n", "two\n", "end\n"} {
			_, _ = io.WriteString(w, part)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-next:
			case <-q.Context().Done():
			}
		}
	}))
	overEachLane(t, nil, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(get)
		assert.Contains(t, c.Head(), "Content-Length: 12")
		for _, part := range []string{"one\n", "two\n", "end\n"} {
			c.Expect(part)
			next <- struct{}{}
		}
		require.NoError(t, s.upstream.Drain(t.Context()))
	}, func(s *site) { s.upstream = hostproxy.To("h2c://" + backend.Addr()) })
}

// An h2c target cannot get an upgrade request. That must not count as its
// failure, which a client could cause.
func TestAnUpgradeIsNotAskedOfAnH2CTarget(t *testing.T) {
	backend := proxytest.NewH2CServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		assert.Empty(t, q.Header.Get("Upgrade"))
		_, _ = io.WriteString(w, "plain")
	}))
	overEachLane(t, nil, func(t *testing.T, s *site) {
		for range 3 {
			p := s.dial(t).Do("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
				"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
			assert.Equal(t, 200, p.StatusCode, "a server may ignore the wish")
			assert.Equal(t, "plain", string(p.Content))
		}
		for target := range s.upstream.All() {
			assert.Equal(t, "up", target.Health().State)
		}
		require.NoError(t, s.upstream.Drain(t.Context()))
	}, func(s *site) {
		s.upstream = hostproxy.To("h2c://" + backend.Addr())
		s.upstream.Breaker = &hostproxy.Breaker{Failures: 1}
	})
}

func TestAnEarlyResponseToAnUnfinishedUploadReachesTheClient(t *testing.T) {
	for _, framing := range []string{"Content-Length: 100000", "Transfer-Encoding: chunked"} {
		t.Run(framing, func(t *testing.T) {
			script := func(c *proxytest.BackendConn) {
				if _, err := c.ReadHead(); err == nil {
					_ = c.Send("HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nearly")
					c.Wait(nil)
				}
			}
			overEachLane(t, script, func(t *testing.T, s *site) {
				for range 10 {
					c := s.dial(t)
					c.Send("POST / HTTP/1.1\r\nHost: a.test\r\n" + framing + "\r\n\r\n")
					if framing == "Transfer-Encoding: chunked" {
						c.Send("3\r\nabc\r\n")
					} else {
						c.Send("abc")
					}
					p := c.Response("POST")
					assert.Equal(t, 403, p.StatusCode)
					assert.Equal(t, "early", string(p.Content))
					_ = c.Close() // the server may have closed it first
				}
			})
		})
	}
}

func TestAnUpgradeCarriesBytesBothWays(t *testing.T) {
	overEachLane(t, echoes, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(upgrade)
		head := c.Head()
		assert.True(t, strings.HasPrefix(head, "HTTP/1.1 101 "), head)
		assert.Equal(t, []string{"websocket"}, field([]byte(head), "Upgrade"))
		assert.Len(t, field([]byte(head), "Sec-WebSocket-Accept"), 1)
		for _, text := range []string{"\x81\x03abc", strings.Repeat("x", 100<<10)} {
			go func() { _ = c.Conn.Send(text) }()
			c.Expect(text)
		}
		require.NoError(t, c.Close())
		x := s.record(t, 1)
		assert.Equal(t, 101, x.Status)
		assert.Equal(t, int64(100<<10+5), x.RequestBytes)
		assert.Equal(t, int64(100<<10+5), x.ResponseBytes)
	})
}

func TestBytesBehindTheUpgradeAreKept(t *testing.T) {
	script := func(c *proxytest.BackendConn) {
		if _, err := c.ReadHead(); err != nil || c.Send(switched+"\x81\x05first") != nil {
			return
		}
		got, _ := c.ReadString(5)
		_ = c.Send(got)
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(upgrade + "early")
		c.Head()
		c.Expect("\x81\x05first")
		c.Expect("early")
	})
}

func TestEitherSideOfATunnelMayHalfCloseIt(t *testing.T) {
	script := func(c *proxytest.BackendConn) {
		if _, err := c.ReadHead(); err != nil || c.Send(switched) != nil {
			return
		}
		got, _ := c.ReadAll() // until the client's FIN
		_ = c.Send("answer to " + got)
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(upgrade)
		c.Head()
		c.Send("question")
		require.NoError(t, c.CloseWrite())
		assert.Equal(t, "answer to question", c.Rest())
	})
	received := make(chan string, 1)
	script = func(c *proxytest.BackendConn) {
		if _, err := c.ReadHead(); err != nil || c.Send(switched+"bye") != nil || c.CloseWrite() != nil {
			return
		}
		got, _ := c.ReadAll()
		received <- got
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(upgrade)
		c.Head()
		c.Expect("bye")
		c.Send("still here")
		require.NoError(t, c.Close())
		assert.Equal(t, "still here", <-received, "what came after the upstream's FIN")
	})
}

func TestATunnelEndsWhenEitherSideEnds(t *testing.T) {
	ended := make(chan struct{}, 1)
	script := func(c *proxytest.BackendConn) {
		if _, err := c.ReadHead(); err == nil && c.Send(switched) == nil {
			_, _ = c.ReadAll()
			ended <- struct{}{}
		}
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(upgrade)
		c.Head()
		require.NoError(t, c.Reset())
		<-ended
		s.record(t, 1)
	})
	overEachLane(t, func(c *proxytest.BackendConn) {
		if _, err := c.ReadHead(); err == nil && c.Send(switched) == nil {
			_ = c.Reset()
		}
	}, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(upgrade)
		c.Head()
		assert.Empty(t, c.Rest())
		s.record(t, 1)
	})
}

func TestAnUpgradeThatIsRefusedStaysHTTP(t *testing.T) {
	// CVE-2026-2833, CVE-2024-23326: without a 101, the bytes after an Upgrade
	// are a request.
	overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(upgrade + "GET /second HTTP/1.1\r\nHost: nowhere.test\r\n\r\n")
		assert.Equal(t, "ok", string(c.Response("GET").Content))
		second, err := c.ReadResponse("GET")
		if err == nil { // otherwise the connection was closed, which is safe too
			assert.Contains(t, []int{404, 421}, second.StatusCode, "the proxy reads it, and knows no such host")
		}
		for _, q := range s.backend.Requests() {
			assert.NotContains(t, string(q.Raw), "/second")
		}
	})
}

// CVE-2022-41721, h2csmuggler: only upgrades to protocols on the list are
// forwarded.
func TestOnlyUpgradesOnTheListAreForwarded(t *testing.T) {
	t.Parallel()
	for _, ask := range []string{
		"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
		"Connection: Upgrade\r\nUpgrade: foo\r\n",
		"Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
		"Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n",
		"Upgrade: websocket\r\n",
	} {
		t.Run(ask, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				p := s.dial(t).Do("GET / HTTP/1.1\r\nHost: a.test\r\n" + ask + "\r\n")
				assert.NotEqual(t, 101, p.StatusCode)
				for _, q := range s.backend.Requests() {
					assert.Empty(t, field(q.Raw, "HTTP2-Settings"))
					assert.Empty(t, field(q.Raw, "Upgrade"))
				}
			})
		})
	}
}

func TestConnectionOptionsAreCleanedOnUpgradesToo(t *testing.T) {
	overEachLane(t, echoes, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send("GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade, x-internal-auth, x-forwarded-for\r\nUpgrade: websocket\r\n" +
			"X-Internal-Auth: yes\r\n" + token + "\r\n")
		head := []byte(c.Head())
		require.True(t, strings.HasPrefix(string(head), "HTTP/1.1 101 "), "%s", head)
	})
	got := make(chan string, 1)
	script := func(c *proxytest.BackendConn) {
		head, _ := c.ReadHead()
		got <- head
		_ = c.Send(ok)
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Do("GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade, x-internal-auth, x-forwarded-for\r\nUpgrade: websocket\r\n" +
			"X-Internal-Auth: yes\r\n" + token + "\r\n")
		head := []byte(<-got)
		assert.Empty(t, field(head, "X-Internal-Auth"))
		assert.Equal(t, []string{ip(c)}, field(head, "X-Forwarded-For"))
		assert.Equal(t, []string{"websocket"}, field(head, "Upgrade"))
	})
}

func TestDrainClosesWebSocketsWith1001(t *testing.T) {
	echoesOnce := func(c *proxytest.BackendConn) { // the other echoes would echo a Close frame
		if _, err := c.ReadHead(); err != nil || c.Send(switched) != nil {
			return
		}
		if s, err := c.ReadString(6); err == nil && c.Send(s) == nil {
			_, _ = c.ReadAll()
		}
	}
	overOurLanes(t, echoesOnce, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(upgrade)
		c.Head()
		c.Send("\x81\x80\x00\x00\x00\x00")
		c.Expect("\x81\x80\x00\x00\x00\x00") // the tunnel runs
		s.server.Drain()
		head, err := c.ReadString(4)
		require.NoError(t, err)
		assert.Equal(t, byte(0x88), head[0], "a Close frame")
		assert.Equal(t, "\x03\xe9", head[2:4], "1001, going away")
		require.NoError(t, c.Close())
		require.NoError(t, s.server.Stop())
	})
}

func TestReplacingOneRouteLeavesTheStreamsOfAnother(t *testing.T) {
	overEachLane(t, echoes, func(t *testing.T, s *site) {
		other := proxytest.NewBackend(t, echoes)
		require.NoError(t, s.router.Set("b.test", hostproxy.To(other.Addr())))
		stays, goes := s.dial(t), s.dial(t)
		stays.Send(upgrade)
		stays.Head()
		goes.Send(strings.Replace(upgrade, "a.test", "b.test", 1))
		goes.Head()

		require.NoError(t, s.router.Replace(map[string]http.Handler{"a.test": s.upstream, "c.test": s.upstream}))
		closed, err := goes.ReadString(4)
		require.NoError(t, err)
		assert.Equal(t, byte(0x88), closed[0], "the stream of the route that went gets a Close frame")
		require.NoError(t, goes.Close())
		stays.Send("alive")
		stays.Expect("alive")
	})
}

func TestRemovingARouteLetsItsRequestsEnd(t *testing.T) {
	release := make(chan struct{})
	script := func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil && c.Wait(release) {
			_ = c.Send(ok)
		}
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		c, other := s.dial(t), s.dial(t) // both now: later there is no handshake for the name
		c.Send(get)
		s.backend.WaitRequests(1)
		assert.True(t, s.router.Remove("a.test"))
		assert.Contains(t, []int{404, 421}, other.Do(get).StatusCode)
		release <- struct{}{}
		assert.Equal(t, "ok", string(c.Response("GET").Content))
	})
}

func TestDrainLetsRequestsEnd(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	script := func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil && c.Wait(release) {
			_ = c.Send(ok)
		}
	}
	overOurLanes(t, script, func(t *testing.T, s *site) {
		idle := s.dial(t)
		c := s.dial(t)
		c.Send(get)
		s.backend.WaitRequests(1)
		s.server.Drain()
		assert.Empty(t, idle.Rest(), "an idle connection is closed at once")
		release <- struct{}{}
		assert.Equal(t, "ok", string(c.Response("GET").Content))
		assert.Empty(t, c.Rest())
		require.NoError(t, s.server.Stop())
	})
}

func TestDrainingAnUpstreamRefusesNewRequestsAndWaitsForOldOnes(t *testing.T) {
	release := make(chan struct{})
	script := func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil && (c.Number > 0 || c.Wait(release)) {
			_ = c.Send(ok)
		}
	}
	overEachLane(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		c.Send(get)
		s.backend.WaitRequests(1)
		drained := make(chan error, 1)
		go func() { drained <- s.upstream.Drain(context.Background()) }()
		proxytest.Eventually(t, "the upstream to refuse", func() bool {
			return s.dial(t).Do("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").StatusCode == 503
		})
		release <- struct{}{}
		assert.Equal(t, "ok", string(c.Response("GET").Content))
		require.NoError(t, <-drained)
	})
}

func TestStreamsAreCountedUntilTheyEnd(t *testing.T) {
	refuses := func(c *proxytest.BackendConn) { // it answers an upgrade of /no like any request
		for {
			head, err := c.ReadHead()
			switch {
			case err != nil:
				return
			case strings.HasPrefix(head, "GET /ws "):
				if c.Send(switched) == nil {
					_, _ = c.ReadAll()
				}
				return
			}
			_ = c.Send(ok)
		}
	}
	overEachLane(t, refuses, func(t *testing.T, s *site) {
		target := slices.Collect(s.upstream.All())[0]
		counts := func() [2]int64 { return [2]int64{target.InFlight(), target.Streams()} }
		c := s.dial(t)
		assert.Equal(t, 200, c.Do(strings.Replace(upgrade, "/ws", "/no", 1)).StatusCode)
		assert.Zero(t, target.Streams(), "an upgrade that was refused is no stream")
		c = s.dial(t)
		c.Send(upgrade)
		require.Contains(t, c.Head(), " 101 ")
		proxytest.Eventually(t, "one of each", func() bool { return counts() == [2]int64{1, 1} })

		other := s.dial(t)
		other.Send(upgrade)
		require.Contains(t, other.Head(), " 101 ")
		proxytest.Eventually(t, "two of each", func() bool { return counts() == [2]int64{2, 2} })
		require.NoError(t, other.Close())
		proxytest.Eventually(t, "one that is left", func() bool { return counts() == [2]int64{1, 1} })

		over, cancel := context.WithCancel(t.Context())
		cancel()
		err := s.upstream.Drain(over)
		assert.ErrorIs(t, err, context.Canceled)
		assert.ErrorContains(t, err, "cut off 1 stream: ")
		stills, cut := proxytest.WatchStandstills(t), time.Now()
		c.Rest()
		assert.Less(t, time.Since(cut)-stills.Total(), 4*time.Second, "at once: no answer to a Close frame is waited for")
		proxytest.Eventually(t, "none of either", func() bool { return counts() == [2]int64{} })
		for range 20 {
			assert.NoError(t, s.upstream.Drain(over), "no request is left")
		}
	})
}

// A recorder is a ResponseWriter of middleware without an Unwrap method.
type recorder struct{ http.ResponseWriter }

// Middleware that hides the connection makes upgrades impossible. That is not
// the client's fault.
func TestMiddlewareWithoutUnwrapIsBlamedForAnUpgradeThatFails(t *testing.T) {
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if _, err := c.ReadHead(); err == nil {
			_ = c.Send(switched)
		}
	})
	records := make(chan hostproxy.Exchange, 1)
	router := &hostproxy.Router{Observe: func(x *hostproxy.Exchange) { records <- *x }}
	router.Handle("a.test", hostproxy.To(backend.Addr()))
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { router.ServeHTTP(recorder{w}, q) }))
	defer front.Close()
	c := proxytest.Dial(t, front.Listener.Addr().String())
	assert.Equal(t, 500, c.Do(upgrade).StatusCode)
	x := <-records
	assert.Equal(t, 500, x.Status)
	var fault *hostproxy.Error
	require.ErrorAs(t, x.Err, &fault)
	assert.Equal(t, hostproxy.SideProxy, fault.Side)
	assert.ErrorContains(t, fault, "Unwrap")
}
