package e2e_test

import (
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A tardy transport delivers an interim response after it has returned the
// final one, as net/http's may do on its own goroutine.
type tardy struct{ told chan error }

func (r tardy) RoundTrip(q *http.Request) (*http.Response, error) {
	trace := httptrace.ContextClientTrace(q.Context())
	late := readerFunc(func([]byte) (int, error) {
		r.told <- trace.Got1xxResponse(http.StatusEarlyHints, textproto.MIMEHeader{"Link": {"late"}})
		return 0, io.EOF
	})
	return &http.Response{StatusCode: 200, Header: http.Header{"X-A": {"1"}}, ContentLength: -1, Request: q,
		Body: io.NopCloser(io.MultiReader(strings.NewReader("ok"), late))}, nil
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestAnInterimResponseBehindTheEndOfItsAttemptIsDropped(t *testing.T) {
	told := make(chan error, 1)
	overEachLane(t, nil, func(t *testing.T, s *site) {
		p := s.dial(t).Do(get)
		assert.Equal(t, "ok", string(p.Content))
		assert.Error(t, <-told)
	}, func(s *site) { s.upstream.Transport = tardy{told} })
}

// A fragile writer panics at an interim response. It can be flushed, so it gets
// them.
type fragile struct{ http.ResponseWriter }

func (w fragile) WriteHeader(status int) {
	if status < 200 {
		panic("fragile")
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w fragile) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestAWriterThatPanicsAtAnInterimResponseFailsOnlyItsRequest(t *testing.T) {
	target := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusEarlyHints) }))
	u := hostproxy.To(target.Addr())
	transport := new(http.Transport)
	t.Cleanup(transport.CloseIdleConnections)
	u.Transport = transport
	r := &hostproxy.Router{Logger: silent()}
	r.Handle("a.test", u)
	mw := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { r.ServeHTTP(fragile{w}, q) })
	c := proxytest.Dial(t, proxytest.StartPlain(t, &hostproxy.Server{Router: r, Handler: mw}).Plain)
	assert.Equal(t, 500, c.Do(get).StatusCode)
}
