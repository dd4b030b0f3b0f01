//go:build unix && !portable

package e2e_test

//lint:file-ignore SA1019 http.Transport refuses the pseudo-header :protocol; x/net's sends it

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
)

// An HTTP/2 connection gets a GOAWAY. Its streams go on, including a WebSocket,
// and new requests reach the new process.
func TestStreamsOutliveAHandOver(t *testing.T) {
	overGenerations(t, -1, func(t *testing.T, g *generation, release chan struct{}) {
		if g.client == nil {
			return // HTTP/2 requires TLS here
		}
		transport := &http2.Transport{TLSClientConfig: &tls.Config{RootCAs: g.client.RootCAs, ServerName: "a.test"}}
		defer transport.CloseIdleConnections()
		ask := func(path string) (string, error) {
			q, err := http.NewRequest("GET", "https://"+g.addr+path, nil)
			if err != nil {
				return "", err
			}
			q.Host = "a.test"
			p, err := transport.RoundTrip(q)
			if err != nil {
				return "", err
			}
			defer p.Body.Close()
			text, err := io.ReadAll(p.Body)
			return string(text), err
		}
		body, send := io.Pipe()
		p, err := transport.RoundTrip(&http.Request{Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: g.addr, Path: "/ws"}, Host: "a.test",
			Header: http.Header{":protocol": {"websocket"}, "Sec-Websocket-Version": {"13"}}, Body: body})
		require.NoError(t, err)
		defer p.Body.Close()
		require.Equal(t, 200, p.StatusCode)
		echoes := func() {
			const frame = "\x81\x80\x00\x00\x00\x00"
			_, err := io.WriteString(send, frame)
			require.NoError(t, err)
			got := make([]byte, len(frame))
			_, err = io.ReadFull(p.Body, got)
			require.NoError(t, err)
			assert.Equal(t, frame, string(got))
		}
		echoes()
		slow := make(chan string, 1)
		started := make(chan struct{})
		go func() {
			close(started)
			text, err := ask("/slow")
			assert.NoError(t, err)
			slow <- text
		}()
		<-started
		text, err := ask("/")
		require.NoError(t, err)
		assert.Equal(t, "old", text)

		require.NoError(t, g.HandOver(t.Context(), g.heir(t)))
		text, err = ask("/")
		require.NoError(t, err)
		assert.Contains(t, []string{"old", "new"}, text, "the GOAWAY may be on its way")
		close(release)
		assert.Contains(t, []string{"old", "new"}, <-slow)
		echoes()
		for text != "new" {
			text, err = ask("/")
			require.NoError(t, err)
		}
		echoes()
		assert.Empty(t, g.done)
		send.Close()
		p.Body.Close()
		assert.NoError(t, <-g.done)
	})
}
