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
	stuck := func(c *proxytest.BackendConn) { c.Wait(nil) }
	overLanesAtOnce(t, stuck, givesUp, impatientWithUploads)
}

func impatientWithUploads(s *site) {
	s.upstream.IdleTimeout, s.upstream.ResponseHeaderTimeout = 4*moment, -1
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

// That holds for targets that the built-in HTTP/1.1 client does not serve: a
// target over HTTP/2 whose window is used up, and a Transport that does not
// read the body.
func TestATargetBehindAnotherClientThatStopsReadingIsGivenUp(t *testing.T) {
	stuck := make(chan struct{})
	backend := proxytest.NewH2CServer(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		_, _ = io.ReadFull(q.Body, make([]byte, 1000))
		<-stuck
	}))
	t.Cleanup(func() { close(stuck) })
	for name, change := range map[string]func(*hostproxy.Upstream){
		"h2c": func(u *hostproxy.Upstream) { u.Targets = hostproxy.To("h2c://" + backend.Addr()).Targets },
		"Transport": func(u *hostproxy.Upstream) {
			u.Transport = tripper(func(q *http.Request) (*http.Response, error) {
				<-q.Context().Done()
				return nil, q.Context().Err()
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			overLanesAtOnce(t, nil, givesUp, impatientWithUploads, func(s *site) { change(s.upstream) })
		})
	}
}

// A target over HTTP/2 may read more than HTTP/2 shows within IdleTimeout, but
// not less than 32 KiB.
func TestATargetOverHTTP2MayReadSlowly(t *testing.T) {
	const piece = 16 << 10
	backend := proxytest.NewH2CServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		page := make([]byte, piece)
		for start := time.Now(); time.Since(start) < 3*patient; dawdle(patient / 10) {
			_, _ = io.ReadFull(q.Body, page)
		}
		n, err := io.Copy(io.Discard, q.Body)
		fmt.Fprint(w, n > 0, err)
	}))
	overLanesAtOnce(t, nil, func(t *testing.T, s *site) {
		assert.Equal(t, "true <nil>", string(s.uploads(t).Response("PUT").Content))
	}, func(s *site) {
		s.upstream.IdleTimeout = patient
		s.upstream.Targets = hostproxy.To("h2c://" + backend.Addr()).Targets
	})
}

// A target over HTTP/2 may respond, and then neither read nor write. Its
// exchange ends after IdleTimeout.
func TestATargetOverHTTP2ThatStopsAfterItsHeadIsCutOff(t *testing.T) {
	stuck := make(chan struct{})
	backend := proxytest.NewH2CServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		<-stuck
	}))
	t.Cleanup(func() { close(stuck) })
	overLanesAtOnce(t, nil, func(t *testing.T, s *site) {
		c := s.uploads(t)
		assert.Contains(t, c.Head(), " 200 ")
		x := s.record(t, 1)
		var e *hostproxy.Error
		require.ErrorAs(t, x.Err, &e)
		assert.Equal(t, "copy", e.Op)
		assert.Equal(t, hostproxy.SideUpstream, e.Side)
	}, impatientWithUploads, func(s *site) {
		s.upstream.Targets = hostproxy.To("h2c://" + backend.Addr()).Targets
	})
}
