package e2e_test

import (
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A faultyBody is a body whose Read or Close misbehaves.
type faultyBody struct {
	io.Reader
	read, close func()
	more        int // surplus in the count of Read
}

func (b *faultyBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		b.read()
	}
	return n + b.more, err
}

func (b *faultyBody) Close() error {
	b.close()
	return nil
}

func TestABufferedResponseWhoseBodyMisbehavesFailsAlone(t *testing.T) {
	nothing := func() {}
	for name, body := range map[string]faultyBody{
		"Read panics":              {read: func() { panic("no") }, close: nothing},
		"Read ends its goroutine":  {read: runtime.Goexit, close: nothing},
		"Close panics":             {read: nothing, close: func() { panic("no") }},
		"Close ends its goroutine": {read: nothing, close: runtime.Goexit},
		"Read counts too much":     {read: nothing, close: nothing, more: 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			overOurLanes(t, proxytest.Reply(ok), func(t *testing.T, s *site) {
				c := s.dial(t)
				require.NoError(t, c.Conn.Send("GET /faulty HTTP/1.1\r\n"+host+"\r\n"))
				a, err := c.ReadResponse("GET")
				if err == nil { // the fault came after the end
					assert.Equal(t, "some", string(a.Content))
				}
				if x := s.record(t, 1); strings.HasPrefix(name, "Read") {
					var failure *hostproxy.Error
					assert.ErrorAs(t, x.Err, &failure)
				}
				assert.Equal(t, "ok", string(s.dial(t).Do(get).Content))
				noneInFlight(t, s.upstream)
			}, buffering(0, 1<<20), func(s *site) {
				s.upstream.ModifyResponse = func(res *http.Response) error {
					if res.Request.URL.Path == "/faulty" {
						res.Body.Close()
						b := body
						b.Reader = strings.NewReader("some")
						res.Body, res.ContentLength = &b, -1
						res.Header.Del("Content-Length")
					}
					return nil
				}
			})
		})
	}
}
