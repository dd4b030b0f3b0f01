package e2e_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestTheRouterRemovesTrailersOfAnAuthenticationServer(t *testing.T) {
	t.Parallel()
	script := proxytest.Reply("HTTP/1.1 403 X\r\n" + theirs + "Trailer: X-Powered-By, X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n" +
		chunked("body", 4, "X-Powered-By: them", "X_Powered_By: them", "X-Frame-Options: ALLOW", "X-Sum: 1"))
	overEachLane(t, script, func(t *testing.T, s *site) {
		for _, protocol := range s.protocols() {
			q := newRequest(t, "GET", "/", nil)
			q.URL.Scheme, q.Host = s.scheme(), "asked.test"
			p, _ := do(t, s.client(t, protocol), q)
			correct(t, s, p.Header, "theirs")
			assert.Equal(t, []string{"1"}, p.Trailer["X-Sum"])
			assert.Len(t, p.Trailer, 1, "%v", p.Trailer)
		}
	}, everywhere, func(s *site) {
		s.router.Handle("asked.test", &hostproxy.ForwardAuth{Auth: hostproxy.To(s.backend.Addr()), Next: s.upstream})
	})
}
