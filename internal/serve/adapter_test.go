package serve_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/serve"
)

func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "32") // parallel tests only wait; -parallel overrides this
	proxytest.Main(m)
}

const get = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"

// serving serves h and returns a client of it.
func serving(t testing.TB, h http.HandlerFunc) *proxytest.Client {
	t.Helper()
	return proxytest.Dial(t, start(t, &serve.Server{Handler: h}))
}

func TestASmallAnswerIsOneWriteWithItsLength(t *testing.T) {
	proxytest.NoLeaks(t)
	c := serving(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	for range 3 {
		p := c.Do(get)
		assert.Equal(t, int64(5), p.ContentLength)
		assert.Equal(t, "text/plain; charset=utf-8", p.Header.Get("Content-Type"))
		_, err := http.ParseTime(p.Header.Get("Date"))
		assert.NoError(t, err)
	}
}

func TestAnUnusualRequestKeepsItsConnectionOpen(t *testing.T) {
	proxytest.NoLeaks(t)
	c := serving(t, func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, q.Method, " ", q.Host, q.URL.Path) })
	for _, tt := range []struct{ raw, want string }{
		{"BREW / HTTP/1.1\r\nHost: a.test\r\n\r\n", "BREW a.test/"},
		{"GET http://b.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET b.test/x"},
		{"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n", "OPTIONS a.test*"},
		{"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET /"},
		{"GET / HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nConnection: te\r\n\r\n", "GET a.test/"},
	} {
		assert.Equal(t, tt.want, string(c.Do(tt.raw).Content))
	}
	c.Send("GET / HTTP/1.1\r\nHost: a.test\r\n folded: x\r\n\r\n")
	assert.Equal(t, 400, c.Response("GET").StatusCode, "the parser is still ours")
	assert.Empty(t, c.Rest())
}

func TestMaxHeaderBytesLimitsRequestHeads(t *testing.T) {
	proxytest.NoLeaks(t)
	h := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		fmt.Fprint(w, len(q.Header.Get("X-Long")), " ", string(body), err)
	})
	addr := start(t, &serve.Server{Handler: h, MaxHeaderBytes: 100 << 10})
	c := proxytest.Dial(t, addr)
	for _, size := range []int{10, 16 << 10, 50 << 10, 90 << 10} {
		p := c.Do("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nX-Long: " + strings.Repeat("x", size) + "\r\n\r\nbody")
		assert.Equal(t, fmt.Sprint(size, " body<nil>"), string(p.Content))
	}
	c.Send("GET / HTTP/1.1\r\nHost: a.test\r\nX-Long: " + strings.Repeat("x", 100<<10))
	assert.Equal(t, 431, c.Response("GET").StatusCode)
}

func TestPipelinedRequestsAreServedInOrder(t *testing.T) {
	proxytest.NoLeaks(t)
	seen := make(chan struct{}, 1)
	c := serving(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/slow" {
			<-seen
		}
		io.Copy(w, q.Body)
		io.WriteString(w, q.URL.Path)
	})
	c.Send("POST /slow HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx")
	c.Send("GET /3 HTTP/1.1\r\nHost: a.test\r\n\r\n")
	seen <- struct{}{}
	for _, want := range []string{"ab/slow", "x/2", "/3"} {
		assert.Equal(t, want, string(c.Response("GET").Content))
	}
}

func TestAConnectionStaysOpenIfAnUnreadBodyArrives(t *testing.T) {
	proxytest.NoLeaks(t)
	c := serving(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) })
	for range 3 {
		p := c.Do("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000))
		assert.Equal(t, 403, p.StatusCode)
		assert.False(t, p.Close)
	}
}

func TestAnIncompleteBodyDoesNotDelayTheResponse(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	proxytest.NoLeaks(t)
	for _, tt := range []struct {
		name, request string
		says          bool // the response announces the end of the connection
	}{
		{"no byte of it", "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100\r\n\r\n", false},
		{"some of it", "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100\r\n\r\nx", false},
		{"chunked", "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", false},
		{"too long", "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\nx", true},
		{"waits for 100 Continue", "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serving(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) })
			c.Send(tt.request)
			p := c.Response("POST")
			assert.Equal(t, 403, p.StatusCode)
			assert.Equal(t, tt.says, p.Close)
			assert.Empty(t, c.Rest())
		})
	}
}

func TestTheFirstBodyReadSends100Continue(t *testing.T) {
	proxytest.NoLeaks(t)
	c := serving(t, func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		w.Write(body)
	})
	for range 2 {
		c.Send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
		assert.Equal(t, "HTTP/1.1 100 Continue\r\n\r\n", c.Head())
		c.Send("body")
		assert.Equal(t, "body", string(c.Response("POST").Content))
	}
	c.Send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nExpect: y 100-continue\r\n\r\n")
	assert.Equal(t, 417, c.Response("POST").StatusCode)
	assert.Empty(t, c.Rest())
}

func TestHTTP10RequestsGetNoInterimResponsesAndLoseExpectAndUpgrade(t *testing.T) {
	proxytest.NoLeaks(t)
	c := serving(t, func(w http.ResponseWriter, q *http.Request) {
		w.WriteHeader(103)
		body, _ := io.ReadAll(q.Body)
		fmt.Fprint(w, string(body), q.Header["Expect"], q.Header["Upgrade"])
	})
	c.Send("POST / HTTP/1.0\r\nContent-Length: 4\r\nExpect: 100-continue\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nbody")
	assert.True(t, strings.HasPrefix(c.Head(), "HTTP/1.0 200 OK\r\n"))
	assert.Equal(t, "body[] []", c.Rest())
}

func TestAPanicCutsItsClientOffAndIsLogged(t *testing.T) {
	proxytest.NoLeaks(t)
	for _, tt := range []struct {
		name   string
		value  any
		logged string
	}{{"any value", "boom", "boom"}, {"http.ErrAbortHandler", http.ErrAbortHandler, ""}} {
		t.Run(tt.name, func(t *testing.T) {
			logs := new(proxytest.Log)
			s := &serve.Server{Log: slog.New(slog.NewTextHandler(logs, nil)), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "10")
				io.WriteString(w, "12345")
				http.NewResponseController(w).Flush()
				panic(tt.value)
			})}
			c := proxytest.Dial(t, start(t, s))
			c.Send(get)
			_, err := c.ReadResponse("GET")
			assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
			if tt.logged == "" {
				assert.Empty(t, logs.String())
			} else {
				assert.Contains(t, logs.String(), "panic serving")
				assert.Contains(t, logs.String(), "TestAPanicCutsItsClientOff", "the stack")
			}
		})
	}
}

func TestAnAbortedBodyWithoutALengthResetsTheConnection(t *testing.T) {
	proxytest.NoLeaks(t)
	c := serving(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	c.Send("GET / HTTP/1.0\r\n\r\n")
	_, err := io.ReadAll(c.Conn.Conn)
	assert.ErrorContains(t, err, "reset")
}

func TestTheContextEndsWhenTheClientDisconnects(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	proxytest.NoLeaks(t)
	for name, request := range map[string]string{
		"no body":             get,
		"a body that is read": "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nbody",
	} {
		t.Run(name, func(t *testing.T) {
			ended, began := make(chan error, 1), make(chan struct{})
			c := serving(t, func(w http.ResponseWriter, q *http.Request) {
				io.Copy(io.Discard, q.Body)
				//lint:ignore SA1019 older libraries use it
				left := w.(http.CloseNotifier).CloseNotify()
				close(began)
				<-q.Context().Done()
				<-left
				ended <- q.Context().Err()
			})
			c.Send(request)
			<-began
			c.Close()
			assert.Equal(t, context.Canceled, <-ended)
		})
	}
}

func TestTheContextEndsWhenTheHandlerReturns(t *testing.T) {
	proxytest.NoLeaks(t)
	contexts := make(chan context.Context, 1)
	c := serving(t, func(_ http.ResponseWriter, q *http.Request) {
		assert.NoError(t, q.Context().Err())
		contexts <- q.Context()
	})
	c.Do(get)
	<-(<-contexts).Done()
}

func TestAHandlerCanHijackTheConnection(t *testing.T) {
	proxytest.NoLeaks(t)
	c := serving(t, func(w http.ResponseWriter, _ *http.Request) {
		nc, buf, err := http.NewResponseController(w).Hijack()
		if !assert.NoError(t, err) {
			return
		}
		defer nc.Close()
		assert.GreaterOrEqual(t, buf.Reader.Buffered(), len("early"))
		_, err = w.Write([]byte("x"))
		assert.Equal(t, http.ErrHijacked, err)
		line, _ := buf.ReadString('\n')
		fmt.Fprintf(buf, "got %s", line)
		buf.Flush()
		line, _ = buf.ReadString('\n')
		fmt.Fprintf(nc, "and %s", line)
	})
	c.Send("GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nearly")
	c.Send(" bird\nworm\n")
	assert.Equal(t, "got early bird\nand worm\n", c.Rest())
}

func TestAResponseDuringADrainClosesItsConnection(t *testing.T) {
	t.Parallel() // it waits
	proxytest.NoLeaks(t)
	began, goOn := make(chan struct{}), make(chan struct{})
	s := &serve.Server{Log: slog.New(slog.DiscardHandler), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-goOn
		io.WriteString(w, "ok")
	})}
	ln := proxytest.Listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	c, idle, half := proxytest.Dial(t, ln.Addr().String()), proxytest.Dial(t, ln.Addr().String()), proxytest.Dial(t, ln.Addr().String())
	half.Send("BREW / HT")
	c.Send(get)
	<-began
	cancel()
	assert.Empty(t, idle.Rest())
	close(goOn)
	p := c.Response("GET")
	assert.True(t, p.Close)
	assert.Empty(t, c.Rest())
	half.CloseWrite()
	assert.NoError(t, <-done)
}

func TestAResponseWriterHasNoEffectAfterItsRequest(t *testing.T) {
	proxytest.NoLeaks(t)
	kept := make(chan http.ResponseWriter, 1)
	body := make(chan io.Reader, 1)
	c := serving(t, func(w http.ResponseWriter, q *http.Request) {
		select {
		case kept <- w:
			body <- q.Body
		default:
		}
	})
	c.Do("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nbody")
	c.Do(get)
	w := <-kept
	_, err := w.Write([]byte("late"))
	assert.Error(t, err)
	w.WriteHeader(200)
	w.Header().Set("A", "b")
	_, err = (<-body).Read(make([]byte, 1))
	assert.Equal(t, http.ErrBodyReadAfterClose, err)
	assert.Empty(t, c.Do(get).Content)
}

func TestABodyReadFailsWhenTheHandlerReturns(t *testing.T) {
	proxytest.NoLeaks(t)
	failed := make(chan error, 1)
	reads := make(chan struct{})
	c := serving(t, func(w http.ResponseWriter, q *http.Request) {
		go func() {
			close(reads)
			_, err := io.ReadAll(q.Body)
			failed <- err
		}()
		<-reads
		w.WriteHeader(200)
	})
	c.Send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\n")
	assert.Equal(t, 200, c.Response("POST").StatusCode)
	assert.Equal(t, http.ErrBodyReadAfterClose, <-failed)
}

func TestDeadlinesOfAHandlerEndWithItsRequest(t *testing.T) {
	proxytest.NoLeaks(t)
	c := serving(t, func(w http.ResponseWriter, q *http.Request) {
		rc := http.NewResponseController(w)
		assert.NoError(t, rc.SetWriteDeadline(time.Now().Add(time.Hour)))
		assert.NoError(t, rc.EnableFullDuplex())
		if q.ContentLength == 0 {
			return
		}
		assert.NoError(t, rc.SetReadDeadline(time.Unix(1, 0)))
		_, err := io.ReadAll(q.Body)
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	})
	c.Send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\n")
	assert.Equal(t, 200, c.Response("POST").StatusCode)
	c.Send("body")
	assert.Equal(t, 200, c.Do(get).StatusCode)
}

func TestAFullDuplexHandlerReadsAndWritesAtOnce(t *testing.T) {
	proxytest.NoLeaks(t)
	c := serving(t, func(w http.ResponseWriter, q *http.Request) {
		rc := http.NewResponseController(w)
		assert.NoError(t, rc.EnableFullDuplex())
		lines := bufio.NewReader(q.Body)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			io.WriteString(w, line)
			rc.Flush()
		}
	})
	c.Send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na\n\r\n")
	c.Head()
	c.Expect("2\r\na\n\r\n")
	c.Send("2\r\nb\n\r\n")
	c.Expect("2\r\nb\n\r\n")
	c.Send("0\r\n\r\n")
	c.Expect("0\r\n\r\n")
	assert.Equal(t, 200, c.Do("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").StatusCode)
}

func TestFormFilesAreRemoved(t *testing.T) {
	proxytest.NoLeaks(t)
	names := make(chan string, 1)
	c := serving(t, func(_ http.ResponseWriter, q *http.Request) {
		if q.Method != "POST" || !assert.NoError(t, q.ParseMultipartForm(1)) {
			return
		}
		f, err := q.MultipartForm.File["f"][0].Open()
		if assert.NoError(t, err) {
			defer f.Close()
			names <- f.(*os.File).Name()
		}
	})
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	part, err := w.CreateFormFile("f", "f")
	require.NoError(t, err)
	part.Write(bytes.Repeat([]byte("x"), 100))
	w.Close()
	q := httptest.NewRequest("POST", "http://a.test/", &form)
	q.Header.Set("Content-Type", w.FormDataContentType())
	var raw bytes.Buffer
	require.NoError(t, q.Write(&raw))
	assert.Equal(t, 200, c.Do(raw.String()).StatusCode)
	c.Do(get)
	_, err = os.Stat(<-names)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestARequestOverTLSHasItsStateAndEndsWithCloseNotify(t *testing.T) {
	proxytest.NoLeaks(t)
	config, roots := proxytest.TLS(t, "a.test")
	addr := start(t, &serve.Server{TLS: config, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, local := q.Context().Value(http.LocalAddrContextKey).(net.Addr)
		fmt.Fprint(w, q.TLS.ServerName, local, q.RemoteAddr != "", strings.Repeat("x", 100<<10))
	})})
	c := proxytest.DialTLS(t, addr, &tls.Config{RootCAs: roots, ServerName: "a.test"})
	for range 2 {
		p := c.Do(get)
		assert.True(t, strings.HasPrefix(string(p.Content), "a.testtrue truex"), string(p.Content[:40]))
	}
	p := c.Do("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
	assert.True(t, p.Close)
	_, err := c.ReadAll()
	assert.NoError(t, err)
}

func TestAnInvalidContentLengthAndASecondStatusAreLogged(t *testing.T) {
	proxytest.NoLeaks(t)
	logs := new(proxytest.Log)
	s := &serve.Server{Log: slog.New(slog.NewTextHandler(logs, nil)), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "x")
		w.WriteHeader(200)
		w.WriteHeader(500)
	})}
	p := proxytest.Dial(t, start(t, s)).Do(get)
	assert.Equal(t, int64(0), p.ContentLength)
	assert.Contains(t, logs.String(), "invalid Content-Length")
	assert.Contains(t, logs.String(), "superfluous response.WriteHeader call from github.com/hostproxy/hostproxy/internal/serve_test.")
}

func TestA304KeepsItsContentLength(t *testing.T) {
	proxytest.NoLeaks(t)
	c := serving(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		w.WriteHeader(304)
		_, err := w.Write([]byte("x"))
		assert.Equal(t, http.ErrBodyNotAllowed, err)
	})
	c.Send(get)
	assert.Contains(t, c.Head(), "Content-Length: 10\r\n")
	assert.Equal(t, 304, c.Do(get).StatusCode)
}

// An opaque listener has connections that hide their socket.
type opaque struct{ net.Listener }

func (l opaque) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return struct{ net.Conn }{c}, err
}

func TestTheContextEndsWhenTheClientOfAnOpaqueConnectionDisconnects(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	proxytest.NoLeaks(t)
	for name, request := range map[string]string{
		"no body":             get,
		"a body that is read": "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nbody",
	} {
		t.Run(name, func(t *testing.T) {
			began, ended := make(chan struct{}, 2), make(chan struct{})
			s := &serve.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				io.Copy(io.Discard, q.Body)
				if q.URL.Path == "/next" {
					io.WriteString(w, "next")
					return
				}
				began <- struct{}{}
				if q.Header.Get("X-Wait") != "" {
					<-q.Context().Done()
					close(ended)
				}
			})}
			c := proxytest.Dial(t, startOn(t, s, opaque{proxytest.Listen(t)}))
			c.Send(request)
			<-began
			c.Response("GET")
			c.Send(request + "GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n")
			<-began
			assert.Empty(t, c.Response("GET").Content)
			assert.Equal(t, "next", string(c.Response("GET").Content))
			c.Send(strings.Replace(request, "\r\n\r\n", "\r\nX-Wait: x\r\n\r\n", 1))
			<-began
			c.Close()
			<-ended
		})
	}
}

func TestDerivedContextsEndWithTheRequest(t *testing.T) {
	proxytest.NoLeaks(t)
	type key struct{}
	below := make(chan context.Context, 1)
	called := make(chan bool, 3)
	c := serving(t, func(_ http.ResponseWriter, q *http.Request) {
		ctx, cancel := context.WithCancel(context.WithValue(q.Context(), key{}, "v"))
		t.Cleanup(cancel)
		assert.Equal(t, "v", ctx.Value(key{}))
		context.AfterFunc(q.Context(), func() { called <- true })
		assert.True(t, context.AfterFunc(q.Context(), func() { called <- false })(), "it has been prevented")
		below <- ctx
	})
	c.Do(get)
	ctx := <-below
	<-ctx.Done()
	assert.Equal(t, context.Canceled, ctx.Err())
	assert.True(t, <-called)
	late := make(chan bool, 1)
	stop := context.AfterFunc(ctx, func() { late <- true })
	assert.True(t, <-late)
	assert.False(t, stop())
}

func TestTheFifthRequestIsRefusedLikeTheFirst(t *testing.T) {
	proxytest.NoLeaks(t)
	handled := make(chan string, 100)
	addr := start(t, &serve.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		io.Copy(io.Discard, q.Body)
		handled <- q.Method
	})})
	for raw, want := range map[string]int{
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 400,
		"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n":                      400,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx":                  400,
		"GET / HTTP/1.1\nHost: a\n\n":                                              400,
		"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n":                          400,
		"GET a.test:80 HTTP/1.1\r\nHost: a\r\n\r\n":                                400,
		"GET mailto:x@y HTTP/1.1\r\nHost: a\r\n\r\n":                               400,
		"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n":                                400,
		"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: a\r\n", 101) + "\r\n": 431,
		"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n":                                  501,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":                                         505,
		"GET / HTTP/1.1\r\n\r\n":                                                   400,
		"GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n":                         417,
	} {
		for _, before := range []int{0, 4} {
			c := proxytest.Dial(t, addr)
			for range before {
				require.Equal(t, 200, c.Do("BREW / HTTP/1.1\r\nHost: a\r\n\r\n").StatusCode)
				<-handled
			}
			c.Send(raw)
			assert.Equal(t, want, c.Response("GET").StatusCode, raw)
			assert.Empty(t, c.Rest(), "the connection closes")
			assert.Empty(t, handled)
		}
	}
}

func TestAResponseIsFramedOnceRegardlessOfHeaderCase(t *testing.T) {
	proxytest.NoLeaks(t)
	for _, tt := range []struct {
		name string
		h    http.Header
		want []string // fields of the head in any order, without Date
	}{
		{"a length", http.Header{"content-length": {"5"}}, []string{"Content-Length: 5"}},
		{"two lengths", http.Header{"Content-Length": {"5"}, "content-length": {"3"}}, []string{"Content-Length: 5"}},
		{"a coding", http.Header{"transfer-encoding": {"chunked"}}, []string{"Transfer-Encoding: chunked"}},
		{"a length and a coding", http.Header{"CONTENT-LENGTH": {"5"}, "transfer-encoding": {"chunked"}}, []string{"Transfer-Encoding: chunked"}},
		{"the end of the connection", http.Header{"connection": {"close"}, "Content-Length": {"5"}}, []string{"Content-Length: 5", "Connection: close"}},
		{"a date", http.Header{"date": {"today"}, "Content-Length": {"5"}}, []string{"Content-Length: 5", "date: today"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serving(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["Content-Type"] = nil
				maps.Copy(w.Header(), tt.h)
				io.WriteString(w, "hello")
			})
			c.Send(get)
			var fields []string
			for _, line := range strings.Split(strings.TrimSpace(c.Head()), "\r\n")[1:] {
				if !strings.HasPrefix(line, "Date: ") {
					fields = append(fields, line)
				}
			}
			assert.ElementsMatch(t, tt.want, fields)
		})
	}
}

func TestFramingHeadersAreNotSentAsTrailers(t *testing.T) {
	proxytest.NoLeaks(t)
	c := serving(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "hello")
		_ = http.NewResponseController(w).Flush()
		for _, name := range []string{"Content-Length", "content-length", "Transfer-Encoding", "X-T"} {
			w.Header()[http.TrailerPrefix+name] = []string{"1"}
		}
	})
	p := c.Do(get)
	assert.Equal(t, "hello", string(p.Content))
	assert.Equal(t, http.Header{"X-T": {"1"}}, p.Trailer)
}

func TestBytesAfterA101AreNotARequest(t *testing.T) {
	proxytest.NoLeaks(t)
	var served atomic.Int32
	c := serving(t, func(w http.ResponseWriter, _ *http.Request) {
		served.Add(1)
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "echo")
		w.WriteHeader(http.StatusSwitchingProtocols)
	})
	c.Send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n" + get)
	head := c.Head()
	assert.Contains(t, head, "HTTP/1.1 101 Switching Protocols\r\n")
	assert.Contains(t, head, "Connection: Upgrade\r\n")
	assert.Empty(t, c.Rest())
	assert.Equal(t, int32(1), served.Load())
}

func TestBytesAfterAnHTTP10RequestWithoutALengthAreNotARequest(t *testing.T) {
	proxytest.NoLeaks(t)
	const stays = " / HTTP/1.0\r\nConnection: keep-alive\r\n"
	for raw, want := range map[string]int32{
		// the bytes after it may be meant as its body
		"POST" + stays + "\r\n": 1, "OPTIONS" + stays + "\r\n": 1,
		"POST" + stays + "Content-Length: 0\r\n\r\n": 2, "GET" + stays + "\r\n": 2,
	} {
		t.Run(raw, func(t *testing.T) {
			var served atomic.Int32
			c := serving(t, func(http.ResponseWriter, *http.Request) { served.Add(1) })
			c.Send(raw + "GET / HTTP/1.0\r\n\r\n")
			assert.Equal(t, 200, c.Response("GET").StatusCode)
			assert.Equal(t, want == 1, c.Rest() == "")
			assert.Equal(t, want, served.Load())
		})
	}
}

func TestAFailedWriteReturnsTheNumberOfBytesWritten(t *testing.T) {
	proxytest.NoLeaks(t)
	const size = 64 << 20
	type result struct {
		n   int
		err error
	}
	wrote := make(chan result, 1)
	c := serving(t, func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := w.Write(make([]byte, size))
		wrote <- result{n, err}
	})
	c.Send(get) // reads nothing
	r := <-wrote
	require.ErrorIs(t, r.err, os.ErrDeadlineExceeded)
	assert.Less(t, r.n, size)
}
