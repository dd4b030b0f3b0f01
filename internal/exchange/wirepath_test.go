package exchange_test

import (
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

func TestAURLWithoutAPathIsSentAsASlashOrAnAsterisk(t *testing.T) {
	for _, tt := range []struct{ method, target, want string }{
		{"GET", "http://a.test", "/"},
		{"GET", "http://a.test?x=/y", "/?x=/y"},
		{"GET", "http://a.test?", "/?"},
		{"GET", "http://a.test/", "/"},
		{"GET", "http://a.test/p?u=http://b.test", "/p?u=http://b.test"},
		{"OPTIONS", "http://a.test", "*"},
		{"OPTIONS", "http://a.test?x", "/?x"},
		{"OPTIONS", "http://a.test/", "/"},
	} {
		t.Run(tt.method+" "+tt.target, func(t *testing.T) {
			assert.Equal(t, tt.want, exchange.WireURI(httptest.NewRequest(tt.method, tt.target, nil)))
		})
	}
}

func TestAPathThatAHandlerRemovedIsNotRestored(t *testing.T) {
	for _, target := range []string{"/p?u=http://b.test", "/p", "http://a.test/p"} {
		q := httptest.NewRequest("GET", target, nil)
		q.URL.Path = ""
		assert.Equal(t, "", exchange.WirePath(q), target)
	}
}
