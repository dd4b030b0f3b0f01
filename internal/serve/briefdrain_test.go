package serve_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/serve"
)

// A short drain is clean if no request is in flight: a client that may send
// another one is no reason to fail.
func TestAShortDrainWithoutRequestsInFlightSucceeds(t *testing.T) {
	for _, first := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ln := newPipes()
			s := &serve.Server{Log: slog.New(slog.DiscardHandler), DrainTimeout: 100 * time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "ok")
			})}
			ctx, drain := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Serve(ctx, ln) }()
			conn := ln.dial()
			defer conn.Close()
			if !first {
				_, err := io.WriteString(conn, get)
				require.NoError(t, err)
				p, err := http.ReadResponse(bufio.NewReader(conn), nil)
				require.NoError(t, err)
				_, err = io.Copy(io.Discard, p.Body)
				require.NoError(t, err)
			}
			synctest.Wait()
			drain()
			began := time.Now()
			assert.NoError(t, <-done)
			assert.LessOrEqual(t, time.Since(began), 100*time.Millisecond)
		})
	}
}
