package hostproxy_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
)

func TestTheNumberOfWaitingRequestsIsLimited(t *testing.T) {
	const most, more = 4096, 100
	answers := tripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("ok"))}, nil
	})
	for name, hold := range map[string]func(t *testing.T, u *hostproxy.Upstream) (release func()){
		"Pause": func(t *testing.T, u *hostproxy.Upstream) func() {
			require.NoError(t, u.Pause(time.Hour))
			return func() { assert.NoError(t, u.Resume()) }
		},
		"first targets": func(_ *testing.T, u *hostproxy.Upstream) func() {
			found := make(chan struct{})
			u.Targets = nil
			u.Discover = func(ctx context.Context, publish func([]hostproxy.Endpoint)) error {
				<-found
				publish([]hostproxy.Endpoint{{Target: "a.test:80"}})
				<-ctx.Done()
				return nil
			}
			return func() { close(found) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := hostproxy.To("a.test:80")
				u.Transport = answers
				release := hold(t, u)
				statuses := make(chan int, most+more)
				for range most + more {
					go func() {
						w := httptest.NewRecorder()
						u.ServeHTTP(w, httptest.NewRequest("GET", "http://a.test/", nil))
						if w.Code == http.StatusServiceUnavailable {
							assert.Equal(t, "1", w.Header().Get("Retry-After"))
						}
						statuses <- w.Code
					}()
				}
				for range more {
					assert.Equal(t, 503, <-statuses)
				}
				release()
				for range most {
					assert.Equal(t, 200, <-statuses)
				}
				require.NoError(t, u.Drain(t.Context()))
			})
		})
	}
}
