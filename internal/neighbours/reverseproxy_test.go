package neighbours_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// newReverseProxy returns a ReverseProxy to the backend at addr, with a
// transport of its own.
func newReverseProxy(t testing.TB, addr string) *httputil.ReverseProxy {
	t.Helper()
	transport := &http.Transport{DisableCompression: true, ExpectContinueTimeout: proxytest.Patience}
	t.Cleanup(transport.CloseIdleConnections)
	target := &url.URL{Scheme: "http", Host: addr}
	return &httputil.ReverseProxy{
		Rewrite: func(q *httputil.ProxyRequest) {
			q.SetURL(target)
			q.SetXForwarded()
		},
		Transport: transport,
		ErrorLog:  log.New(io.Discard, "", 0),
	}
}

func TestReverseProxyStreamsWhatTheBackendFlushes(t *testing.T) {
	tests := []struct {
		about  string
		fields map[string]string
		change func(*httputil.ReverseProxy)
	}{
		{"with FlushInterval -1", map[string]string{"Content-Length": "6"}, func(p *httputil.ReverseProxy) { p.FlushInterval = -1 }},
		{"with a FlushInterval of a millisecond", map[string]string{"Content-Length": "6"}, func(p *httputil.ReverseProxy) { p.FlushInterval = 1e6 }},
		{"of unknown length", nil, func(*httputil.ReverseProxy) {}},
		{"that are server-sent events", map[string]string{"Content-Type": "text/event-stream"}, func(*httputil.ReverseProxy) {}},
	}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			everywhere(t, func(t *testing.T, p place) {
				next := make(chan struct{})
				backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					for name, value := range tt.fields {
						w.Header().Set(name, value)
					}
					_, _ = io.WriteString(w, "one")
					w.(http.Flusher).Flush()
					hold(q, next)
					_, _ = io.WriteString(w, "two")
				}))
				proxy := newReverseProxy(t, backend.Addr())
				tt.change(proxy)
				resp := p.serve(t, proxy).begin("GET", "/", nil)
				assert.Equal(t, "one", readString(t, resp.Body, 3))
				close(next)
				rest, err := io.ReadAll(resp.Body)
				assert.NoError(t, err)
				assert.Equal(t, "two", string(rest))
			})
		})
	}
}

func TestReverseProxyForwardsTrailers(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/announced" {
				w.Header().Set("Trailer", "X-Sum, X-Count")
			}
			_, _ = io.WriteString(w, "body")
			w.(http.Flusher).Flush()
			if q.URL.Path == "/announced" {
				w.Header().Set("X-Sum", "1")
				w.Header().Set("X-Count", "2")
			}
			if q.URL.Path == "/unannounced" {
				w.Header().Set(http.TrailerPrefix+"X-Late", "3")
			}
		}))
		s := p.serve(t, newReverseProxy(t, backend.Addr()))

		resp := s.begin("GET", "/announced", nil)
		assert.Equal(t, http.Header{"X-Sum": nil, "X-Count": nil}, resp.Trailer, "before the end of the body")
		_, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, http.Header{"X-Sum": {"1"}, "X-Count": {"2"}}, resp.Trailer)

		assert.Equal(t, http.Header{"X-Late": {"3"}}, s.get("/unannounced").Trailer)
		assert.Empty(t, s.get("/").Trailer)
	})
}

func TestReverseProxyForwardsInterimResponses(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Set("Link", "</b.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			w.WriteHeader(http.StatusTeapot)
		}))
		s := p.serve(t, newReverseProxy(t, backend.Addr()))
		var hints []string
		q := s.request("GET", "/", nil)
		q = q.WithContext(httptrace.WithClientTrace(q.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
				hints = append(hints, fmt.Sprint(code, " ", header.Get("Link")))
				return nil
			},
		}))
		resp, err := s.client.Do(q)
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, []string{"103 </a.css>; rel=preload", "103 </b.css>; rel=preload"}, hints)
		assert.Equal(t, http.StatusTeapot, resp.StatusCode)
		assert.Empty(t, resp.Header["Link"])
	})
}

func TestReverseProxyCutsOffATruncatedResponse(t *testing.T) {
	for about, raw := range map[string]string{
		"of known length": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
		"in chunks":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
	} {
		t.Run(about, func(t *testing.T) {
			everywhere(t, func(t *testing.T, p place) {
				backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
					if _, err := c.ReadRequest(); err == nil {
						_ = c.Send(raw)
					}
				})
				proxy := newReverseProxy(t, backend.Addr())
				proxy.FlushInterval = -1
				s := p.serve(t, proxy)
				assert.Equal(t, "short", s.fails("/"))
				assert.NotContains(t, s.log.String(), "panic serving", "http.ErrAbortHandler is not logged")
			})
		})
	}
}

func TestReverseProxyCancelsTheRequestOfAClientThatDisconnects(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		t.Run(method, func(t *testing.T) {
			everywhere(t, func(t *testing.T, p place) {
				arrived, left := make(chan struct{}), make(chan struct{})
				backend := proxytest.NewServer(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
					_, _ = io.ReadAll(q.Body)
					close(arrived)
					<-q.Context().Done()
					close(left)
				}))
				s := p.serve(t, newReverseProxy(t, backend.Addr()))
				ctx, leave := context.WithCancel(t.Context())
				done := make(chan error, 1)
				q := s.request(method, "/", strings.NewReader("body")).WithContext(ctx)
				go func() {
					_, err := s.client.Do(q)
					done <- err
				}()
				await(t, "the request at the backend", arrived)
				leave()
				await(t, "the end of the request at the backend", left)
				assert.ErrorIs(t, await(t, "the client", done), context.Canceled)
			})
		})
	}
}

func TestReverseProxyCarriesLargeBodiesBothWays(t *testing.T) {
	big := pattern(1<<20 + 17)
	sum := fmt.Sprintf("%x", sha256.Sum256(big))
	everywhere(t, func(t *testing.T, p place) {
		backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			got, err := io.ReadAll(q.Body)
			w.Header().Set("X-Length", fmt.Sprint(q.ContentLength))
			w.Header().Set("X-Sum", fmt.Sprintf("%x", sha256.Sum256(got)))
			if err == nil && q.URL.Path == "/sized" {
				w.Header().Set("Content-Length", fmt.Sprint(len(got)))
			}
			_, _ = w.Write(got)
		}))
		s := p.serve(t, newReverseProxy(t, backend.Addr()))

		sized := s.do("POST", "/sized", bytes.NewReader(big))
		assert.Equal(t, fmt.Sprint(len(big)), sized.Header.Get("X-Length"))
		assert.Equal(t, sum, sized.Header.Get("X-Sum"))
		assert.EqualValues(t, len(big), sized.ContentLength)
		assert.True(t, string(big) == sized.body)

		chunked := s.do("POST", "/chunked", io.NopCloser(bytes.NewReader(big)))
		assert.Equal(t, "-1", chunked.Header.Get("X-Length"))
		assert.Equal(t, sum, chunked.Header.Get("X-Sum"))
		assert.EqualValues(t, -1, chunked.ContentLength)
		assert.True(t, string(big) == chunked.body)
	})
}

func TestReverseProxyLetsTheBackendDecideAboutExpect(t *testing.T) {
	const head = "POST %s HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
	overHTTP1(t, func(t *testing.T, p place) {
		backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/no" {
				http.Error(w, "no", http.StatusUnauthorized)
				return
			}
			body, _ := io.ReadAll(q.Body)
			_, _ = w.Write(body)
		}))
		s := p.serve(t, newReverseProxy(t, backend.Addr()))

		c := s.dial()
		c.Send(fmt.Sprintf(head, "/yes"))
		require.Equal(t, 100, c.Response("POST").StatusCode)
		c.Send("hello")
		resp := c.Response("POST")
		assert.Equal(t, 200, resp.StatusCode, "and not a second 100")
		assert.Equal(t, "hello", string(resp.Content))

		c.Send(fmt.Sprintf(head, "/no"))
		assert.Equal(t, 401, c.Response("POST").StatusCode, "without a 100 before it")
	})
}

func TestReverseProxyDropsTheHeadersThatConnectionNames(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Connection", "X-Internal")
			w.Header().Set("X-Internal", "1")
			w.Header().Set("X-Public", "2")
		}))
		s := p.serve(t, newReverseProxy(t, backend.Addr()))
		resp := s.dial().Do("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, X-Secret\r\nX-Secret: 1\r\nX-Other: 2\r\nTE: trailers\r\n\r\n")
		assert.Empty(t, resp.Header["X-Internal"])
		assert.Equal(t, "2", resp.Header.Get("X-Public"))
		seen := backend.Last(t).Header
		assert.Empty(t, seen["X-Secret"])
		assert.Empty(t, seen["Connection"])
		assert.Equal(t, "2", seen.Get("X-Other"))
		assert.Equal(t, "trailers", seen.Get("Te"))
	})
}

func TestReverseProxyForwardsTheClientAddress(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		backend := proxytest.NewServer(t, nil)
		s := p.serve(t, newReverseProxy(t, backend.Addr()))
		s.get("/a%2Fb?c=d", "X-Forwarded-For", "192.0.2.1")
		seen := backend.Last(t)
		assert.Equal(t, "/a%2Fb?c=d", seen.Target)
		assert.Equal(t, "127.0.0.1", seen.Header.Get("X-Forwarded-For"))
		assert.Equal(t, "localhost", seen.Header.Get("X-Forwarded-Host"))
		scheme, _, _ := strings.Cut(s.url("/"), ":")
		assert.Equal(t, scheme, seen.Header.Get("X-Forwarded-Proto"))
	})
}

func TestReverseProxyKeepsResponsesWithoutABody(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			switch q.URL.Path {
			case "/204":
				w.WriteHeader(http.StatusNoContent)
			case "/304":
				w.Header().Set("Etag", `"a"`)
				w.WriteHeader(http.StatusNotModified)
			default:
				w.Header().Set("Content-Length", "1000")
				if q.Method != http.MethodHead {
					_, _ = w.Write(make([]byte, 1000))
				}
			}
		}))
		s := p.serve(t, newReverseProxy(t, backend.Addr()))
		head := s.do("HEAD", "/", nil)
		assert.EqualValues(t, 1000, head.ContentLength)
		assert.Empty(t, head.body)
		assert.Equal(t, http.StatusNoContent, s.get("/204").StatusCode)
		unchanged := s.get("/304")
		assert.Equal(t, http.StatusNotModified, unchanged.StatusCode)
		assert.Equal(t, `"a"`, unchanged.Header.Get("Etag"))
		assert.Len(t, s.get("/").body, 1000)
	})
}

func TestReverseProxyAnswers502WithoutABackend(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, newReverseProxy(t, proxytest.Refused(t)))
		assert.Equal(t, http.StatusBadGateway, s.get("/").StatusCode)
		assert.Equal(t, http.StatusBadGateway, s.do("POST", "/", strings.NewReader("body")).StatusCode)
	})
}
