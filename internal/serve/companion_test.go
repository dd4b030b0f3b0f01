package serve_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/serve"
)

// A busy companion has requests in flight until it is closed.
type busy struct{ closed chan struct{} }

func (b busy) Serve(context.Context, http.Handler) error {
	<-b.closed
	return nil
}

func (b busy) Close() error {
	close(b.closed)
	return nil
}

func TestACompanionKeepsTheHandOverTimeoutUntilAShutdown(t *testing.T) {
	const drain = 2 * time.Second
	for name, tt := range map[string]struct {
		hand, handed, shut time.Duration // zero handed or shut means never
		want               time.Duration
	}{
		"a shutdown":                             {hand: time.Hour, shut: time.Second, want: time.Second + drain},
		"a hand-over":                            {hand: time.Hour, handed: time.Second, want: time.Second + time.Hour},
		"a short hand-over":                      {hand: time.Second, handed: time.Second, want: 2 * time.Second},
		"a shutdown after a hand-over":           {hand: time.Hour, handed: time.Second, shut: time.Minute, want: time.Minute + drain},
		"a shutdown after one without a limit":   {handed: time.Second, shut: time.Minute, want: time.Minute + drain},
		"a hand-over that ends before the other": {hand: time.Second, handed: time.Second, shut: time.Minute, want: 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				handed, pass := context.WithCancel(t.Context())
				all := serve.Companions{Budget: new(serve.Budget), Bounds: serve.Bounds{DrainTimeout: drain, HandOverTimeout: tt.hand}}
				open, _, err := all.Open([]serve.Beside{busy{make(chan struct{})}})
				require.NoError(t, err)
				began := time.Now()
				if tt.shut > 0 {
					time.AfterFunc(tt.shut, stop)
				}
				if tt.handed > 0 {
					time.AfterFunc(tt.handed, pass)
				}
				assert.ErrorIs(t, open[0].Serve(ctx, handed), serve.ErrDrainTimeout)
				assert.Equal(t, tt.want, time.Since(began))
				stop()
				pass()
			})
		})
	}
}
