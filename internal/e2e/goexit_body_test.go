package e2e_test

import (
	"io"
	"net/http"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A quitting is a request body of middleware whose second Read ends its
// goroutine.
type quitting struct {
	io.ReadCloser
	reads int
}

func (b *quitting) Read(p []byte) (int, error) {
	if b.reads++; b.reads > 1 {
		runtime.Goexit()
	}
	return b.ReadCloser.Read(p[:1])
}

func TestABodyThatEndsItsGoroutineFailsItsRequest(t *testing.T) {
	proxytest.NoLeaks(t)
	b := proxytest.NewBackend(t, good)
	u := hostproxy.To(b.Addr())
	u.ResponseHeaderTimeout = -1
	var r hostproxy.Router
	r.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		q.Body = &quitting{ReadCloser: q.Body}
		u.ServeHTTP(w, q)
	}))
	c := proxytest.Dial(t, proxytest.StartPlain(t, &hostproxy.Server{Router: &r}).Plain)
	assert.Equal(t, 500, c.Do(request("PUT /", sized("hello"))).StatusCode)
}
