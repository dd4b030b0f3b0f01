package serve_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/serve"
)

// asNetHTTP runs check against net/http's server and ours with the same
// handler.
func asNetHTTP(t *testing.T, h http.HandlerFunc, check func(t *testing.T, url string)) {
	t.Helper()
	t.Run("net/http", func(t *testing.T) {
		s := httptest.NewServer(h)
		defer s.Close()
		check(t, s.URL)
	})
	t.Run("ours", func(t *testing.T) { check(t, "http://"+start(t, &serve.Server{Handler: h})) })
}

func TestALongUploadCanBeReadAfterTheResponseHeadIsSent(t *testing.T) {
	t.Parallel() // it waits
	const size = 5 << 20
	upload := bytes.Repeat([]byte("x"), size)
	post := func(t *testing.T, url string) string {
		res, err := http.Post(url, "a/b", bytes.NewReader(upload))
		require.NoError(t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return string(body)
	}
	t.Run("flushed", func(t *testing.T) {
		asNetHTTP(t, func(w http.ResponseWriter, q *http.Request) {
			io.WriteString(w, "receiving ")
			w.(http.Flusher).Flush()
			n, err := io.Copy(io.Discard, q.Body)
			fmt.Fprint(w, n, " ", err)
		}, func(t *testing.T, url string) {
			assert.Equal(t, fmt.Sprint("receiving ", size, " <nil>"), post(t, url))
		})
	})
	t.Run("echoed", func(t *testing.T) {
		asNetHTTP(t, func(w http.ResponseWriter, q *http.Request) { io.Copy(w, q.Body) },
			func(t *testing.T, url string) { assert.Len(t, post(t, url), size) })
	})
}

func TestACopyWithALimitAboveContentLengthSucceeds(t *testing.T) {
	copied := make(chan error, 1)
	copies := func(have int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, err := io.Copy(w, io.LimitReader(strings.NewReader(strings.Repeat("x", have)), 1<<20))
			copied <- err
		}
	}
	read := func(t *testing.T, url string) error {
		if res, err := http.Get(url); err == nil {
			_, _ = io.ReadAll(res.Body)
			res.Body.Close()
		}
		return <-copied
	}
	asNetHTTP(t, copies(1000), func(t *testing.T, url string) { assert.NoError(t, read(t, url)) })
	t.Run("longer", func(t *testing.T) { // net/http sends everything
		assert.ErrorIs(t, read(t, "http://"+start(t, &serve.Server{Handler: copies(2000)})), http.ErrContentLength)
	})
}

func TestContextsDerivedThroughValuesNeedNoGoroutine(t *testing.T) {
	type key struct{}
	grown := make(chan int, 1)
	asNetHTTP(t, func(w http.ResponseWriter, q *http.Request) {
		ctx := context.WithValue(q.Context(), key{}, 1)
		before := runtime.NumGoroutine()
		for range 100 {
			below, cancel := context.WithCancel(ctx)
			defer cancel()
			assert.NoError(t, below.Err())
		}
		grown <- runtime.NumGoroutine() - before
	}, func(t *testing.T, url string) {
		res, err := http.Get(url)
		require.NoError(t, err)
		res.Body.Close()
		assert.Less(t, <-grown, 50)
	})
}

func TestEnableFullDuplexAfterTheRequestDoesNotPanic(t *testing.T) {
	late := make(chan *http.ResponseController, 1)
	asNetHTTP(t, func(w http.ResponseWriter, _ *http.Request) { late <- http.NewResponseController(w) }, func(t *testing.T, url string) {
		res, err := http.Get(url)
		require.NoError(t, err)
		_, _ = io.ReadAll(res.Body)
		res.Body.Close()
		assert.NotPanics(t, func() { _ = (<-late).EnableFullDuplex() })
	})
}

// A lateListener has connections that cannot be peeked at. It signals when a
// Read fails at a deadline.
type lateListener struct {
	net.Listener
	late chan struct{}
}

func (l lateListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return lateConn{c, l.late}, err
}

type lateConn struct {
	net.Conn
	late chan<- struct{}
}

func (c lateConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		select {
		case c.late <- struct{}{}:
		default:
		}
	}
	return n, err
}

func TestAReadDeadlineDoesNotStopDisconnectDetection(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	proxytest.NoLeaks(t)
	waits, ended := make(chan struct{}), make(chan error, 1)
	ln := lateListener{proxytest.Listen(t), make(chan struct{}, 1)}
	startOn(t, &serve.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.SetReadDeadline(time.Unix(1, 0))
		<-ln.late // the lookout has reached its deadline
		_ = rc.SetReadDeadline(time.Time{})
		close(waits)
		<-q.Context().Done()
		ended <- q.Context().Err()
	})}, ln)
	c := proxytest.Dial(t, ln.Addr().String())
	c.Send(get)
	<-waits
	c.Close()
	select {
	case err := <-ended:
		assert.ErrorIs(t, err, context.Canceled)
	case <-time.After(proxytest.Patience):
		t.Error("the context outlives its client")
	}
}
