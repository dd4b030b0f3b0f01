package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// largeUpload is more than the sockets and windows on the way to a target hold.
const largeUpload = 8 << 20

// uploads sends an upload on a new connection, and returns the connection.
func (s *site) uploads(t *testing.T) *proxytest.Client {
	c := s.dial(t)
	go func() { _ = c.Conn.Send(request("PUT /", sized(strings.Repeat("x", largeUpload)))) }()
	return c
}

// IdleTimeout limits how long a target takes nothing of an upload.
// ResponseHeaderTimeout begins only after the upload.
func TestATargetThatStopsReadingAnUploadIsGivenUpAfterTheIdleTimeout(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	stuck := func(c *proxytest.BackendConn) { c.Wait(nil) }
	overLanesAtOnce(t, stuck, givesUp, impatientWithUploads)
}

func impatientWithUploads(s *site) {
	s.upstream.IdleTimeout, s.upstream.ResponseHeaderTimeout = 8*moment, -1
}

// givesUp expects that an upload fails because of its target.
func givesUp(t *testing.T, s *site) {
	s.uploads(t)
	x := s.record(t, 1)
	assert.Equal(t, 504, x.Status)
	var e *hostproxy.Error
	require.ErrorAs(t, x.Err, &e)
	assert.Equal(t, "write", e.Op)
	assert.Equal(t, hostproxy.SideUpstream, e.Side)
}

// overLanesTo runs check over each lane to a target over HTTP/2. Connections
// may be in use for a moment longer than the exchange, and would then outlive
// the test.
func overLanesTo(t *testing.T, target *proxytest.Server, check func(*testing.T, *site), settings ...setting) {
	t.Helper()
	overLanesAtOnce(t, nil, check, append(settings, func(s *site) { s.upstream.Targets = hostproxy.To("h2c://" + target.Addr()).Targets })...)
	t.Cleanup(target.CloseClientConnections)
}

// That holds for targets that the built-in HTTP/1.1 client does not serve: a
// target over HTTP/2 whose window is used up, and a Transport that does not
// read the body.
func TestATargetBehindAnotherClientThatStopsReadingIsGivenUp(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	backend := proxytest.NewH2CServer(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		_, _ = io.ReadFull(q.Body, make([]byte, 1000))
		<-q.Context().Done()
	}))
	for name, change := range map[string]func(*hostproxy.Upstream){
		"h2c": func(*hostproxy.Upstream) {},
		"Transport": func(u *hostproxy.Upstream) {
			u.Transport = tripper(func(q *http.Request) (*http.Response, error) {
				<-q.Context().Done()
				return nil, q.Context().Err()
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			overLanesTo(t, backend, givesUp, impatientWithUploads, func(s *site) { change(s.upstream) })
		})
	}
}

// A target over HTTP/2 may read more than HTTP/2 shows within IdleTimeout, but
// not less than 32 KiB.
func TestATargetOverHTTP2MayReadSlowly(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	const piece, idle = 16 << 10, 6 * moment
	backend := proxytest.NewH2CServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		page := make([]byte, piece)
		for start := time.Now(); time.Since(start) < 3*idle; dawdle(idle / 12) {
			_, _ = io.ReadFull(q.Body, page)
		}
		n, err := io.Copy(io.Discard, q.Body)
		fmt.Fprint(w, n > 0, err)
	}))
	overLanesTo(t, backend, func(t *testing.T, s *site) {
		assert.Equal(t, "true <nil>", string(s.uploads(t).Response("PUT").Content))
	}, func(s *site) { s.upstream.IdleTimeout = idle })
}

// A target over HTTP/2 may respond, and then neither read nor write. Its
// exchange ends after IdleTimeout.
func TestATargetOverHTTP2ThatStopsAfterItsHeadIsCutOff(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	backend := proxytest.NewH2CServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.(http.Flusher).Flush()
		<-q.Context().Done()
	}))
	overLanesTo(t, backend, func(t *testing.T, s *site) {
		c := s.uploads(t)
		assert.Contains(t, c.Head(), " 200 ")
		x := s.record(t, 1)
		var e *hostproxy.Error
		require.ErrorAs(t, x.Err, &e)
		assert.Equal(t, "copy", e.Op)
		assert.Equal(t, hostproxy.SideUpstream, e.Side)
	}, impatientWithUploads)
}
