package caddyfile_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// start serves a file with one site over plain HTTP, and returns its address.
func start(t *testing.T, text string) string {
	servers, err := parse(t, text).Servers()
	require.NoError(t, err)
	require.Len(t, servers, 1)
	ln := proxytest.Listen(t)
	servers[0].Listeners = nil
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- servers[0].Serve(ctx, nil, ln) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	return ln.Addr().String()
}

// raw sends bytes and returns everything received.
func raw(t *testing.T, addr, request string) string {
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, request)
	require.NoError(t, err)
	all, err := io.ReadAll(c)
	require.NoError(t, err)
	return string(all)
}

func TestPlaceholdersCannotSplitMessages(t *testing.T) {
	backend := proxytest.NewBackend(t, proxytest.Reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	addr := start(t, "http://a.example {\n\theader X-Path {path}\n\tredir /redir* /to{path}\n\trequest_header X-Early {query.q}{path}\n\treverse_proxy "+backend.Addr()+
		" {\n\t\theader_up X-Up {path}\n\t\theader_down X-Down {path}\n\t}\n}\n")
	for _, path := range []string{"/redir%0d%0aX-Forged:%201", "/x%0d%0aX-Forged:%201", "/x%0aX-Forged:%201", "/x%00"} {
		answer := raw(t, addr, "GET "+path+"?q=%0d%0aX-Forged:%201 HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
		head, _, _ := strings.Cut(answer, "\r\n\r\n")
		for _, line := range strings.Split(head, "\n") {
			assert.False(t, strings.HasPrefix(line, "X-Forged"), "%s: %s", path, answer)
		}
	}
	require.NotEmpty(t, backend.Requests())
	for _, q := range backend.Requests() {
		assert.Empty(t, q.Header.Get("X-Forged"), "%v", q.Header)
	}
}

func TestChunkedBodiesAreLimitedToo(t *testing.T) {
	backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.Copy(io.Discard, q.Body)
	}))
	addr := start(t, "http://a.example {\n\trequest_body {\n\t\tmax_size 10\n\t}\n\treverse_proxy "+backend.Addr()+"\n}\n")
	answer := raw(t, addr, "POST / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n"+strings.Repeat("x", 64)+"\r\n0\r\n\r\n")
	assert.True(t, strings.HasPrefix(answer, "HTTP/1.1 413 "), answer)
}

func TestWebSocketsPassTheHandlersOfASite(t *testing.T) {
	backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "+proxytest.Accept(q.Header)+"\r\n\r\n"+q.RequestURI+"\n")
		line, _ := rw.ReadString('\n')
		_, _ = io.WriteString(c, line)
	}))
	addr := start(t, "http://a.example {\n\tencode\n\theader -Server\n\theader X-Site yes\n\t@ws header Upgrade websocket\n\thandle_path /app/* {\n\t\treverse_proxy @ws "+backend.Addr()+"\n\t}\n}\n")
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "GET /app/ws HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	require.NoError(t, err)
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	require.Equal(t, 101, res.StatusCode)
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "/ws\n", line)
	_, err = io.WriteString(c, "echo\n")
	require.NoError(t, err)
	line, err = r.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "echo\n", line)
}

func TestTheArticlesFileRunsUnchanged(t *testing.T) {
	c := parse(t, article)
	assert.Contains(t, string(c.Go()), "hostproxy.ListenAndServe(context.Background(), router())")
	servers, err := c.Servers()
	require.NoError(t, err)
	require.Len(t, servers, 1)
	t.Cleanup(func() { servers[0].Router.Close() })
	for host, target := range map[string]string{"blog.southernsky.cloud": "4006", "chat.southernsky.cloud": "3000", "admin.southernsky.cloud": "3840",
		"southernsky.cloud": "4002", "skymaxx.southernsky.cloud": "4000"} {
		q, err := http.NewRequest(http.MethodGet, "https://"+host+"/", nil)
		require.NoError(t, err)
		assert.Equal(t, "localhost:"+target, servers[0].Router.Explain(q).Target)
		assert.Equal(t, "https://"+host+"/x", ask(servers, question{Method: "GET", URL: "http://" + host + "/x"}).Header.Get("Location"))
	}
}

const article = `blog.southernsky.cloud {
    reverse_proxy localhost:4006
}

chat.southernsky.cloud {
    reverse_proxy localhost:3000
}

admin.southernsky.cloud {
    reverse_proxy localhost:3840
}

southernsky.cloud {
    reverse_proxy localhost:4002
}

skymaxx.southernsky.cloud {
    reverse_proxy localhost:4000
}
`
