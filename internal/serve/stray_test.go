package serve_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/serve"
)

// A gate is a reader that continues after it is opened.
type gate struct {
	first   io.Reader
	waiting chan struct{}
	open    chan struct{}
	more    io.Reader
}

func (g *gate) Read(p []byte) (int, error) {
	if n, _ := g.first.Read(p); n > 0 {
		return n, nil
	}
	if g.waiting != nil {
		close(g.waiting)
		g.waiting = nil
		<-g.open
	}
	return g.more.Read(p)
}

func TestACopyThatOutlivesItsHandlerFails(t *testing.T) {
	proxytest.NoLeaks(t)
	g := &gate{first: strings.NewReader(strings.Repeat("x", 600)), more: strings.NewReader("late"), waiting: make(chan struct{}), open: make(chan struct{})}
	waiting, failed := g.waiting, make(chan error, 1)
	c := serving(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		go func() {
			_, err := w.(io.ReaderFrom).ReadFrom(g)
			failed <- err
		}()
		<-waiting
	})
	c.Send(get)
	assert.NotContains(t, c.Rest(), "late")
	close(g.open)
	assert.Error(t, <-failed)
}

func TestGoroutinesOfAHandlerCannotTouchOtherRequests(t *testing.T) {
	proxytest.NoLeaks(t)
	var left sync.WaitGroup
	began := make(chan struct{}, 1)
	h := func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path != "/leaves" {
			w.Header().Set("X-Mine", "x")
			io.Copy(w, q.Body)
			return
		}
		for _, late := range []func(){
			func() { w.Write([]byte("late")) },
			func() { w.WriteHeader(500) },
			func() { w.Header() },
			func() { http.NewResponseController(w).Flush() },
			func() { http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0)) },
			func() { http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) },
			func() { q.Body.Read(make([]byte, 1)) },
			func() { q.Body.Close() },
			func() { io.Copy(w, strings.NewReader("late")) },
		} {
			left.Go(func() {
				for range 20 {
					late()
				}
			})
		}
		began <- struct{}{}
	}
	addr := start(t, &serve.Server{Handler: http.HandlerFunc(h)})
	for range 100 {
		leaves, other := proxytest.Dial(t, addr), proxytest.Dial(t, addr)
		leaves.Send("POST /leaves HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nbody")
		for range 5 {
			p := other.Do("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nmine")
			assert.Equal(t, 200, p.StatusCode)
			assert.Equal(t, "mine", string(p.Content))
			assert.Equal(t, "x", p.Header.Get("X-Mine"))
		}
		<-began
		left.Wait()
		leaves.Close()
	}
}

func TestAPanicDoesNotWaitForAClientThatReadsNothing(t *testing.T) {
	proxytest.NoLeaks(t)
	failed, blocks := make(chan error, 1), make(chan struct{})
	c := serving(t, func(w http.ResponseWriter, _ *http.Request) {
		go func() {
			_, err := w.Write(make([]byte, 256<<20))
			failed <- err
		}()
		<-blocks
		panic(http.ErrAbortHandler)
	})
	c.Send(get)
	c.Head()
	close(blocks)
	assert.Error(t, <-failed)
}

func TestRequestsAfterUnreadBodiesAreComplete(t *testing.T) {
	proxytest.NoLeaks(t)
	h := func(w http.ResponseWriter, q *http.Request) {
		n := int64(0)
		if q.URL.Path == "/read" {
			n, _ = io.Copy(io.Discard, q.Body)
		}
		fmt.Fprint(w, q.URL.Path, n)
	}
	addr := start(t, &serve.Server{Handler: http.HandlerFunc(h), MaxHeaderBytes: 64 << 10})
	for _, size := range []int{1, 16000, 16<<10 - 1, 16 << 10, 16<<10 + 1, 32 << 10, 70000} {
		for _, pad := range []int{0, 16<<10 - 100, 16 << 10, 32 << 10} {
			body := strings.Repeat("b", size)
			for _, rest := range []string{
				fmt.Sprintf("Content-Length: %d\r\n\r\n%s", size, body),
				fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", size, body),
				fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\nX-T: %s\r\n\r\n", size, body, strings.Repeat("t", 3000)),
			} {
				rest = " HTTP/1.1\r\nHost: a.test\r\nX-Pad: " + strings.Repeat("p", pad) + "\r\n" + rest
				c := proxytest.Dial(t, addr)
				go c.Conn.Send("POST /none" + rest + "POST /read" + rest + "POST /none" + rest + get)
				for _, want := range []string{"/none0", fmt.Sprint("/read", size), "/none0", "/0"} {
					assert.Equal(t, want, string(c.Response("GET").Content), "%d bytes behind %d", size, pad)
				}
				c.Close()
			}
		}
	}
}
