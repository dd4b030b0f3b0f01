package e2e_test

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// upload returns an HTTP/1.1 request for that host with a form, whose file is
// too large for a handler that keeps one byte in memory.
func upload(t testing.TB, host string) string {
	t.Helper()
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	part, err := w.CreateFormFile("f", "f")
	require.NoError(t, err)
	_, err = part.Write(bytes.Repeat([]byte("x"), 100))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	q := httptest.NewRequest("POST", "http://"+host+"/", &form)
	q.Header.Set("Content-Type", w.FormDataContentType())
	q.SetBasicAuth("ann", "s3cret")
	var raw bytes.Buffer
	require.NoError(t, q.Write(&raw))
	return raw.String()
}

// The temporary files of a parsed form are removed after the request, although
// the Router and guards give the handler a copy of the Request.
func TestTheFilesOfAFormAreRemovedBehindARoute(t *testing.T) {
	names := make(chan string, 1)
	parses := http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		if q.Method != "POST" || !assert.NoError(t, q.ParseMultipartForm(1)) {
			return
		}
		f, err := q.MultipartForm.File["f"][0].Open()
		if assert.NoError(t, err) {
			defer f.Close()
			names <- f.(*os.File).Name()
		}
	})
	for name, set := range map[string]setting{
		"without more":                func(*site) {},
		"that numbers requests":       func(s *site) { s.router.RequestID.Name = "X-Request-Id" },
		"that changes requests first": func(s *site) { s.router.Begin = func(b *hostproxy.Beginning) { b.SetHeader("X-A", "1") } },
	} {
		t.Run(name, func(t *testing.T) {
			overEachLane(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				users := map[string]string{"ann": "$2a$04$XJA8TtU92Od1ueJuFz4XxeHjWyuDL7J8.qtbJFtRXvb2UTzDZ2lN2"}
				guarded := &hostproxy.BasicAuth{Users: users, UserHeader: "X-User", Next: parses}
				s.router.Handle("b.test", parses)
				s.router.Handle("c.test", guarded)
				s.router.Handle("d.test", &hostproxy.ForwardAuth{Auth: s.upstream, Next: guarded})
				c := s.dial(t)
				for _, host := range []string{"b.test", "c.test", "d.test"} {
					assert.Equal(t, 200, c.Do(upload(t, host)).StatusCode, host)
					c.Do(get) // after everything that the server does for the first request
					_, err := os.Stat(<-names)
					assert.ErrorIs(t, err, os.ErrNotExist, host)
				}
			}, set)
		})
	}
}
