package http3_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	h3 "github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/http3"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// The end of a GET's body may come late, or only after the response.
func TestAGetMayHaveABody(t *testing.T) {
	proxytest.NoLeaks(t)
	backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("X-Length", strconv.FormatInt(q.ContentLength, 10))
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(w, q.Body)
		_, _ = io.WriteString(w, q.Trailer.Get("X-Check"))
	}))
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hostproxy.To(backend.Addr()))
	s.start(t)
	for _, p := range []string{"h2", "h3"} {
		for _, texts := range [][]string{{"one"}, {"one", "two"}, {}} {
			body, send := io.Pipe()
			q, err := http.NewRequest("GET", "https://a.test/", body)
			require.NoError(t, err)
			q.Trailer = http.Header{"X-Check": {"7"}}
			go func() {
				for _, text := range texts {
					_, _ = io.WriteString(send, text)
				}
				if len(texts) > 0 {
					send.Close()
				}
			}()
			res, err := s.client(t, p).Do(q)
			require.NoError(t, err)
			assert.Equal(t, "-1", res.Header.Get("X-Length"), p)
			want := "7"
			for i := len(texts) - 1; i >= 0; i-- {
				want = texts[i] + want
			}
			if len(texts) == 0 { // the body ends after the head of the response
				send.Close()
			}
			got, err := io.ReadAll(res.Body)
			assert.NoError(t, err)
			assert.Equal(t, want, string(got), p)
			res.Body.Close()
		}
	}
}

// A client may send the authority as a Host header too (RFC 9114, 4.3.1).
func TestHostIsNotAmongTheHeaders(t *testing.T) {
	q := &http.Request{Method: "POST", Host: "a.test", ContentLength: 1, Header: http.Header{"Host": {"a.test"}, "X-A": {"1"}}}
	assert.Equal(t, http.Header{"X-A": {"1"}}, http3.AsNetHTTP(q).Header)
}

// A target must not take the part of an upload that arrived for the whole.
func TestAnUploadThatIsCutOffStaysIncomplete(t *testing.T) {
	proxytest.NoLeaks(t)
	began, read := make(chan bool), make(chan error)
	h := http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		_, _ = io.ReadFull(q.Body, make([]byte, 4))
		began <- true
		_, err := io.Copy(io.Discard, q.Body)
		read <- err
	})
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hostproxy.To(proxytest.NewServer(t, h).Addr()))
	s.router.Handle("a.test/own", h)
	s.start(t)
	for _, p := range protocols {
		for _, path := range []string{"/", "/own"} {
			for _, length := range []int64{-1, 100} {
				body, send := io.Pipe()
				q, err := http.NewRequest("POST", "https://a.test"+path, body)
				require.NoError(t, err)
				q.ContentLength = length
				done := make(chan bool)
				go func() {
					if res, err := s.client(t, p).Do(q); err == nil {
						res.Body.Close()
					}
					close(done)
				}()
				_, _ = io.WriteString(send, "some")
				<-began
				send.CloseWithError(errors.New("the disk is gone"))
				assert.Error(t, <-read, "%s %s %d", p, path, length)
				<-done
			}
		}
	}
}

// A request can still be sent while stalled uploads on its connection wait for
// a handler.
func TestUploadsThatStallLeaveRoomForRequests(t *testing.T) {
	proxytest.NoLeaks(t)
	goOn := make(chan bool)
	s := newSite(t, "a.test")
	s.router.Handle("a.test", hello("a"))
	s.router.Handle("a.test/upload", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-goOn }))
	s.start(t)
	conn, err := quic.DialAddr(t.Context(), s.own.LocalAddr().String(), &tls.Config{RootCAs: s.roots, ServerName: "a.test", NextProtos: []string{"h3"}}, nil)
	require.NoError(t, err)
	c := new(h3.Transport).NewClientConn(conn)
	for range 8 {
		str, err := c.OpenRequestStream(t.Context())
		require.NoError(t, err)
		q, err := http.NewRequest("POST", "https://a.test/upload", nil)
		require.NoError(t, err)
		require.NoError(t, str.SendRequestHeader(q))
		require.NoError(t, str.SetWriteDeadline(time.Now().Add(50*time.Millisecond)))
		_, err = str.Write(make([]byte, 1<<20))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "the window is full")
	}
	q, err := http.NewRequest("GET", "https://a.test/", nil)
	require.NoError(t, err)
	assert.Equal(t, 200, ask(t, &http.Client{Transport: c}, q).Status)
	close(goOn)
	require.NoError(t, conn.CloseWithError(0, ""))
}
