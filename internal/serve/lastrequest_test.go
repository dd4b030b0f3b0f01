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

// A busy client sends its next request just when a drain begins. The request is
// served, as the last one of its connection. The drain does not wait for a
// client that pauses.
func TestADrainWaitsAMomentForTheNextRequestOfABusyClient(t *testing.T) {
	for about, c := range map[string]struct {
		pause time.Duration // pause before the drain
		first bool          // no earlier request on the connection
		sends bool          // sends a request after the drain has begun
		most  time.Duration // longest duration of the drain
	}{
		"a busy client":                    {sends: true, most: 110 * time.Millisecond},
		"a new connection":                 {first: true, sends: true, most: 110 * time.Millisecond},
		"a client without another request": {most: 320 * time.Millisecond},
		"a client that has paused":         {pause: time.Second},
		"an unused connection":             {first: true, pause: time.Second},
	} {
		t.Run(about, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := newPipes()
				s := &serve.Server{Log: slog.New(slog.DiscardHandler), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					_, _ = io.WriteString(w, "ok")
				})}
				ctx, drain := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- s.Serve(ctx, ln) }()
				conn := ln.dial()
				defer conn.Close()
				in := bufio.NewReader(conn)
				ask := func() *http.Response {
					_, err := io.WriteString(conn, get)
					require.NoError(t, err)
					p, err := http.ReadResponse(in, nil)
					require.NoError(t, err)
					_, err = io.Copy(io.Discard, p.Body)
					require.NoError(t, err)
					return p
				}
				if !c.first {
					assert.False(t, ask().Close)
				}
				synctest.Wait()
				time.Sleep(c.pause)
				drain()
				began := time.Now()
				if c.sends {
					time.Sleep(100 * time.Millisecond)
					assert.True(t, ask().Close, "the last one")
				}
				require.NoError(t, <-done)
				assert.LessOrEqual(t, time.Since(began), c.most)
			})
		})
	}
}
