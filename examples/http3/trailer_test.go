package http3_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A lateTrailer is a request body. At its end, it sets a trailer that the head
// of the request did not announce.
type lateTrailer struct {
	io.Reader
	trailer http.Header
}

func (b *lateTrailer) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		b.trailer.Set("X-Late", "7")
	}
	return n, err
}

func (b *lateTrailer) Close() error { return nil }

// An HTTP/1.1 target gets no such trailer if the request has a Content-Length:
// only a chunked body can carry trailers.
func TestRequestTrailersThatWereNotAnnouncedArrive(t *testing.T) {
	proxytest.NoLeaks(t)
	trailer := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		b, _ := io.ReadAll(q.Body)
		fmt.Fprintf(w, "%s %d %q", b, q.ContentLength, q.Trailer["X-Late"])
	})
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hostproxy.To(proxytest.NewServer(t, trailer).Addr()))
	s.router.Handle("a.test/own", trailer)
	s.start(t)
	c := s.client(t, "h3")
	for _, x := range []struct {
		path   string
		length int64
		want   string
	}{
		{"/", -1, `some -1 ["7"]`},
		{"/own", -1, `some -1 ["7"]`},
		{"/own", 4, `some 4 ["7"]`},
		{"/", 4, `some 4 []`},
	} {
		q, err := http.NewRequest("POST", "https://a.test"+x.path, nil)
		require.NoError(t, err)
		q.Trailer = http.Header{} // empty, so nothing is announced
		q.Body, q.ContentLength = &lateTrailer{strings.NewReader("some"), q.Trailer}, x.length
		assert.Equal(t, x.want, ask(t, c, q).Body, "%s %d", x.path, x.length)
	}
}
