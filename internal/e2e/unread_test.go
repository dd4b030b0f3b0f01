package e2e_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// largeUpload is more than the sockets and windows on the way to a target hold.
const largeUpload = 16 << 20

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
	s.upstream.IdleTimeout, s.upstream.ResponseHeaderTimeout = patient, -1
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
