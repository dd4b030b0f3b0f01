package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// answering returns a client whose server has sent text and sends no more.
func answering(text string) *client {
	near, far := net.Pipe()
	go io.Copy(io.Discard, far)
	return &client{conn: near, r: bufio.NewReader(strings.NewReader(text))}
}

func TestAClientReadsExactlyOneResponse(t *testing.T) {
	const next = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
	tests := []struct {
		name, text, wantErr string
	}{
		{"with a length", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", ""},
		{"empty", "HTTP/1.1 200 OK\r\nContent-Length:0\r\n\r\n", ""},
		{"in chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", ""},
		{"another status", next, "status 404"},
		{"cut in the body", "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", "EOF"},
		{"cut in a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", "unexpected EOF"},
		{"trailers, which nobody asked for", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n", "after the last chunk"},
		{"framed by the end of the connection", "HTTP/1.1 200 OK\r\n\r\nhello", "neither Content-Length"},
		{"no HTTP", "SSH-2.0-x\r\n", "status line"},
		{"no status", "HTTP/1.1 abc OK\r\n", "status line"},
		{"a length that is no number", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "invalid syntax"},
		{"nothing", "", "EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := answering(tt.text + next)
			if strings.Contains(tt.wantErr, "EOF") {
				c = answering(tt.text)
			}
			defer c.conn.Close()
			err := c.exchange([]byte("GET / HTTP/1.1\r\n\r\n"))
			if tt.wantErr != "" {
				assert.ErrorContains(t, err, tt.wantErr)
				return
			}
			require.NoError(t, err)
			status, _, err := c.readHead()
			require.NoError(t, err)
			assert.Equal(t, 404, status, "the next answer is next")
		})
	}
}

func TestAPaceSpreadsRequestsAndBlamesOnlyTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &load{row: &row{conns: 4}, rate: 400}
		start := time.Now()
		since := func(from time.Time) time.Duration { return from.Sub(start) }

		assert.Equal(t, 5*time.Millisecond, since(newPace(l, 2).due), "connections do not send at the same time")

		p := newPace(l, 0)
		assert.Equal(t, 0*time.Millisecond, since(p.wait()))
		assert.Equal(t, 10*time.Millisecond, since(p.wait()), "an answer in time: the next request waits")

		time.Sleep(35 * time.Millisecond) // the server stalls until 45 ms
		assert.Equal(t, 20*time.Millisecond, since(p.wait()), "a late answer: the next counts from when it was due")
		assert.Equal(t, 30*time.Millisecond, since(p.wait()))
		assert.Equal(t, 40*time.Millisecond, since(p.wait()))
		assert.Equal(t, 50*time.Millisecond, since(p.wait()), "caught up")

		time.Sleep(20 * time.Millisecond)
		p.restart()
		assert.Equal(t, 80*time.Millisecond, since(p.wait()), "a slow answer that was requested delays nothing")
	})
}

func TestAPaceWithoutARateDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(&load{row: &row{conns: 4}}, 3)
		start := time.Now()
		assert.Equal(t, start, p.wait())
		assert.Equal(t, start, p.wait())
	})
}

func TestTheCheckDistinguishesAnswers(t *testing.T) {
	backend := httptest.NewServer(backendHandler())
	defer backend.Close()
	target := backend.Listener.Addr().String()
	pass := (&server{backend: target}).reverseProxy(nil)
	change := func(f func(w http.ResponseWriter, q *http.Request) bool) http.HandlerFunc {
		return func(w http.ResponseWriter, q *http.Request) {
			if f(w, q) {
				pass.ServeHTTP(w, q)
			}
		}
	}
	onPath := func(path string, f http.HandlerFunc) http.HandlerFunc {
		return change(func(w http.ResponseWriter, q *http.Request) bool {
			if q.URL.Path != path {
				return true
			}
			f(w, q)
			return false
		})
	}
	tests := []struct {
		name    string
		proxy   http.Handler
		wantErr string
	}{
		{"a true proxy", pass, ""},
		{"another status", onPath("/small", func(w http.ResponseWriter, q *http.Request) { w.WriteHeader(204) }), "status 204"},
		{"another body", onPath("/small", func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, strings.ToUpper(smallBody)) }), "checksum"},
		{"no length", onPath("/small", func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			io.WriteString(w, smallBody)
			http.NewResponseController(w).Flush()
		}), "45 of -1 bytes"},
		{"a backend that saw no forwarding fields", onPath("/echo", func(w http.ResponseWriter, q *http.Request) {
			io.WriteString(w, "for= proto= host= real= via=\n")
		}), "backend saw"},
		{"a backend that saw the client's own", onPath("/echo", func(w http.ResponseWriter, q *http.Request) {
			q.Header.Set("X-Forwarded-Proto", "http")
			q.Header.Set("X-Forwarded-Host", q.Host)
			serveEcho(w, q)
		}), "for=203.0.113.9"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			proxy := httptest.NewServer(tt.proxy)
			defer proxy.Close()
			l := &load{row: &row{kind: requests, proto: h1Plain, path: "/small"}, addr: proxy.Listener.Addr().String()}
			want, err := direct(t.Context(), l.row, target)
			require.NoError(t, err)
			err = checkAlike(t.Context(), l, want)
			if tt.wantErr == "" {
				assert.NoError(t, err)
			} else {
				assert.ErrorContains(t, err, tt.wantErr)
			}
		})
	}
}

func TestALoadWithoutAnyAnswerIsAnError(t *testing.T) {
	addr, err := freeAddr()
	require.NoError(t, err)
	_, err = runClients(context.Background(), &load{row: &row{kind: requests, proto: h1Plain, path: "/", conns: 2}, addr: addr, duration: time.Millisecond})
	assert.ErrorContains(t, err, "refused")
}
