package certs_test

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// stuck returns an issuer whose calls ignore their context until release is
// closed.
func stuck(t *testing.T) (ca *fakeIssuer, release chan struct{}) {
	ca, release = newIssuer(t, "stuck-ca", day(90)), make(chan struct{})
	ca.hook(func(context.Context, string) error { <-release; return nil })
	return ca, release
}

func TestCloseDoesNotWaitForAnIssuerThatIgnoresItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs logBuffer
		ca, release := stuck(t)
		o := with(ca)
		o.Logger = logs.logger(slog.LevelError)
		m, _ := startOnce(t, o, "a.example.com")
		synctest.Wait()
		require.Equal(t, 1, ca.count("a.example.com"))
		begin := time.Now()
		require.NoError(t, m.Close())
		assert.LessOrEqual(t, time.Since(begin), 20*time.Second)
		assert.Contains(t, logs.String(), "issuer=stuck-ca")
		assert.Contains(t, logs.String(), "a.example.com")
		close(release)
		synctest.Wait()
	})
}

func TestCloseDoesNotWaitForAStorageThatIgnoresItsContext(t *testing.T) {
	for _, verb := range []string{"load", "store", "lock"} {
		t.Run(verb, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var logs logBuffer
				release := make(chan struct{})
				storage := newMemStorage()
				storage.hook(func(v, _ string) error {
					if v == verb {
						<-release
					}
					return nil
				})
				o := with(newIssuer(t, "ca", day(90)))
				o.Storage, o.Logger = storage, logs.logger(slog.LevelError)
				m, _ := startOnce(t, o, "a.example.com")
				synctest.Wait()
				begin := time.Now()
				require.NoError(t, m.Close())
				assert.LessOrEqual(t, time.Since(begin), 20*time.Second)
				assert.Contains(t, logs.String(), "storage=*certs_test.memStorage")
				close(release)
				synctest.Wait()
			})
		})
	}
}

// A new use of the Keeper must not wait for the old Manager to end.
func TestAKeeperCanBeUsedWhileItsOldManagerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, release := stuck(t)
		options := keeping(routesOf("a.example.com"), ca)
		var k certs.Keeper
		_, err := k.Listening(port(443), options)
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, 1, ca.count("a.example.com"))
		begin := time.Now()
		closed := make(chan time.Duration, 2)
		for range 2 {
			go func() {
				assert.NoError(t, k.Close())
				closed <- time.Since(begin)
			}()
		}
		synctest.Wait()
		s := k.Share()
		k.Pass(nowhere{}, func() *certs.Passer { return certs.NewPasser(nil, nil, slog.New(slog.DiscardHandler)) })
		_, err = s.Listen(port(8443), nil, options)
		require.NoError(t, err)
		assert.Zero(t, time.Since(begin), "none of these calls waits")
		close(release)
		first, second := <-closed, <-closed
		assert.Equal(t, first, second, "each Close waits for the end")
		require.NoError(t, k.Close())
	})
}

// nowhere is a listener that is never used.
type nowhere struct{ net.Listener }

// A lock may be acquired after the caller has given up.
func TestCloseFreesALockThatIsAcquiredLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs logBuffer
		storage := newMemStorage()
		storage.hook(func(verb, _ string) error {
			if verb == "lock" {
				time.Sleep(time.Second)
			}
			return nil
		})
		o := with(newIssuer(t, "ca", day(90)))
		o.Storage, o.Logger = storage, logs.logger(slog.LevelError)
		m, _ := startOnce(t, o, "a.example.com")
		time.Sleep(500 * time.Millisecond)
		begin := time.Now()
		require.NoError(t, m.Close())
		assert.LessOrEqual(t, time.Since(begin), 2*time.Second)
		assert.Empty(t, storage.locked())
		assert.Empty(t, logs.String())
	})
}
