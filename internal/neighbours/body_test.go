package neighbours_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestContinueIsSentOnTheFirstRead(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		arrived, read := make(chan struct{}), make(chan struct{})
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/no" {
				http.Error(w, "no", http.StatusUnauthorized)
				return
			}
			close(arrived)
			hold(q, read)
			body, err := io.ReadAll(q.Body)
			assert.NoError(t, err)
			_, _ = w.Write(body)
		}))
		c := s.dial()
		c.Send("POST /yes HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
		await(t, "the request", arrived)
		close(read)
		c.Expect("HTTP/1.1 100 Continue\r\n\r\n")
		c.Send("hello")
		resp := c.Response("POST")
		assert.Equal(t, 200, resp.StatusCode)
		assert.Equal(t, "hello", string(resp.Content))

		c.Send("POST /no HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
		refused := c.Response("POST")
		assert.Equal(t, 401, refused.StatusCode, "without a 100 before it")
		assert.True(t, refused.Close, "a body may follow or not")
	})
}

func TestHandlersReadTrailers(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			assert.Equal(t, http.Header{"X-Sum": nil}, q.Trailer, "before the end of the body")
			body, err := io.ReadAll(q.Body)
			assert.NoError(t, err)
			fmt.Fprint(w, string(body), " ", q.Trailer)
		}))
		q := s.request("POST", "/", io.NopCloser(strings.NewReader("body")))
		q.Trailer = http.Header{"X-Sum": {"1"}}
		resp, err := s.client.Do(q)
		require.NoError(t, err)
		defer resp.Body.Close()
		assert.Equal(t, "body map[X-Sum:[1]]", readString(t, resp.Body, len("body map[X-Sum:[1]]")))
	})
}

func TestABodyIsNotReadAfterItsEnd(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		bodies := make(chan io.ReadCloser, 1)
		s := p.serve(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/closed" {
				assert.NoError(t, q.Body.Close())
				_, err := q.Body.Read(make([]byte, 1))
				assert.ErrorIs(t, err, http.ErrBodyReadAfterClose)
			}
			bodies <- q.Body
		}))
		for _, path := range []string{"/closed", "/left"} {
			s.do("POST", path, strings.NewReader("hello"))
			body := await(t, "the body", bodies)
			proxytest.Eventually(t, "the body to be closed", func() bool {
				_, err := body.Read(make([]byte, 1))
				return errors.Is(err, http.ErrBodyReadAfterClose)
			})
		}
	})
}

func TestARequestWithoutABodyHasNoBody(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
			assert.Equal(t, http.NoBody, q.Body)
			assert.Zero(t, q.ContentLength)
		}))
		c := s.dial()
		assert.Equal(t, 200, c.Do("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").StatusCode)
		assert.Equal(t, 200, c.Do("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").StatusCode)
	})
}

func TestATruncatedBodyIsAnError(t *testing.T) {
	for about, raw := range map[string]string{
		"of known length": "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhello",
		"in chunks":       "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"within a chunk":  "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhello",
	} {
		t.Run(about, func(t *testing.T) {
			overHTTP1(t, func(t *testing.T, p place) {
				read := make(chan error, 1)
				s := p.serve(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
					body, err := io.ReadAll(q.Body)
					assert.Equal(t, "hello", string(body))
					read <- err
				}))
				c := s.dial()
				c.Send(raw)
				require.NoError(t, c.CloseWrite())
				assert.ErrorIs(t, await(t, "the error", read), io.ErrUnexpectedEOF)
				c.Rest()
			})
		})
	}
}

func TestAShortBodyThatIsNotReadKeepsTheConnection(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, q.Method) }))
		c := s.dial()
		for range 2 {
			assert.Equal(t, "POST", string(c.Do("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"+strings.Repeat("x", 1000)).Content))
			assert.Equal(t, "PUT", string(c.Do("PUT / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").Content))
			assert.Equal(t, "GET", string(c.Do("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").Content))
		}
	})
}

func TestALongBodyThatIsNotReadIsAnsweredAndClosed(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }))
		c := s.dial()
		resp := c.Do("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n" + strings.Repeat("x", 1000))
		assert.Equal(t, 403, resp.StatusCode)
		assert.True(t, resp.Close)
		assert.Empty(t, c.Rest())
	})
}

// tooLarge answers 413 if its body is too large.
func tooLarge(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if large := new(http.MaxBytesError); errors.As(err, &large) {
		http.Error(w, fmt.Sprint("more than ", large.Limit), http.StatusRequestEntityTooLarge)
		return
	}
	_, _ = w.Write(body)
}

func TestMaxBytesHandlerRefusesLargeBodies(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.MaxBytesHandler(http.HandlerFunc(tooLarge), 10))
		assert.Equal(t, "0123456789", s.do("POST", "/", strings.NewReader("0123456789")).body)
		// head and body in one write, because the server closes early
		for _, size := range []int{11, 2000} {
			resp := s.do("POST", "/", strings.NewReader(strings.Repeat("x", size)))
			assert.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
			assert.Equal(t, "more than 10\n", resp.body)
			// Over HTTP/2, only the stream ends.
			assert.Equal(t, p.protocol != h2 && !p.deviates(maxBytesKeepsConnections), resp.Close)
		}
	})
}

func TestMaxBytesHandlerClosesTheConnectionBeforeALongRest(t *testing.T) {
	overHTTP1(t, func(t *testing.T, p place) {
		s := p.serve(t, http.MaxBytesHandler(http.HandlerFunc(tooLarge), 10))
		c := s.dial()
		resp := c.Do("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\nhello hello")
		assert.Equal(t, 413, resp.StatusCode)
		assert.True(t, resp.Close)
		assert.Empty(t, c.Rest(), "it does not wait for ten megabytes")
	})
}

func TestFormsAreParsed(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			assert.NoError(t, q.ParseForm())
			fmt.Fprint(w, q.Form.Encode(), " ", q.PostForm.Encode())
		}))
		form := strings.NewReader(url.Values{"b": {"2 3"}}.Encode())
		assert.Equal(t, "a=1&b=2+3 b=2+3", s.do("POST", "/?a=1", form, "Content-Type", "application/x-www-form-urlencoded").body)
	})
}

// filesBelow returns the names of the files in dir.
func filesBelow(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	return names
}

func TestTheFilesOfAFormAreRemoved(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		tmp := t.TempDir()
		t.Setenv("TMPDIR", tmp)
		opened := make(chan multipart.File, 1)
		s := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.Method == http.MethodGet {
				return
			}
			assert.NoError(t, q.ParseMultipartForm(1))
			assert.Len(t, filesBelow(t, tmp), 1, "the part beyond the memory limit is in a file")
			f, header, err := q.FormFile("file")
			assert.NoError(t, err)
			_, onDisk := f.(*os.File)
			assert.True(t, onDisk)
			fmt.Fprint(w, header.Filename, " ", header.Size, " ", q.FormValue("text"))
			opened <- f
		}))
		var form bytes.Buffer
		parts := multipart.NewWriter(&form)
		require.NoError(t, parts.WriteField("text", "hello"))
		part, err := parts.CreateFormFile("file", "a.bin")
		require.NoError(t, err)
		_, err = part.Write(make([]byte, 11<<20)) // 10 MiB and one byte are kept in memory
		require.NoError(t, err)
		require.NoError(t, parts.Close())
		assert.Equal(t, "a.bin 11534336 hello", s.do("POST", "/", &form, "Content-Type", parts.FormDataContentType()).body)
		require.NoError(t, (<-opened).Close())
		proxytest.Eventually(t, "the removal of the file", func() bool { return len(filesBelow(t, tmp)) == 0 })
	})
}
