package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// The features of an Upstream work for many concurrent streams of one
// connection: each gets its own response.
func TestUpstreamFeaturesWorkForManyConcurrentStreams(t *testing.T) {
	t.Parallel()
	echo := func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, q.URL.RawQuery, " ")
		w.Write(body)
	}
	for _, tt := range []struct {
		name string
		set  func(t *testing.T, u *hostproxy.Upstream, other *proxytest.Server)
		also func(t *testing.T, u *hostproxy.Upstream)
	}{
		{"a target that is down", func(t *testing.T, u *hostproxy.Upstream, _ *proxytest.Server) {
			require.NoError(t, u.Add(proxytest.Refused(t)))
		}, nil},
		{"a target that says 503", func(t *testing.T, u *hostproxy.Upstream, _ *proxytest.Server) {
			bad := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				_, _ = io.Copy(io.Discard, q.Body)
				http.Error(w, "no", http.StatusServiceUnavailable)
			}))
			u.Retry = hostproxy.Retry{Statuses: []int{503}, Budget: -1}
			require.NoError(t, u.Add(bad.Addr()))
		}, nil},
		{"hedges", func(t *testing.T, u *hostproxy.Upstream, _ *proxytest.Server) {
			slow := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				body, _ := io.ReadAll(q.Body)
				select {
				case <-q.Context().Done():
				case <-time.After(time.Second / 20):
				}
				fmt.Fprint(w, q.URL.RawQuery, " ", string(body))
			}))
			u.Hedge, u.Retry.Budget = time.Millisecond, -1
			require.NoError(t, u.Add(slow.Addr()))
		}, nil},
		{"mirrors", func(t *testing.T, u *hostproxy.Upstream, other *proxytest.Server) {
			require.NoError(t, u.Mirror(hostproxy.To(other.Addr()), 1))
		}, nil},
		{"a canary", func(t *testing.T, u *hostproxy.Upstream, other *proxytest.Server) {
			require.NoError(t, u.Canary(hostproxy.To(other.Addr()), 1))
		}, nil},
		{"a queue", func(_ *testing.T, u *hostproxy.Upstream, _ *proxytest.Server) {
			u.MaxInFlight, u.Queue = 2, hostproxy.Queue{Max: 1000}
		}, nil},
		{"pauses", func(*testing.T, *hostproxy.Upstream, *proxytest.Server) {}, func(t *testing.T, u *hostproxy.Upstream) {
			for range 5 {
				require.NoError(t, u.Pause(time.Minute))
				noneInFlight(t, u) // requests that were sent end, and the others wait
				require.NoError(t, u.Resume())
			}
		}},
		{"new targets", func(*testing.T, *hostproxy.Upstream, *proxytest.Server) {}, func(t *testing.T, u *hostproxy.Upstream) {
			for range 5 {
				assert.NoError(t, u.Replace(context.Background(), proxytest.NewServer(t, http.HandlerFunc(echo)).Addr()))
			}
		}},
	} {
		for _, odd := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, " ", odd), func(t *testing.T) {
				proxytest.NoLeaks(t)
				target, other := proxytest.NewServer(t, http.HandlerFunc(echo)), proxytest.NewServer(t, http.HandlerFunc(echo))
				u := hostproxy.To(target.Addr())
				if odd {
					u.ModifyResponse = func(*http.Response) error { return nil }
				}
				tt.set(t, u, other)
				client := clientOf(t, "h2", u)
				var done atomic.Bool
				var work sync.WaitGroup
				for g := range 30 {
					work.Go(func() {
						for i := 0; i < 10 || tt.also != nil && !done.Load(); i++ {
							size := (g * 997 * (i + 1)) % 30_000
							method, body := "PUT", strings.Repeat(string(rune('a'+g%26)), size)
							var r io.Reader = strings.NewReader(body)
							switch {
							case i%3 == 0:
								method, body, r = "GET", "", nil
							case i%3 == 1:
								r = io.MultiReader(bytes.NewReader([]byte(body)))
							}
							p, got := do(t, client, newRequest(t, method, fmt.Sprintf("/?%d-%d", g, i), r))
							assert.Equal(t, 200, p.StatusCode)
							if want := fmt.Sprintf("%d-%d %s", g, i, body); got != want {
								t.Errorf("%d of %d bytes: %.30q", len(got), len(want), got)
							}
						}
					})
				}
				if tt.also != nil {
					tt.also(t, u)
				}
				done.Store(true)
				work.Wait()
			})
		}
	}
}
