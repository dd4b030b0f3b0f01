package e2e_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestPickIsNotAskedWhenNoTargetIsLeft(t *testing.T) {
	closed := func() string {
		ln := proxytest.Listen(t)
		defer ln.Close()
		return ln.Addr().String()
	}
	u := hostproxy.To(closed(), closed())
	u.Retry.Attempts = 5
	u.Pick = func(_ *http.Request, left []*hostproxy.Target) *hostproxy.Target { return left[0] }
	r := &hostproxy.Router{Logger: silent()}
	r.Handle("a.test", u)
	c := proxytest.Dial(t, proxytest.StartPlain(t, &hostproxy.Server{Router: r}).Plain)
	assert.Equal(t, 502, c.Do(get).StatusCode)
}
