package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

func named(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { _, _ = io.WriteString(w, name+" "+q.RequestURI) })
}

func TestOneHostAndOnePathGoToServicesAndTheRestStays(t *testing.T) {
	api, docs := proxytest.NewServer(t, named("api")), proxytest.NewServer(t, named("docs"))
	h, err := handler(pages(), api.Addr(), docs.Addr())
	require.NoError(t, err)
	front := httptest.NewServer(h)
	t.Cleanup(front.Close)
	client := proxytest.HTTPClient(t, front.Listener.Addr().String(), nil, "h1")

	tests := []struct{ url, want string }{
		{"http://localhost/", "the program's own page\n"},
		{"http://localhost/docs/a//b", "docs /docs/a//b"},
		{"http://api.localhost/v1?a=b", "api /v1?a=b"},
		{"http://localhost/nowhere", "404 page not found\n"},
	}
	for _, tt := range tests {
		t.Run(tt.url, func(t *testing.T) {
			p, err := client.Get(tt.url)
			require.NoError(t, err)
			defer p.Body.Close()
			body, err := io.ReadAll(p.Body)
			require.NoError(t, err)
			assert.Equal(t, tt.want, string(body))
		})
	}
}

func TestAnInvalidTargetIsAnError(t *testing.T) {
	_, err := handler(pages(), "nowhere", "localhost:1")
	assert.ErrorContains(t, err, `target "nowhere": the port is missing`)
}
