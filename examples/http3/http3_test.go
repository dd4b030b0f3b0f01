package http3_test

import (
	"net"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestHTTP3IsAnnouncedAndServed(t *testing.T) {
	proxytest.NoLeaks(t)
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hello("a"))
	s.start(t)
	_, _, h := get(t, s.client(t, "h2"), "https://a.test/")
	_, port, _ := net.SplitHostPort(s.own.LocalAddr().String())
	assert.Equal(t, `h3=":`+port+`"; ma=86400`, h.Get("Alt-Svc"))
	status, body, h := get(t, s.client(t, "h3"), "https://a.test/")
	assert.Equal(t, 200, status)
	assert.Equal(t, "a 3", body)
	assert.NotEmpty(t, h.Get("Alt-Svc"))
}
