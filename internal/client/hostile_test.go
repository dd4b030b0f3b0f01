package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/client"
	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/pool"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// answer returns a script that reads one request head and then calls act.
func answer(act func(*proxytest.BackendConn)) func(*proxytest.BackendConn) {
	return func(bc *proxytest.BackendConn) {
		if _, err := bc.ReadHead(); err == nil {
			act(bc)
		}
	}
}

// A target that sends garbage fails its own exchange and loses its connection.
func TestHostileHeadsFailTheExchange(t *testing.T) {
	for _, tt := range []struct {
		name     string
		raw      string
		protocol bool // the failure is invalid HTTP, not a cut connection
	}{
		{"nothing", "", false},
		{"another protocol", "220 mail.example.com ESMTP\r\n", true},
		{"binary", "\x15\x03\x01\x00\x02\x02\x16", true},
		{"half a status line", "HTTP/1.1 20", false},
		{"half a head", "HTTP/1.1 200 OK\r\nContent-Le", false},
		{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", true},
		{"Content-Length and Transfer-Encoding", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", true},
		{"an unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", true},
		{"response splitting", "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\n\r\n", true},
		{"a huge head", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20), true},
		{"more fields than anybody needs", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 2000) + "\r\n", true},
		{"an interim head that is broken", "HTTP/1.1 103 Early Hints\r\nLink : a\r\n\r\n" + plainOK, true},
		{"an interim head, then the end", "HTTP/1.1 103 Early Hints\r\n\r\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, p, _ := clientOf(t, answer(func(bc *proxytest.BackendConn) { bc.Send(tt.raw) }))
			ae := failure(t, c, get(t))
			assert.Equal(t, "read", ae.Op)
			assert.True(t, ae.Wrote)
			var protocol *exchange.ProtocolError
			assert.Equal(t, tt.protocol, errors.As(ae, &protocol), "%v", ae)
			assert.Zero(t, p.Idle())
		})
	}
}

func TestHostileBodiesNeverEndCleanly(t *testing.T) {
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, tt := range []struct {
		name, raw, content string
		protocol           bool
	}{
		{"half a sized body", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "abc", false},
		{"no byte of a sized body", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "", false},
		{"half a chunk", chunked + "9\r\nabc", "abc", false},
		{"no last chunk", chunked + "3\r\nabc\r\n", "abc", false},
		{"half a last chunk", chunked + "3\r\nabc\r\n0\r\n", "abc", false},
		{"half a trailer section", chunked + "3\r\nabc\r\n0\r\nX: y\r\n", "abc", false},
		{"a bad chunk size", chunked + "3\r\nabc\r\nz\r\n", "abc", true},
		{"bare LF in a chunk (CVE-2025-22871)", chunked + "3\nabc\r\n", "", true},
		{"a chunk longer than its size", chunked + "1\r\nabc\r\n0\r\n\r\n", "a", true},
		{"a broken trailer", chunked + "0\r\nX : y\r\n\r\n", "", true},
		{"mostly extensions (CVE-2023-39326)", chunked + "1;" + strings.Repeat("x", 4<<10) + "\r\na\r\n0\r\n\r\n", "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			begun := make(chan struct{})
			head, body, _ := strings.Cut(tt.raw, "\r\n\r\n")
			c, p, _ := clientOf(t, answer(func(bc *proxytest.BackendConn) {
				if bc.Send(head+"\r\n\r\n") == nil && bc.Wait(begun) {
					bc.Send(body)
				}
			}))
			res, err := c.Do(get(t), nil)
			require.NoError(t, err)
			close(begun)
			content, err := io.ReadAll(res.Body)
			assert.Equal(t, tt.content, string(content))
			var protocol *exchange.ProtocolError
			assert.Equal(t, tt.protocol, errors.As(err, &protocol), "%v", err)
			assert.Equal(t, !tt.protocol, errors.Is(err, io.ErrUnexpectedEOF), "%v", err)
			_, again := res.Body.Read(make([]byte, 1))
			assert.Equal(t, err, again)
			require.NoError(t, res.Body.Close())
			assert.Zero(t, p.Idle())
		})
	}
}

// An error in the beginning of a body fails the attempt if that beginning comes
// with the head.
func TestAMalformedStartOfABodyFailsTheAttempt(t *testing.T) {
	for _, body := range []string{"z\r\n", "3\r\nabc\r\nz\r\n", "3\nabc\r\n", "0\r\nX : y\r\n\r\n"} {
		t.Run(body, func(t *testing.T) {
			c, p, _ := clientOf(t, answer(func(bc *proxytest.BackendConn) {
				bc.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
			}))
			ae := failure(t, c, get(t))
			assert.Equal(t, "read", ae.Op)
			var protocol *exchange.ProtocolError
			assert.ErrorAs(t, ae, &protocol)
			assert.Zero(t, p.Idle())
		})
	}
}

// threats.md: 1xx floods.
func TestInterimResponsesAreRelayedAndLimited(t *testing.T) {
	t.Run("in order", func(t *testing.T) {
		c, _, _ := clientOf(t, proxytest.Reply("HTTP/1.1 103 Early Hints\r\nLink: a\r\nLink: b\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"+plainOK))
		var seen []int
		res, err := c.Do(get(t), func(status int, h http.Header) error {
			seen = append(seen, status)
			if status == 103 {
				assert.Equal(t, []string{"a", "b"}, h["Link"])
			}
			return nil
		})
		require.NoError(t, err)
		assert.Empty(t, res.Header["Link"])
		assert.Equal(t, []int{103, 102}, seen)
		res.Body.Close()
	})
	t.Run("until the relay refuses", func(t *testing.T) {
		c, _, _ := clientOf(t, proxytest.Reply("HTTP/1.1 103 Early Hints\r\n\r\n"+plainOK))
		enough := errors.New("enough")
		_, err := c.Do(get(t), func(int, http.Header) error { return enough })
		assert.ErrorIs(t, err, enough)
	})
	t.Run("the number is limited", func(t *testing.T) {
		c, _, _ := clientOf(t, answer(func(bc *proxytest.BackendConn) {
			for bc.Send("HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n") == nil {
			}
		}))
		assert.True(t, failure(t, c, get(t)).Wrote)
	})
}

// forwarding.md: retry on a fresh connection freely when nothing was written;
// after a write only for idempotent methods, and never after the first byte.
func TestStaleConnectionsAreReplacedIfARetryIsAllowed(t *testing.T) {
	inMemory := func(q *http.Request) {
		q.Body, q.ContentLength = io.NopCloser(strings.NewReader("body")), 4
		q.GetBody = func() (io.ReadCloser, error) { return nil, errors.ErrUnsupported }
	}
	streamed := func(q *http.Request) {
		q.Body, q.ContentLength = io.NopCloser(strings.NewReader("body")), -1
	}
	for _, tt := range []struct {
		name   string
		method string
		body   func(*http.Request)
		die    string // "idle": before the request; "head": after it; otherwise after this answer
		want   bool
	}{
		{"GET, closed while idle", "GET", nil, "idle", true},
		{"POST, closed while idle", "POST", streamed, "idle", true},
		{"GET, closed after the request", "GET", nil, "head", true},
		{"PUT from memory, closed after the request", "PUT", inMemory, "head", true},
		{"PUT of a stream, closed after the request", "PUT", streamed, "head", false},
		{"POST, closed after the request", "POST", nil, "head", false},
		{"POST from memory, closed after the request", "POST", inMemory, "head", false},
		{"PATCH, closed after the request", "PATCH", nil, "head", false},
		{"GET, closed after a byte of the answer", "GET", nil, "H", false},
		{"GET, closed after an interim answer", "GET", nil, "HTTP/1.1 103 Early Hints\r\n\r\n", false},
		{"GET, answered by garbage", "GET", nil, "garbage", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			closed := make(chan struct{})
			c, p, b := clientOf(t, func(bc *proxytest.BackendConn) {
				bc.ReadRequest()
				bc.Send(plainOK)
				if bc.Number > 0 {
					return
				}
				if tt.die != "idle" {
					bc.ReadHead()
					if tt.die != "head" {
						bc.Send(tt.die)
					}
				}
				bc.Close()
				close(closed)
			})
			do(t, c, get(t))
			require.Equal(t, 1, p.Idle())
			if tt.die == "idle" {
				<-closed
			}
			q := request(t, tt.method, "/", nil, 0)
			if tt.body != nil {
				tt.body(q)
			}
			if !tt.want {
				assert.True(t, failure(t, c, q).Wrote)
				assert.Equal(t, 1, b.Conns())
				return
			}
			_, content := do(t, c, q)
			assert.Equal(t, "ok", content)
			assert.Equal(t, 2, b.Conns())
			if tt.body != nil {
				assert.Equal(t, "body", string(b.WaitRequests(2)[1].Content))
			}
		})
	}
	t.Run("a fresh connection that dies is not tried again", func(t *testing.T) {
		c, _, b := clientOf(t, answer(func(*proxytest.BackendConn) {}))
		failure(t, c, get(t))
		assert.Equal(t, 1, b.Conns())
	})
	t.Run("all kept ones stale cost one new connection", func(t *testing.T) {
		c, p, b := clientOf(t, proxytest.Reply(plainOK, ""))
		var bodies []io.Closer
		for range 5 {
			res, err := c.Do(get(t), nil)
			require.NoError(t, err)
			bodies = append(bodies, res.Body)
		}
		for _, body := range bodies {
			body.Close()
		}
		require.Equal(t, 5, p.Idle())
		do(t, c, get(t)) // retried once after a write, on a fresh connection
		assert.Equal(t, 6, b.Conns())
	})
}

func TestTheEndOfTheContextEndsTheExchange(t *testing.T) {
	for _, tt := range []struct {
		name string
		raw  string
		body bool
	}{
		{"before the head", "", false},
		{"in the head", "HTTP/1.1 200", false},
		{"in a sized body", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", false},
		{"in a chunked body", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false},
		{"in an endless body", "HTTP/1.1 200 OK\r\n\r\nab", false},
		{"in an upload", "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			closed := make(chan struct{})
			c, p, _ := clientOf(t, answer(func(bc *proxytest.BackendConn) {
				bc.Send(tt.raw)
				cancel()
				bc.ReadAll()
				close(closed)
			}))
			q := get(t)
			if tt.body {
				r, w := io.Pipe()
				defer w.Close()
				q = request(t, "POST", "/", r, -1)
			}
			res, err := c.Do(q.WithContext(ctx), nil)
			if err == nil {
				_, err = io.ReadAll(res.Body)
				res.Body.Close()
			}
			assert.ErrorIs(t, err, context.Canceled)
			<-closed
			assert.Zero(t, p.Idle())
		})
	}
	t.Run("one that ended before costs nothing", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		c, _, _ := clientOf(t, proxytest.Reply(plainOK))
		_, err := c.Do(get(t).WithContext(ctx), nil)
		assert.ErrorIs(t, err, context.Canceled)
	})
	t.Run("one that ends later does not hurt the next exchange", func(t *testing.T) {
		c, _, b := clientOf(t, proxytest.Reply(plainOK))
		for range 50 {
			ctx, cancel := context.WithCancel(t.Context())
			do(t, c, get(t).WithContext(ctx))
			cancel()
		}
		assert.Equal(t, 1, b.Conns())
	})
}

func TestASlowTargetFailsWithATimeout(t *testing.T) {
	silent := func(bc *proxytest.BackendConn) { bc.Wait(nil) }
	t.Run("no head in time", func(t *testing.T) {
		_, p, _ := clientOf(t, silent)
		c := client.New(p, client.Timeouts{Header: 20 * time.Millisecond})
		ae := failure(t, c, get(t))
		assert.ErrorIs(t, ae, os.ErrDeadlineExceeded)
		assert.Equal(t, "read", ae.Op)
	})
	t.Run("a head in pieces is no excuse", func(t *testing.T) {
		stop := make(chan struct{})
		_, p, _ := clientOf(t, answer(func(bc *proxytest.BackendConn) {
			for bc.Send("HTTP/1.1 103 Early Hints\r\n\r\n") == nil {
				tick := time.NewTimer(5 * time.Millisecond)
				select {
				case <-tick.C:
				case <-stop:
				}
			}
		}))
		defer close(stop)
		c := client.New(p, client.Timeouts{Header: 50 * time.Millisecond})
		assert.ErrorIs(t, failure(t, c, get(t)), os.ErrDeadlineExceeded)
	})
	t.Run("the time starts when the request has been sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := piped(t, func(pc *proxytest.Conn) {
				if _, err := pc.ReadRequest(); err == nil {
					_ = pc.Send(plainOK)
				}
			})
			c := client.New(p, client.Timeouts{Header: time.Second})
			r, w := io.Pipe()
			time.AfterFunc(2*time.Second, func() { w.Close() })
			_, content := do(t, c, request(t, "POST", "/", r, -1))
			assert.Equal(t, "ok", content)
		})
	})
	t.Run("and it starts after the request", func(t *testing.T) {
		_, p, _ := clientOf(t, silent)
		c := client.New(p, client.Timeouts{Header: 30 * time.Millisecond})
		assert.ErrorIs(t, failure(t, c, request(t, "POST", "/", strings.NewReader("x"), -1)), os.ErrDeadlineExceeded)
	})
	t.Run("a target that takes no body", func(t *testing.T) {
		_, p, _ := clientOf(t, silent)
		c := client.New(p, client.Timeouts{Stall: 30 * time.Millisecond})
		ae := failure(t, c, request(t, "POST", "/", endless{}, -1))
		assert.ErrorIs(t, ae, os.ErrDeadlineExceeded)
		assert.Equal(t, "write", ae.Op)
	})
	t.Run("a dial that does not end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := piped(t, func(pc *proxytest.Conn) { _, _ = pc.ReadAll() })
			p.TLS = &tls.Config{ServerName: "target.test"}
			c := client.New(p, client.Timeouts{Dial: time.Second})
			ae := failure(t, c, get(t))
			assert.Equal(t, "handshake", ae.Op)
			assert.ErrorIs(t, ae, context.DeadlineExceeded)
			assert.False(t, ae.Wrote)
		})
	})
}

// piped returns a pool of in-memory connections to a target that runs script,
// for use in a synctest bubble.
func piped(t testing.TB, script func(*proxytest.Conn)) *pool.Pool {
	p := &pool.Pool{Dial: func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			script(proxytest.NewConn(far))
		}()
		return near, nil
	}}
	t.Cleanup(p.Close)
	return p
}

// endless is an infinite body.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestExpectContinueHoldsTheBodyBack(t *testing.T) {
	expecting := func(t *testing.T) *http.Request {
		q := request(t, "PUT", "/", strings.NewReader("body"), 4)
		q.Header.Set("Expect", "100-continue")
		return q
	}
	t.Run("until 100 Continue arrives", func(t *testing.T) {
		c, p, _ := clientOf(t, answer(func(bc *proxytest.BackendConn) {
			bc.Send("HTTP/1.1 100 Continue\r\n\r\n")
			if s, _ := bc.ReadString(4); s == "body" {
				bc.Send(plainOK)
			}
		}))
		var seen []int
		res, err := c.Do(expecting(t), func(status int, _ http.Header) error { seen = append(seen, status); return nil })
		require.NoError(t, err)
		content, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		assert.Equal(t, "ok", string(content))
		assert.Equal(t, []int{100}, seen)
		assert.Equal(t, 1, p.Idle())
	})
	t.Run("until the target has not answered for a while", func(t *testing.T) {
		c, _, b := clientOf(t, proxytest.Reply(plainOK))
		_, content := do(t, c, expecting(t))
		assert.Equal(t, "ok", content)
		assert.Equal(t, "body", string(b.WaitRequests(1)[0].Content))
	})
	// threats.md: Expect and an early final answer poison the pool
	// (CVE-2024-24791).
	t.Run("for good after a final response, which closes the connection", func(t *testing.T) {
		sent := make(chan string, 100)
		c, p, _ := clientOf(t, func(bc *proxytest.BackendConn) {
			if head, _ := bc.ReadHead(); strings.Contains(head, "100-continue") {
				bc.Send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno")
				rest, _ := bc.ReadAll()
				sent <- rest
				return
			}
			bc.Send(plainOK)
		})
		for range 50 {
			res, content := do(t, c, expecting(t))
			require.Equal(t, 417, res.StatusCode)
			require.Equal(t, "no", content)
			require.Empty(t, <-sent)
			require.Zero(t, p.Idle())
		}
		_, content := do(t, c, get(t))
		assert.Equal(t, "ok", content)
	})
}

func TestEarlyResponsesAreDelivered(t *testing.T) {
	t.Run("while the client still sends", func(t *testing.T) {
		c, p, _ := clientOf(t, answer(func(bc *proxytest.BackendConn) {
			bc.Send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
			bc.ReadAll()
		}))
		r, w := io.Pipe()
		res, content := do(t, c, request(t, "POST", "/", r, -1))
		assert.Equal(t, 413, res.StatusCode)
		assert.Equal(t, "no", content)
		assert.Zero(t, p.Idle(), "the request was not sent completely")
		w.Close() // the reader ends with the client's body
	})
	t.Run("although the target reads no more", func(t *testing.T) {
		c, _, _ := clientOf(t, answer(func(bc *proxytest.BackendConn) {
			bc.Send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
			bc.CloseWrite()
			io.CopyN(io.Discard, bc, 1<<20) // lets the answer arrive before the reset
		}))
		res, content := do(t, c, request(t, "POST", "/", endless{}, -1))
		assert.Equal(t, 413, res.StatusCode)
		assert.Equal(t, "no", content)
	})
	t.Run("and both directions continue", func(t *testing.T) {
		c, p, _ := clientOf(t, answer(func(bc *proxytest.BackendConn) {
			bc.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for range 3 {
				s, _ := bc.ReadString(len("4\r\nping\r\n"))
				bc.Send(s)
			}
			s, _ := bc.ReadString(len("0\r\n\r\n"))
			bc.Send(s)
			bc.Wait(nil)
		}))
		r, w := io.Pipe()
		res, err := c.Do(request(t, "POST", "/", r, -1), nil)
		require.NoError(t, err)
		for range 3 {
			io.WriteString(w, "ping")
			got := make([]byte, 4)
			_, err := io.ReadFull(res.Body, got)
			require.NoError(t, err)
			assert.Equal(t, "ping", string(got))
		}
		w.Close()
		rest, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		assert.Empty(t, rest)
		assert.Equal(t, 1, p.Idle())
	})
}

// forwarding.md: an error of the client in a body is not a fault of the target,
// and the received part must not look complete.
func TestAnUploadThatFailsNeverLooksComplete(t *testing.T) {
	fault := errors.New("client went away")
	for _, tt := range []struct {
		name   string
		body   io.Reader
		length int64
		want   error
	}{
		{"a chunked one", io.MultiReader(strings.NewReader("abc"), failing{fault}), -1, fault},
		{"a sized one", io.MultiReader(strings.NewReader("abc"), failing{fault}), 5, fault},
		{"one shorter than announced", strings.NewReader("abc"), 5, io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			received := make(chan string, 1)
			c, p, _ := clientOf(t, answer(func(bc *proxytest.BackendConn) {
				s, _ := bc.ReadAll()
				received <- s
			}))
			ae := failure(t, c, request(t, "POST", "/", tt.body, tt.length))
			assert.ErrorIs(t, ae, tt.want)
			assert.Equal(t, "write", ae.Op)
			s := <-received
			assert.NotContains(t, s, "0\r\n\r\n")
			assert.Less(t, len(s), 3+len("3\r\n\r\n")+1)
			assert.Zero(t, p.Idle())
		})
	}
	t.Run("while its answer is being read", func(t *testing.T) {
		c, _, _ := clientOf(t, answer(func(bc *proxytest.BackendConn) {
			bc.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
			bc.ReadAll()
		}))
		r, w := io.Pipe()
		res, err := c.Do(request(t, "POST", "/", r, -1), nil)
		require.NoError(t, err)
		w.CloseWithError(fault)
		_, err = io.ReadAll(res.Body)
		assert.ErrorIs(t, err, fault)
		res.Body.Close()
	})
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestA101DuringAnUploadIsRefused(t *testing.T) {
	c, _, _ := clientOf(t, answer(func(bc *proxytest.BackendConn) {
		bc.Send("HTTP/1.1 101 Switching Protocols\r\n\r\n")
		bc.ReadAll()
	}))
	r, w := io.Pipe()
	ae := failure(t, c, request(t, "POST", "/", r, -1))
	var protocol *exchange.ProtocolError
	assert.ErrorAs(t, ae, &protocol)
	w.Close()
}

// CVE-2020-15586 and similar: uploads, early answers and clients that leave,
// all at once.
func TestUploadsResponsesAndDisconnectsDoNotRace(t *testing.T) {
	c, _, _ := clientOf(t, func(bc *proxytest.BackendConn) {
		for {
			if _, err := bc.ReadHead(); err != nil {
				return
			}
			if bc.Send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") != nil {
				return
			}
			if bc.Number%2 == 0 {
				return
			}
		} // the rest of a body counts as another head: the answer is one too many
	})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 60 {
				ctx, cancel := context.WithCancel(t.Context())
				r, w := io.Pipe()
				q := request(t, "POST", "/", r, -1).WithContext(ctx)
				if i%3 == 0 {
					q.Header.Set("Expect", "100-continue")
				}
				var ends sync.WaitGroup
				ends.Go(func() {
					io.WriteString(w, "some of it")
					if (g+i)%2 == 0 {
						cancel()
					}
					w.Close()
				})
				if res, err := c.Do(q, nil); err == nil {
					io.ReadAll(res.Body)
					res.Body.Close()
				}
				r.Close()
				ends.Wait()
				cancel()
			}
		})
	}
	wg.Wait()
}
