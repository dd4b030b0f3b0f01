package neighbours_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// An unwrapper is a middleware's writer with an Unwrap method for
// http.ResponseController.
type unwrapper struct{ http.ResponseWriter }

func (u unwrapper) Unwrap() http.ResponseWriter { return u.ResponseWriter }

func hidden(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { next.ServeHTTP(unwrapper{w}, q) })
}

func TestFullDuplexAnswersWhileTheRequestContinues(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			rc := http.NewResponseController(w)
			if p.protocol != h2 { // HTTP/2 needs no permission
				assert.NoError(t, rc.EnableFullDuplex())
			}
			p := make([]byte, 5)
			for {
				if _, err := io.ReadFull(q.Body, p); err != nil {
					assert.Equal(t, io.EOF, err)
					return
				}
				_, _ = w.Write(p)
				assert.NoError(t, rc.Flush())
			}
		}), hidden)
		body, says := io.Pipe()
		go func() { _, _ = says.Write([]byte("hello")) }()
		resp := s.begin("POST", "/", body)
		assert.Equal(t, "hello", readString(t, resp.Body, 5))
		for _, text := range []string{"again", "and 1", "and 2"} {
			_, err := says.Write([]byte(text))
			require.NoError(t, err)
			assert.Equal(t, text, readString(t, resp.Body, 5))
		}
		require.NoError(t, says.Close())
		rest, err := io.ReadAll(resp.Body)
		assert.NoError(t, err)
		assert.Empty(t, rest)
	})
}

func TestAReadDeadlineEndsAReadOfTheBody(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			assert.NoError(t, http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Millisecond)))
			_, err := io.ReadAll(q.Body)
			assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
			http.Error(w, "too slow", http.StatusRequestTimeout)
		}), hidden)
		body, says := io.Pipe()
		t.Cleanup(func() { says.Close() })
		resp := s.do("POST", "/", body)
		assert.Equal(t, http.StatusRequestTimeout, resp.StatusCode)
		assert.Equal(t, "too slow\n", resp.body)
	})
}

func TestAReadDeadlineThatIsClearedEndsNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		reading := make(chan struct{})
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			rc := http.NewResponseController(w)
			assert.NoError(t, rc.SetReadDeadline(time.Now().Add(time.Hour)))
			assert.NoError(t, rc.SetReadDeadline(time.Time{}))
			close(reading)
			body, err := io.ReadAll(q.Body)
			assert.NoError(t, err)
			_, _ = w.Write(body)
		}))
		body, says := io.Pipe()
		go func() {
			<-reading
			_, _ = io.WriteString(says, "hello")
			says.Close()
		}()
		assert.Equal(t, "hello", s.do("POST", "/", body).body)
	})
}

func TestAWriteDeadlineEndsAWriteThatTheClientDoesNotRead(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		if p == (place{netHTTP, overTLS}) {
			return // it tries for five seconds, within the write, to end TLS properly
		}
		failed := make(chan error, 1)
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
			page := make([]byte, 1<<20)
			for pages := 0; err == nil && pages < 1000; pages++ {
				_, err = w.Write(page)
			}
			failed <- err
		}), hidden)
		c := s.dial()
		c.Send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		assert.ErrorIs(t, await(t, "the error", failed), os.ErrDeadlineExceeded)
		assert.NotContains(t, c.Rest(), "\r\n0\r\n\r\n", "the response does not look complete")
	})
}

func TestAWriteDeadlineInThePastFailsTheResponse(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			rc := http.NewResponseController(w)
			assert.NoError(t, rc.SetWriteDeadline(time.Now().Add(-time.Second)))
			_, err := w.Write(make([]byte, 100_000))
			err = errors.Join(err, rc.Flush())
			if p.protocol != h2 {
				assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
			}
		}))
		assert.Empty(t, s.fails("/"))
	})
}

func TestHijackGivesTheConnectionAndWhatWasRead(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			c, rw, err := http.NewResponseController(w).Hijack()
			if !assert.NoError(t, err) {
				return
			}
			defer c.Close()
			_, err = io.WriteString(w, "not through the writer")
			assert.ErrorIs(t, err, http.ErrHijacked)
			_, _, err = http.NewResponseController(w).Hijack()
			assert.ErrorIs(t, err, http.ErrHijacked)
			fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
			for range 2 {
				line, err := rw.ReadString('\n')
				assert.NoError(t, err)
				fmt.Fprint(rw, strings.ToUpper(line))
				assert.NoError(t, rw.Flush())
			}
			assert.Equal(t, q.Context().Value(http.LocalAddrContextKey), c.LocalAddr())
			assert.Equal(t, q.RemoteAddr, c.RemoteAddr().String())
		}), hidden)
		c := s.dial()
		upgrade(t, c, echoUpgrade+"early\n")
		c.Expect("EARLY\n")
		c.Send("late\n")
		c.Expect("LATE\n")
		assert.Empty(t, c.Rest())
	})
}

func TestHijackLeavesTheBodyUnread(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			c, rw, err := w.(http.Hijacker).Hijack()
			if !assert.NoError(t, err) {
				return
			}
			defer c.Close()
			fmt.Fprint(rw, "you said ", readString(t, rw, 5))
			assert.NoError(t, rw.Flush())
		}))
		c := s.dial()
		c.Send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello")
		assert.Equal(t, "you said hello", c.Rest())
	})
}

func TestHijackClearsDeadlines(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			assert.NoError(t, http.NewResponseController(w).SetWriteDeadline(time.Now().Add(-time.Second)))
			c, rw, err := w.(http.Hijacker).Hijack()
			if !assert.NoError(t, err) {
				return
			}
			defer c.Close()
			_, err = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
			assert.NoError(t, err, "the earlier deadline is cleared")

			assert.NoError(t, c.SetReadDeadline(time.Now().Add(time.Millisecond)))
			_, err = rw.ReadByte()
			assert.ErrorIs(t, err, os.ErrDeadlineExceeded, "the handler's own deadlines hold")
			assert.NoError(t, c.SetReadDeadline(time.Time{}))
			_, err = io.WriteString(c, "go on")
			assert.NoError(t, err)
			_, err = io.WriteString(c, " "+readString(t, c, 5))
			assert.NoError(t, err)
		}))
		c := s.dial()
		upgrade(t, c, echoUpgrade)
		c.Expect("go on")
		c.Send("hello")
		assert.Equal(t, " hello", c.Rest())
	})
}

func TestAHijackedConnectionOutlivesItsHandler(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		echoed := make(chan error, 1)
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			c, rw, err := w.(http.Hijacker).Hijack()
			if !assert.NoError(t, err) {
				return
			}
			fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
			assert.NoError(t, rw.Flush())
			go func() {
				_, err := io.Copy(c, c)
				echoed <- errors.Join(err, c.Close())
			}()
		}))
		c := s.dial()
		upgrade(t, c, echoUpgrade)
		for range 3 {
			c.Send("hello")
			c.Expect("hello")
		}
		require.NoError(t, c.CloseWrite())
		assert.Empty(t, c.Rest())
		assert.NoError(t, await(t, "the echo", echoed))
	})
}

func TestHijackFailsOverHTTP2(t *testing.T) {
	at(t, []string{h2}, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _, err := http.NewResponseController(w).Hijack()
			assert.ErrorIs(t, err, http.ErrNotSupported)
			fmt.Fprint(w, "goes on")
		}))
		assert.Equal(t, "goes on", s.get("/").body)
	})
}

func TestAFlushFailsAfterTheClientHasDisconnected(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		arrived, failed := make(chan struct{}), make(chan error, 1)
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			close(arrived)
			<-q.Context().Done()
			rc := http.NewResponseController(w)
			var err error
			for end := time.Now().Add(proxytest.Patience); err == nil && time.Now().Before(end); {
				_, err = w.Write(make([]byte, 100_000))
				err = errors.Join(err, rc.Flush())
			}
			failed <- err
		}))
		c := s.dial()
		c.Send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		await(t, "the request", arrived)
		require.NoError(t, c.Reset())
		assert.Error(t, await(t, "the error", failed))
	})
}
