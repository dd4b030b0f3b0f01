package serve_test

import (
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

// After a hand-over, connections that are still new wait longer for their first
// request. In a drain they do not.
func TestADrainAfterAHandOverDoesNotWaitForConnectionsWithoutRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipes()
		handed, hand := context.WithCancel(t.Context())
		s := &serve.Server{Log: slog.New(slog.DiscardHandler), Handed: handed, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "ok")
		})}
		ctx, drain := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx, ln) }()
		conn := ln.dial()
		defer conn.Close()
		synctest.Wait()
		hand()
		time.Sleep(time.Second)
		drain()
		began := time.Now()
		require.NoError(t, <-done)
		assert.LessOrEqual(t, time.Since(began), 320*time.Millisecond)
	})
}
