package serve_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/serve"
)

// drainWith serves in a bubble without TLS, in 10 s per request. It returns a
// connection on which the client has begun a request, a function that starts
// the drain, and the result of Serve.
func drainWith(t *testing.T, s *serve.Server, begun string) (net.Conn, context.CancelFunc, chan error) {
	ctx, drain := context.WithCancel(t.Context())
	ln, done := newPipes(), make(chan error, 1)
	s.DrainTimeout, s.Log = time.Minute, slog.New(slog.DiscardHandler)
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		<-time.NewTimer(10 * time.Second).C // the limit of the head must have no effect on the rest
		n, err := io.Copy(io.Discard, q.Body)
		fmt.Fprint(w, n, err)
	})
	go func() { done <- s.Serve(ctx, ln) }()
	c := ln.dial()
	_, err := io.WriteString(c, begun)
	require.NoError(t, err)
	synctest.Wait()
	return c, drain, done
}

// Docker kills a program ten seconds after it has told it to shut down.
func TestADrainLimitsHeads(t *testing.T) {
	for _, limit := range []time.Duration{0, 10 * time.Second, time.Second} {
		for _, part := range []string{"G", "GET / HTTP/1.1\r\nHost: a.test\r\nX", "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 20<<10), "PRI * HTTP/2.0\r\n"} {
			t.Run(fmt.Sprint(limit, part[:1], len(part)), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, drain, done := drainWith(t, &serve.Server{ReadHeaderTimeout: limit, MaxHeaderBytes: 64 << 10, H2C: true}, part)
					drain()
					began := time.Now()
					res, err := http.ReadResponse(bufio.NewReader(c), nil)
					require.NoError(t, err)
					assert.Equal(t, http.StatusRequestTimeout, res.StatusCode)
					assert.True(t, res.Close)
					assert.NoError(t, <-done)
					c.Close()
					if limit == time.Second {
						assert.LessOrEqual(t, time.Since(began), 1250*time.Millisecond, "an earlier end stays")
					} else {
						assert.Equal(t, 3*time.Second, time.Since(began))
					}
				})
			})
		}
	}
}

// A client that sends a byte now and then gets no further time.
func TestADrainLimitsAHeadThatArrivesByteByByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, drain, done := drainWith(t, &serve.Server{ReadHeaderTimeout: 10 * time.Second}, "GET / HTTP/1.1\r\nX: ")
		drain()
		began := time.Now()
		go func() { _, _ = io.Copy(io.Discard, c) }()
		for err := error(nil); err == nil; _, err = io.WriteString(c, "x") {
			time.Sleep(time.Second / 2)
		}
		assert.LessOrEqual(t, time.Since(began), 3500*time.Millisecond)
		c.Close()
		assert.NoError(t, <-done)
	})
}

func TestAHeadThatADrainFindsCanBeCompleted(t *testing.T) {
	for _, limit := range []time.Duration{0, 10 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			c, drain, done := drainWith(t, &serve.Server{ReadHeaderTimeout: limit}, "POST / HTTP/1.1\r\nHost: a.te")
			drain()
			time.Sleep(2900 * time.Millisecond)
			_, err := io.WriteString(c, "st\r\nContent-Length: 4\r\n\r\n12")
			require.NoError(t, err)
			time.Sleep(5 * time.Second)
			go func() { _, _ = io.WriteString(c, "34") }()
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			require.NoError(t, err)
			assert.Equal(t, http.StatusOK, res.StatusCode)
			assert.True(t, res.Close)
			body, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			assert.Equal(t, "4 <nil>", string(body))
			c.Close()
			assert.NoError(t, <-done)
		})
	}
}

// After a hand-over, the limits of heads stay as they are.
func TestAHandOverDoesNotLimitHeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handed, hand := context.WithCancel(t.Context())
		c, drain, done := drainWith(t, &serve.Server{ReadHeaderTimeout: 10 * time.Second, Handed: handed}, "GET / HTTP/1.1\r\nHost: a.te")
		defer drain()
		hand()
		time.Sleep(9 * time.Second)
		_, err := io.WriteString(c, "st\r\n\r\n")
		require.NoError(t, err)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		assert.Equal(t, http.StatusOK, res.StatusCode)
		c.Close()
		assert.NoError(t, <-done)
	})
}
