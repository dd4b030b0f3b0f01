package e2e_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
)

// The proxy sets the deadline of a request to the authentication server: when
// it passes, that server is to blame, and no handler of the program.
func TestAnAuthenticationServerThatDoesNotAnswerIsToBlame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := &hostproxy.Upstream{Targets: hostproxy.To("http://auth.test").Targets, Transport: tripper(func(q *http.Request) (*http.Response, error) {
			<-q.Context().Done()
			return nil, q.Context().Err()
		})}
		var records []hostproxy.Exchange
		r := &hostproxy.Router{Logger: silent(), Observe: func(x *hostproxy.Exchange) { records = append(records, *x) }}
		r.Handle("a.test", &hostproxy.ForwardAuth{Auth: auth, Next: http.NotFoundHandler()})
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("GET", "http://a.test/", nil))
		assert.Equal(t, 504, w.Code)
		require.Len(t, records, 1)
		var e *hostproxy.Error
		require.ErrorAs(t, records[0].Err, &e)
		assert.Equal(t, hostproxy.SideUpstream, e.Side)
		assert.ErrorContains(t, e, "the authentication server has not answered within 30s")
		r.Remove("a.test")
	})
}
