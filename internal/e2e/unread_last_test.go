package e2e_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// What a target does not take may be the last piece of the body, which the
// client for HTTP/2 has read together with the end.
func TestATargetOverHTTP2ThatDoesNotTakeTheLastPieceIsGivenUp(t *testing.T) {
	t.Parallel()           // most of the time is spent waiting
	const window = 1 << 20 // of net/http's server
	backend := proxytest.NewH2CServer(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() }))
	for name, body := range map[string]string{
		"of known length":   sized(strings.Repeat("x", window+1000)),
		"of unknown length": pieces(strings.Repeat("x", window+1000), 1<<14),
	} {
		t.Run(name, func(t *testing.T) {
			overLanesTo(t, backend, func(t *testing.T, s *site) {
				c := s.dial(t)
				go func() { _ = c.Conn.Send(request("PUT /", body)) }()
				assert.Equal(t, 504, s.record(t, 1).Status)
			}, impatientWithUploads)
		})
	}
}

// Once it has the whole request, a target may take longer than IdleTimeout to
// respond.
func TestATargetThatHasTheWholeRequestIsNotGivenUpAfterTheIdleTimeout(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	counts := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		n, err := io.Copy(io.Discard, q.Body)
		dawdle(12 * moment)
		fmt.Fprint(w, n, err)
	})
	buffered := func(u *hostproxy.Upstream) { u.BufferRequests = 1 << 20 }
	plain := func(*hostproxy.Upstream) {}
	for name, tt := range map[string]struct {
		body, want string
		change     func(*hostproxy.Upstream)
	}{
		"a body":                          {sized(strings.Repeat("x", 100<<10)), "102400 <nil>", plain},
		"a body in chunks":                {pieces(strings.Repeat("x", 100<<10), 1<<14), "102400 <nil>", plain},
		"an empty body that was buffered": {pieces("", 1), "0 <nil>", buffered},
		"a body that was buffered":        {pieces("hello", 1), "5 <nil>", buffered},
		"a body that Rewrite replaces": {sized("hello"), "3 <nil>", func(u *hostproxy.Upstream) {
			u.Rewrite = func(p *httputil.ProxyRequest) {
				p.Out.Body, p.Out.ContentLength = io.NopCloser(strings.NewReader("bye")), 3
			}
		}},
		"a Transport that does not read the end": {sized("hello"), "hello", func(u *hostproxy.Upstream) {
			u.Transport = tripper(readsNoEnd)
		}},
		"a Transport that does not read the end of a kept body": {sized("hello"), "hello", func(u *hostproxy.Upstream) {
			u.BufferRequests, u.Transport = 1<<20, tripper(readsNoEnd)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			overLanesTo(t, proxytest.NewH2CServer(t, counts), func(t *testing.T, s *site) {
				assert.Equal(t, tt.want, string(s.dial(t).Do(request("PUT /", tt.body)).Content))
			}, impatientWithUploads, func(s *site) { tt.change(s.upstream) })
		})
	}
}

// pieces is a body in chunks, with the end of the head before it.
func pieces(body string, n int) string {
	return "Transfer-Encoding: chunked\r\n\r\n" + chunked(body, n)
}

// A target that has not asked for the body has none to take. The client for
// HTTP/2 sends it after a second.
func TestATargetIsNotGivenUpBeforeABodyThatItMustAskForIsSent(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	backend := proxytest.NewH2CServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		dawdle(12 * moment)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	overLanesTo(t, backend, func(t *testing.T, s *site) {
		assert.Equal(t, 401, s.dial(t).Do(request("PUT /", "Expect: 100-continue\r\n"+sized("hello"))).StatusCode)
	}, impatientWithUploads)
}

// readsNoEnd is a Transport that reads the body's length, and not its end.
func readsNoEnd(q *http.Request) (*http.Response, error) {
	p := make([]byte, q.ContentLength)
	if _, err := io.ReadFull(q.Body, p); err != nil {
		return nil, err
	}
	q.Body.Close()
	dawdle(12 * moment)
	return &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, ContentLength: int64(len(p)), Body: io.NopCloser(bytes.NewReader(p))}, q.Context().Err()
}
