//go:build !race

package serve_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// The race detector makes sync.Pool drop items at random, so this one runs
// without it.

// backend answers every head it reads with answer, and allocates nothing.
func backend(t *testing.T, answer string) string {
	ln := proxytest.Listen(t)
	raw := []byte(answer)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 64<<10)
				for n := 0; ; {
					m, err := c.Read(buf[n:])
					if err != nil {
						return
					}
					if n += m; bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) || bytes.HasSuffix(buf[:n], []byte("END")) {
						n = 0
						if _, err := c.Write(raw); err != nil {
							return
						}
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

func TestAFastLaneRequestAllocatesNothing(t *testing.T) {
	proxytest.NoLeaks(t)
	for _, tt := range []struct{ name, request, answer string }{
		{"GET, sized", "GET /p?q HTTP/1.1\r\nHost: a.test\r\nUser-Agent: x\r\nAccept: */*\r\nCookie: a=b\r\n\r\n",
			"HTTP/1.1 200 OK\r\nServer: x\r\nDate: Mon, 23 Nov 2026 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nok"},
		{"GET, chunked, no Date", "GET / HTTP/1.1\r\nHost: A.test:80\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"},
		{"POST, sized", "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 7\r\n\r\nbodyEND",
			"HTTP/1.1 204 No Content\r\n\r\n"},
		{"POST, chunked", "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
			"HTTP/1.1 204 No Content\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := backend(t, tt.answer)
			for name, observe := range map[string]func(*hostproxy.Exchange){
				"unobserved": nil,
				"observed":   func(*hostproxy.Exchange) {},
				"logged":     hostproxy.AccessLog(slog.New(slog.NewJSONHandler(io.Discard, nil))),
			} {
				r := hostproxy.Router{Observe: observe}
				r.Handle("a.test", hostproxy.To(addr))
				assert.Less(t, perRequest(t, &r, tt.request), 0.05, name)
			}
		})
	}
}

// perRequest returns how often the process allocates per request.
func perRequest(t *testing.T, r *hostproxy.Router, request string) float64 {
	ln := proxytest.Listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- (&hostproxy.Server{Router: r}).Serve(ctx, nil, ln) }()
	defer func() { cancel(); require.NoError(t, <-done) }()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()

	raw, buf := []byte(request), make([]byte, 4096)
	size := 0
	exchange := func() {
		_, err := c.Write(raw)
		if err == nil && size == 0 {
			size, err = c.Read(buf)
		} else if err == nil {
			_, err = io.ReadFull(c, buf[:size])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		exchange()
	}
	const n = 5000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		exchange()
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / n
}
