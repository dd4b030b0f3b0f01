package e2e_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// overEachProtocol runs check for each pair of a client's protocol and a kind
// of upstream. All backends run h.
func overEachProtocol(t *testing.T, h http.HandlerFunc, check func(t *testing.T, client *http.Client, backend *proxytest.Server)) {
	t.Helper()
	for _, front := range []string{"h1", "h2"} {
		for _, back := range []string{"http", "h2c", "https", "unix"} {
			t.Run(front+" to "+back, func(t *testing.T) {
				proxytest.NoLeaks(t)
				backend, upstream := newUpstream(t, back, h)
				check(t, clientOf(t, front, upstream), backend)
			})
		}
	}
}

// newUpstream starts a backend, and an Upstream for it. kind is the scheme of
// the target.
func newUpstream(t *testing.T, kind string, h http.Handler) (*proxytest.Server, *hostproxy.Upstream) {
	t.Helper()
	switch kind {
	case "h2c":
		s := proxytest.NewH2CServer(t, h)
		return s, hostproxy.To("h2c://" + s.Addr())
	case "https":
		s, roots := proxytest.NewTLSServer(t, h)
		u := hostproxy.To("https://" + s.Addr())
		u.TLS = clientTLS(roots)
		return s, u
	case "unix":
		path := filepath.Join(t.TempDir(), "socket")
		s := proxytest.NewUnixServer(t, path, h)
		return s, hostproxy.To("unix:" + path)
	}
	s := proxytest.NewServer(t, h)
	return s, hostproxy.To(s.Addr())
}

// clientOf returns a client that speaks the protocol, over TLS, to a Server
// with the route a.test.
func clientOf(t *testing.T, protocol string, h http.Handler) *http.Client {
	t.Helper()
	r := hostproxy.Router{Logger: silent()}
	r.Handle("a.test", h)
	config, roots := proxytest.TLS(t, "a.test")
	r.TLS.Config = config
	server := proxytest.Start(t, &hostproxy.Server{Router: &r})
	return proxytest.HTTPClient(t, server.HTTPS, roots, protocol)
}

// do sends q and returns the response with its body read.
func do(t *testing.T, client *http.Client, q *http.Request) (*http.Response, string) {
	t.Helper()
	p, err := client.Do(q)
	require.NoError(t, err)
	defer p.Body.Close()
	body, err := io.ReadAll(p.Body)
	require.NoError(t, err)
	return p, string(body)
}

func newRequest(t *testing.T, method, target string, body io.Reader) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), proxytest.Patience)
	t.Cleanup(cancel)
	q, err := http.NewRequestWithContext(ctx, method, "https://a.test"+target, body)
	require.NoError(t, err)
	return q
}

func TestTrailersCrossEveryProtocol(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	h := func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Trailer", "X-Announced")
		body, _ := io.ReadAll(q.Body)
		_, _ = w.Write(body)
		w.Header().Set("X-Announced", "got "+q.Trailer.Get("X-Sent"))
		w.Header().Set(http.TrailerPrefix+"X-Unannounced", "2")
	}
	overEachProtocol(t, h, func(t *testing.T, client *http.Client, _ *proxytest.Server) {
		for _, body := range []string{"text", ""} {
			q := newRequest(t, "POST", "/", io.MultiReader(strings.NewReader(body)))
			q.Trailer = http.Header{"X-Sent": {"1"}}
			p, got := do(t, client, q)
			assert.Equal(t, body, got)
			assert.Equal(t, "got 1", p.Trailer.Get("X-Announced"))
			assert.Equal(t, "2", p.Trailer.Get("X-Unannounced"))
		}
	})
}

// In HTTP/2, a body with a Content-Length may have trailers, announced or not.
func TestTrailersBehindAContentLengthCrossHTTP2(t *testing.T) {
	sent := make(chan http.Header, 1)
	var target hostproxy.Router // net/http's server drops trailers that were not announced
	target.Handle("*", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.Copy(io.Discard, q.Body)
		sent <- q.Trailer
		w.Header().Set("Content-Length", "4")
		w.Header()["Trailer"] = q.Header["X-Announce"]
		_, _ = io.WriteString(w, "text")
		w.Header().Set(http.TrailerPrefix+"X-Sum", "2")
	}))
	backend := proxytest.StartPlain(t, &hostproxy.Server{Router: &target, H2C: true})
	to := hostproxy.To("h2c://" + backend.Plain)
	client := clientOf(t, "h2", to)
	for _, announced := range []string{"", "X-Sum"} {
		q := newRequest(t, "POST", "/", strings.NewReader("text"))
		q.Trailer = http.Header{"X-Sent": {"1"}}
		q.ContentLength = 4
		if announced != "" {
			q.Header.Set("X-Announce", announced)
		}
		p, got := do(t, client, q)
		assert.Equal(t, "text", got)
		assert.EqualValues(t, 4, p.ContentLength)
		assert.Equal(t, "2", p.Trailer.Get("X-Sum"))
		assert.Equal(t, "1", (<-sent).Get("X-Sent"))
	}
	p := newH2(t, newFast(t, shape{secure: true, change: func(u *hostproxy.Upstream) { u.Targets = to.Targets }}))
	require.NoError(t, p.ask(1, false, ":method", "POST", ":scheme", "https", ":authority", "a.test", ":path", "/", "content-length", "4"))
	require.NoError(t, p.WriteData(1, false, []byte("text")))
	require.NoError(t, p.ask(1, true, "x-sent", "1"))
	assert.Equal(t, "1", (<-sent).Get("X-Sent"), "not announced")
}

// An HTTP/2 target may answer before the client has sent its body. The client
// gets the end of the response, which it may wait for before it stops its
// upload.
func TestAnEarlyAnswerOfHTTP2EndsWhileTheUploadPauses(t *testing.T) {
	t.Parallel() // it waits if it fails
	target := proxytest.NewH2CServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "early")
		if q.URL.Path == "/unsized" {
			_ = http.NewResponseController(w).Flush()
		}
	}))
	for name, u := range map[string]*hostproxy.Upstream{"as it comes": {}, "buffered": {BufferResponses: 1 << 10}} {
		u.Targets = hostproxy.To("h2c://" + target.Addr()).Targets
		client := clientOf(t, "h2", u)
		for range 50 { // the response may be read before the target stops the upload, or after
			for _, path := range []string{"/sized", "/unsized"} {
				read, write := io.Pipe()
				q := newRequest(t, "POST", path, read)
				q.Header.Set("Content-Type", "application/grpc") // its body may pause
				_, body := do(t, client, q)
				assert.Equal(t, "early", body, name+path)
				write.Close()
			}
		}
	}
}

func TestLargeBodiesCrossEveryProtocol(t *testing.T) {
	t.Parallel()
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	h := func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err == nil && bytes.Equal(body, big) {
			_, _ = w.Write(body)
		}
	}
	overEachProtocol(t, h, func(t *testing.T, client *http.Client, backend *proxytest.Server) {
		for _, body := range []io.Reader{bytes.NewReader(big), io.MultiReader(bytes.NewReader(big))} {
			_, got := do(t, client, newRequest(t, "POST", "/a%2Fb?c", body))
			assert.True(t, got == string(big))
		}
		assert.Equal(t, "/a%2Fb?c", backend.Last(t).Target)
	})
}

// TestH2ToH2CStream of Caddy: both sides send at the same time.
func TestBothSidesSendAtTheSameTimeOverHTTP2(t *testing.T) {
	h := func(w http.ResponseWriter, q *http.Request) {
		_ = http.NewResponseController(w).Flush()
		buf := make([]byte, 100)
		for {
			n, err := q.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			_ = http.NewResponseController(w).Flush()
			if err != nil {
				return
			}
		}
	}
	for _, back := range []string{"http", "h2c", "https"} {
		t.Run("to "+back, func(t *testing.T) {
			proxytest.NoLeaks(t)
			backend, upstream := newUpstream(t, back, fullDuplex(h))
			client := clientOf(t, "h2", upstream)
			read, write := io.Pipe()
			p, err := client.Do(newRequest(t, "POST", "/", read))
			require.NoError(t, err)
			defer p.Body.Close()
			for _, word := range []string{"one", "two", "three"} {
				_, err := io.WriteString(write, word)
				require.NoError(t, err)
				got := make([]byte, len(word))
				_, err = io.ReadFull(p.Body, got)
				require.NoError(t, err)
				assert.Equal(t, word, string(got))
			}
			require.NoError(t, write.Close())
			rest, err := io.ReadAll(p.Body)
			require.NoError(t, err)
			assert.Empty(t, rest)
			assert.Equal(t, "onetwothree", backend.Last(t).Content)
		})
	}
}

// fullDuplex lets an HTTP/1.1 handler continue to read after its first write.
func fullDuplex(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		h(w, q)
	}
}

func TestAnUpstreamThatDiesInMidBodyResetsTheStream(t *testing.T) {
	h := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "part")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	overEachProtocol(t, h, func(t *testing.T, client *http.Client, _ *proxytest.Server) {
		p, err := client.Do(newRequest(t, "GET", "/", nil))
		if err != nil {
			return // cut before the head was sent, which is fine too
		}
		defer p.Body.Close()
		body, err := io.ReadAll(p.Body)
		require.Error(t, err, "the body does not look complete")
		assert.Contains(t, []string{"", "part"}, string(body))
	})
}

func TestADrainLetsAnHTTP2StreamEnd(t *testing.T) {
	proxytest.NoLeaks(t)
	started, release := make(chan struct{}), make(chan struct{})
	backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(started)
		<-release
		_, _ = io.WriteString(w, "whole")
	}))
	var r hostproxy.Router
	config, roots := proxytest.TLS(t, "a.test")
	r.TLS.Config = config
	r.Handle("a.test", hostproxy.To(backend.Addr()))
	s := proxytest.Start(t, &hostproxy.Server{Router: &r})
	client := proxytest.HTTPClient(t, s.HTTPS, roots, "h2")
	go func() {
		<-started
		s.Drain()
		close(release)
	}()
	p, err := client.Get("https://a.test/")
	require.NoError(t, err)
	defer p.Body.Close()
	body, err := io.ReadAll(p.Body)
	require.NoError(t, err)
	assert.Equal(t, "whole", string(body))
	require.NoError(t, s.Stop())
}

func TestAClientThatLeavesEndsTheUpstreamsRequest(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	started, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	h := func(_ http.ResponseWriter, q *http.Request) {
		started <- struct{}{}
		<-q.Context().Done()
		ended <- struct{}{}
	}
	overEachProtocol(t, h, func(t *testing.T, client *http.Client, _ *proxytest.Server) {
		q := newRequest(t, "GET", "/", nil)
		ctx, cancel := context.WithCancel(q.Context())
		go func() {
			<-started
			cancel()
		}()
		_, err := client.Do(q.WithContext(ctx))
		require.ErrorIs(t, err, context.Canceled)
		<-ended
	})
}

func TestConnectOverHTTP2IsRefused(t *testing.T) {
	overEachProtocol(t, func(http.ResponseWriter, *http.Request) {}, func(t *testing.T, client *http.Client, backend *proxytest.Server) {
		q := newRequest(t, "CONNECT", "", nil)
		q.URL = &url.URL{Scheme: "https", Host: "a.test"}
		p, err := client.Do(q)
		require.NoError(t, err)
		require.NoError(t, p.Body.Close())
		assert.Contains(t, []int{405, 501}, p.StatusCode)
		assert.Empty(t, backend.Seen())
	})
}

func TestServerSentEventsCrossEveryProtocol(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	h := func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range 3 {
			_, _ = io.WriteString(w, "data: x\n\n")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-next:
			case <-q.Context().Done():
			}
		}
	}
	overEachProtocol(t, h, func(t *testing.T, client *http.Client, _ *proxytest.Server) {
		p, err := client.Do(newRequest(t, "GET", "/", nil))
		require.NoError(t, err)
		defer p.Body.Close()
		for range 3 {
			event := make([]byte, len("data: x\n\n"))
			_, err := io.ReadFull(p.Body, event)
			require.NoError(t, err)
			next <- struct{}{}
		}
	})
}
