package main

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

func TestTheProgramServesMetrics(t *testing.T) {
	addr, metrics := proxytest.Free(t), proxytest.Free(t)
	s, err := server(addr, metrics, []string{"app.localhost=" + proxytest.NewServer(t, nil).Addr()})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, nil, nil) }()
	get := func(addr, url string) string {
		c, text := proxytest.HTTPClient(t, addr, nil, "h1"), ""
		proxytest.Eventually(t, url+" is served", func() bool {
			p, err := c.Get(url)
			if err != nil {
				return false
			}
			defer p.Body.Close()
			b, err := io.ReadAll(p.Body)
			text = string(b)
			return err == nil && p.StatusCode == 200
		})
		return text
	}
	get(addr, "http://app.localhost/")
	var all string
	// the client may have the response before that
	proxytest.Eventually(t, "the request is counted", func() bool {
		all = get(metrics, "http://localhost/metrics")
		return strings.Contains(all, `hostproxy_requests_total{code="2xx",pattern="app.localhost"`)
	})
	assert.Contains(t, all, "go_goroutines")
	cancel()
	require.NoError(t, <-done)
}

func TestABadArgumentIsAnError(t *testing.T) {
	for _, arg := range []string{"app.localhost", "=", "app.localhost=", "app.localhost=http://", "*x=localhost:1"} {
		_, err := server("", "", []string{arg})
		assert.Error(t, err, arg)
	}
	_, err := server("", "", []string{"app.localhost"})
	assert.ErrorContains(t, err, `argument "app.localhost": want host=target`)
	_, err = server("", "", nil)
	assert.ErrorContains(t, err, "no routes: want one or more arguments")
}
