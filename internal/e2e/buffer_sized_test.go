package e2e_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestTrailersBehindALengthAreNotReadWhileTheyComeIntoABuffer(t *testing.T) {
	proxytest.NoLeaks(t)
	data := strings.Repeat("x", 100)
	_, u := newUpstream(t, "h2c", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte(data))
		w.Header().Set(http.TrailerPrefix+"X-Sum", "1")
	}))
	u.BufferResponses = 1 << 20
	client := clientOf(t, "h2", u)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 50 {
				p, got := do(t, client, newRequest(t, "GET", "/", nil))
				assert.Equal(t, data, got)
				assert.Equal(t, "1", p.Trailer.Get("X-Sum"))
			}
		})
	}
	all.Wait()
}
