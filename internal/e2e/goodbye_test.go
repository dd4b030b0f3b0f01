package e2e_test

import (
	"bytes"
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A holding connection collects writes while holds is true.
type holding struct {
	net.Conn
	holds bool
	kept  bytes.Buffer
}

func (h *holding) Write(p []byte) (int, error) {
	if h.holds {
		return h.kept.Write(p)
	}
	return h.Conn.Write(p)
}

// The front loop peeks at the socket to notice a disconnect. After a head that
// crypto/tls has read, the socket may have the rest of a record of the body.
// That can begin with any byte: the first byte of an alert means nothing there.
func TestTheRestOfATLSRecordIsNotTakenForADisconnect(t *testing.T) {
	const alert = 0x15
	b := proxytest.NewBackend(t, good)
	config, roots := proxytest.TLS(t, "a.test")
	r := &hostproxy.Router{}
	r.TLS.Config = config
	u := hostproxy.To(b.Addr())
	arrived := make(doorbell, 1)
	u.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: arrived}
	records := make(chan int, 1)
	r.Observe = func(x *hostproxy.Exchange) { records <- x.Status }
	r.Handle("a.test", u)
	addr := proxytest.Start(t, &hostproxy.Server{Router: r}).HTTPS
	require.NoError(t, u.Pause(time.Minute))
	var c *proxytest.Conn
	var h *holding
	at := -1
	for at < 0 { // until the body's record has that byte where crypto/tls can be made to stop
		nc, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		t.Cleanup(func() { nc.Close() })
		h = &holding{Conn: nc}
		tc := tls.Client(h, &tls.Config{RootCAs: roots, ServerName: "a.test"})
		require.NoError(t, tc.Handshake())
		c, h.holds = proxytest.NewConn(tc), true
		require.NoError(t, c.Send(request("PUT /", "Content-Length: 8000\r\n\r\n")))
		head := h.kept.Len()
		require.NoError(t, c.Send(strings.Repeat("x", 8000)))
		if at = bytes.IndexByte(h.kept.Bytes()[head+5:head+300], alert); at >= 0 {
			at += head + 5
		}
	}
	h.holds = false
	_, err := h.Write(h.kept.Bytes()[:at])
	require.NoError(t, err)
	<-arrived // the head is read, with the first part of the body
	_, err = h.Write(h.kept.Bytes()[at:])
	require.NoError(t, err)
	never(t, "the end of the exchange", func() bool { return len(records) > 0 })
	require.NoError(t, u.Resume())
	a, err := c.ReadResponse("PUT")
	require.NoError(t, err)
	assert.Equal(t, "good 8000", string(a.Content))
}

// Two bytes of data make a TLS record with the length of an alert. A client
// that sends them while its request waits has not disconnected.
func TestTwoBytesOfDataAreNotTakenForADisconnect(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	script := func(c *proxytest.BackendConn) {
		for i := 0; ; i++ {
			q, err := c.ReadRequest()
			if err != nil {
				return
			}
			if i == 1 {
				dawdle(2 * moment) // the sweeper looks more than once
			}
			if c.Send("HTTP/1.1 200 OK\r\n"+sized(string(q.Content))) != nil {
				return
			}
		}
	}
	overLanesAtOnce(t, script, func(t *testing.T, s *site) {
		c := s.dial(t)
		require.NoError(t, s.upstream.Pause(time.Minute))
		c.Send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\n")
		c.Send("{}")
		never(t, "the end of the exchange", func() bool { return s.recorded() > 0 })
		require.NoError(t, s.upstream.Resume())
		p := c.Response("POST")
		assert.Equal(t, 200, p.StatusCode, "a body that came while the request waited")
		assert.Equal(t, "{}", string(p.Content))

		c.Send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello")
		s.backend.WaitRequests(2)
		c.Send("\r\n") // some clients do (RFC 9112, 2.2)
		p = c.Response("POST")
		assert.Equal(t, 200, p.StatusCode, "an empty line while the target thinks")
		assert.Equal(t, "hello", string(p.Content))
		assert.Equal(t, 200, c.Do(get).StatusCode, "the connection goes on")
	})
}
