package neighbours_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// The tests in this file check what net/http's documentation promises about a
// ResponseWriter and a Request.

func TestTheServerAddsTheHeadersThatAHandlerOmits(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			switch q.URL.Path {
			case "/html":
				fmt.Fprint(w, "<!DOCTYPE html>")
			case "/long":
				for range 100 {
					_, _ = w.Write(make([]byte, 1000))
				}
			case "/bare":
				w.Header()["Content-Type"] = nil
				w.Header()["Date"] = nil
				fmt.Fprint(w, "bare")
			case "/flushed":
				w.(http.Flusher).Flush()
			}
		}))
		html := s.get("/html")
		assert.Equal(t, "text/html; charset=utf-8", html.Header.Get("Content-Type"))
		assert.EqualValues(t, len("<!DOCTYPE html>"), html.ContentLength)
		date, err := http.ParseTime(html.Header.Get("Date"))
		assert.NoError(t, err)
		assert.WithinDuration(t, time.Now(), date, time.Hour)

		long := s.get("/long")
		assert.EqualValues(t, -1, long.ContentLength)
		assert.Equal(t, "application/octet-stream", long.Header.Get("Content-Type"))
		assert.Len(t, long.body, 100_000)

		bare := s.get("/bare")
		assert.Empty(t, bare.Header["Content-Type"])
		assert.Empty(t, bare.Header["Date"])

		assert.EqualValues(t, 0, s.get("/empty").ContentLength)
		assert.EqualValues(t, -1, s.get("/flushed").ContentLength)
	})
}

func TestAHEADResponseHasTheHeadersOfAGETAndNoBody(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			n, err := fmt.Fprint(w, "hello")
			assert.NoError(t, err)
			assert.Equal(t, 5, n)
			if q.URL.Path == "/long" {
				_, err = w.Write(make([]byte, 100_000))
				assert.NoError(t, err)
			}
		}))
		c := s.dial()
		short := c.Do("HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		assert.EqualValues(t, 5, short.ContentLength)
		assert.Equal(t, "text/plain; charset=utf-8", short.Header.Get("Content-Type"))
		long := c.Do("HEAD /long HTTP/1.1\r\nHost: localhost\r\n\r\n")
		assert.EqualValues(t, -1, long.ContentLength)
		assert.Equal(t, "hello", string(c.Do("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").Content), "no byte of a body came before")
	})
}

func TestAHeaderThatWasSentDoesNotChange(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-A", "1")
			w.WriteHeader(http.StatusAccepted)
			w.Header().Set("X-A", "2")
			w.Header().Set("X-B", "3")
			w.WriteHeader(http.StatusTeapot)
			fmt.Fprint(w, "body")
		}))
		resp := s.get("/")
		assert.Equal(t, http.StatusAccepted, resp.StatusCode)
		assert.Equal(t, []string{"1"}, resp.Header["X-A"])
		assert.Empty(t, resp.Header["X-B"])
		assert.Equal(t, "body", resp.body)
	})
}

func TestABodyLongerThanItsContentLengthIsCutThere(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5")
			_, err := io.WriteString(w, "hello")
			assert.NoError(t, err)
			_, err = io.WriteString(w, "more")
			assert.ErrorIs(t, err, http.ErrContentLength)
		}))
		assert.Equal(t, "hello", s.get("/").body)
	})
}

func TestABodyShorterThanItsContentLengthIsAnIncompleteResponse(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			fmt.Fprint(w, "hello")
		}))
		assert.Equal(t, "hello", s.fails("/"))
	})
}

func TestSomeStatusesHaveNoBody(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			status := http.StatusNoContent
			if q.URL.Path == "/304" {
				status = http.StatusNotModified
			}
			w.WriteHeader(status)
			_, err := io.WriteString(w, "body")
			assert.ErrorIs(t, err, http.ErrBodyNotAllowed)
		}))
		for range 2 {
			resp := s.get("/204")
			assert.Equal(t, http.StatusNoContent, resp.StatusCode)
			assert.Empty(t, resp.Header["Content-Length"])
			assert.Empty(t, resp.Header["Content-Type"])
			assert.Equal(t, http.StatusNotModified, s.get("/304").StatusCode)
		}
	})
}

func TestHandlersSendTrailers(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			w.Header().Add("Trailer", "X-Unset")
			fmt.Fprint(w, "body")
			w.Header().Set("X-Sum", "1")
			w.Header().Set("X-Neither", "2")
			w.Header().Set(http.TrailerPrefix+"X-Late", "3")
		}))
		resp := s.get("/")
		assert.Equal(t, "body", resp.body)
		assert.Equal(t, []string{"1"}, resp.Trailer["X-Sum"])
		assert.Equal(t, []string{"3"}, resp.Trailer["X-Late"])
		assert.Empty(t, resp.Trailer["X-Unset"])
		assert.Empty(t, resp.Trailer["X-Neither"])
	})
}

func TestAnInvalidStatusPanics(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			assert.Panics(t, func() { w.WriteHeader(99) })
			assert.Panics(t, func() { w.WriteHeader(1000) })
			w.WriteHeader(999)
		}))
		assert.Equal(t, 999, s.get("/").StatusCode)
	})
}

func TestAPanicEndsOnlyItsExchange(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/late" {
				fmt.Fprint(w, "part")
				w.(http.Flusher).Flush()
			}
			if q.URL.Path != "/fine" {
				panic("something odd")
			}
		}))
		s.fails("/")
		assert.Equal(t, "part", s.fails("/late"))
		assert.Equal(t, http.StatusOK, s.get("/fine").StatusCode)
		// Over HTTP/2, net/http logs the panic after it has reset the stream.
		proxytest.Eventually(t, "the panic in the log", func() bool { return strings.Contains(s.log.String(), "something odd") })
	})
}

func TestARequestKnowsItsConnection(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			server, _ := q.Context().Value(http.ServerContextKey).(*http.Server)
			assert.NotNil(t, server)
			local, _ := q.Context().Value(http.LocalAddrContextKey).(net.Addr)
			if assert.NotNil(t, local) {
				w.Header().Set("X-Local", local.String())
			}
			host, _, err := net.SplitHostPort(q.RemoteAddr)
			assert.NoError(t, err)
			assert.Equal(t, "127.0.0.1", host)
			if p.protocol == plain {
				assert.Nil(t, q.TLS)
			} else if assert.NotNil(t, q.TLS) {
				assert.Equal(t, "localhost", q.TLS.ServerName)
				assert.True(t, q.TLS.HandshakeComplete)
				assert.Equal(t, p.protocol == h2, q.TLS.NegotiatedProtocol == "h2")
			}
			assert.Empty(t, q.URL.Host)
			assert.Empty(t, q.Header["Host"])
			fmt.Fprint(w, q.Method, " ", q.RequestURI, " ", q.URL.Path, " ", q.URL.RawQuery, " ", q.Host, " ", q.Proto, " ", q.ContentLength, " ", q.TransferEncoding)
		}))
		resp := s.get("/a%2Fb?c=d")
		assert.Equal(t, s.addr, resp.Header.Get("X-Local"))
		assert.Equal(t, "GET /a%2Fb?c=d /a/b c=d localhost "+p.proto()+" 0 []", resp.body)
		assert.Contains(t, s.do("PUT", "/", strings.NewReader("hello")).body, " 5 []")
		codings := "[chunked]"
		if p.protocol == h2 {
			codings = "[]"
		}
		assert.Contains(t, s.do("PUT", "/", io.NopCloser(strings.NewReader("hello"))).body, " -1 "+codings)
	})
}

func TestTheContextEndsWithTheHandler(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		ended := make(chan error, 1)
		s := p.serve(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
			assert.NoError(t, q.Context().Err())
			context.AfterFunc(q.Context(), func() { ended <- q.Context().Err() })
		}))
		s.get("/")
		assert.ErrorIs(t, await(t, "the end of the context", ended), context.Canceled)
	})
}

func TestTheContextEndsWithTheClient(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		arrived, ended := make(chan struct{}, 1), make(chan error, 1)
		s := p.serve(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
			_, _ = io.ReadAll(q.Body)
			arrived <- struct{}{}
			<-q.Context().Done()
			ended <- context.Cause(q.Context())
		}))
		for _, raw := range []string{
			"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
			"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
			"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		} {
			for _, leave := range []string{"reset", "close"} {
				c := s.dial()
				c.Send(raw)
				await(t, "the request", arrived)
				if leave == "reset" {
					require.NoError(t, c.Reset())
				} else {
					require.NoError(t, c.Close())
				}
				assert.Error(t, await(t, "the end of the context", ended), leave)
			}
		}
	})
}

func TestAWriterOffersTheInterfacesThatLibrariesUse(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, offers(w)) }))
		want := "CloseNotifier Flusher FlushError Hijacker ReaderFrom StringWriter"
		if p.protocol == h2 {
			want = "CloseNotifier Flusher FlushError Pusher StringWriter"
		}
		if p.deviates(nobodyPushes) {
			want = "CloseNotifier Flusher FlushError ReaderFrom StringWriter"
		}
		if p.deviates(routesHaveTheirWriter) {
			want = "CloseNotifier Flusher FlushError Hijacker ReaderFrom StringWriter"
		}
		assert.Equal(t, want, s.get("/").body)
	})
}

// offers returns the names of the interfaces that w has. Closer must not be
// among them: chi's Compress would close the writer.
func offers(w http.ResponseWriter) string {
	var names []string
	//lint:ignore SA1019 older libraries look for it
	if _, ok := w.(http.CloseNotifier); ok {
		names = append(names, "CloseNotifier")
	}
	if _, ok := w.(io.Closer); ok {
		names = append(names, "Closer")
	}
	if _, ok := w.(http.Flusher); ok {
		names = append(names, "Flusher")
	}
	if _, ok := w.(interface{ FlushError() error }); ok {
		names = append(names, "FlushError")
	}
	if _, ok := w.(http.Hijacker); ok {
		names = append(names, "Hijacker")
	}
	if _, ok := w.(http.Pusher); ok {
		names = append(names, "Pusher")
	}
	if _, ok := w.(io.ReaderFrom); ok {
		names = append(names, "ReaderFrom")
	}
	if _, ok := w.(io.StringWriter); ok {
		names = append(names, "StringWriter")
	}
	return strings.Join(names, " ")
}

func TestCloseNotifierFires(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		arrived, told := make(chan struct{}), make(chan bool, 1)
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			//lint:ignore SA1019 older libraries use it
			gone := w.(http.CloseNotifier).CloseNotify()
			close(arrived)
			told <- <-gone
		}))
		ctx, leave := context.WithCancel(t.Context())
		go func() {
			<-arrived
			leave()
		}()
		_, err := s.client.Do(s.request("GET", "/", nil).WithContext(ctx))
		require.ErrorIs(t, err, context.Canceled)
		assert.True(t, await(t, "the notification", told))
	})
}

func TestReadFromCopiesFromAnyReader(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		big := pattern(300_000)
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/sized" {
				w.Header().Set("Content-Length", fmt.Sprint(len(big)))
			}
			n, err := w.(io.ReaderFrom).ReadFrom(io.LimitReader(bytes.NewReader(big), int64(len(big))))
			assert.NoError(t, err)
			assert.EqualValues(t, len(big), n)
		}))
		for _, path := range []string{"/", "/sized"} {
			assert.True(t, string(big) == s.get(path).body, path)
		}
		resp := s.do("HEAD", "/sized", nil)
		assert.EqualValues(t, len(big), resp.ContentLength)
		assert.Empty(t, resp.body)
	})
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, q.URL.Path) }))
		c := s.dial()
		c.Send("GET /1 HTTP/1.1\r\nHost: localhost\r\n\r\nPOST /2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\nunreadGET /3 HTTP/1.1\r\nHost: localhost\r\n\r\n")
		for _, want := range []string{"/1", "/2", "/3"} {
			assert.Equal(t, want, string(c.Response("GET").Content))
		}
	})
}

func TestHTTP10ClientsGetNoChunks(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			assert.Equal(t, "HTTP/1.0", q.Proto)
			fmt.Fprint(w, "hello")
			w.(http.Flusher).Flush()
			fmt.Fprint(w, " world")
		}))
		c := s.dial()
		resp := c.Do("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
		assert.Empty(t, resp.TransferEncoding)
		assert.Equal(t, "hello world", string(resp.Content))
		assert.Empty(t, c.Rest(), "the connection is closed")
	})
}

func TestConnectionCloseIsHonoured(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/handler" {
				w.Header().Set("Connection", "close")
			}
			fmt.Fprint(w, "hello")
		}))
		for _, raw := range []string{
			"GET /handler HTTP/1.1\r\nHost: localhost\r\n\r\n",
			"GET /client HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
		} {
			c := s.dial()
			resp := c.Do(raw)
			assert.True(t, resp.Close)
			assert.Equal(t, "hello", string(resp.Content))
			assert.Empty(t, c.Rest())
		}
	})
}
