//go:build !portable

// Not with the build tag portable: then a goroutine reads the socket of each
// kept connection, and the clock of a bubble stands still meanwhile.

package pool_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestConnectionsAgeOut(t *testing.T) {
	ln := proxytest.Listen(t) // no accept is needed
	for _, tt := range []struct {
		name           string
		idle, lifetime time.Duration
		wait           time.Duration
		left           int
	}{
		{"not before the idle timeout", time.Minute, -1, 59 * time.Second, 1},
		{"by twice the idle timeout", time.Minute, -1, 2 * time.Minute, 0},
		{"not before the end of their life", -1, time.Hour, 59 * time.Minute, 1},
		{"at the end of their life", -1, time.Hour, 2 * time.Hour, 0},
		{"never if both are off", -1, -1, 1000 * time.Hour, 1},
		{"by default after a minute or two", 0, 0, 150 * time.Second, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := poolFor(t, ln)
				p.IdleTimeout, p.Lifetime = tt.idle, tt.lifetime
				open(t, p).Put()
				require.Equal(t, 1, p.Idle())
				<-time.After(tt.wait)
				synctest.Wait()
				assert.Equal(t, tt.left, p.Idle())
			})
		})
	}
	t.Run("a connection in use is not kept beyond its life", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := poolFor(t, ln)
			p.Lifetime = time.Hour
			c := open(t, p)
			<-time.After(time.Hour)
			c.Put()
			assert.Zero(t, p.Idle())
		})
	})
	t.Run("one that is used stays while the others go", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := poolFor(t, ln)
			p.IdleTimeout = time.Minute
			a, b := open(t, p), open(t, p)
			a.Put()
			b.Put()
			for range 10 {
				<-time.After(20 * time.Second)
				c := p.Take()
				require.Same(t, b, c)
				c.Put()
			}
			assert.Equal(t, 1, p.Idle())
		})
	})
}
