package e2e_test

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// served reports whether a new connection gets a response. Otherwise it must be
// closed without a byte.
func (k *track) served(t *testing.T) bool {
	t.Helper()
	c, err := k.dial()
	require.NoError(t, err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(proxytest.Patience))
	_ = c.Send(get) // fails if the connection is closed already
	head, err := c.ReadHead()
	var late net.Error
	require.False(t, errors.As(err, &late) && late.Timeout(), "the connection stays open")
	if err != nil {
		assert.Empty(t, head)
		return false
	}
	return true
}

func TestConnectionsAboveTheBoundAreClosedAtOnce(t *testing.T) {
	const most = 3
	s := shape{tune: func(s *hostproxy.Server) { s.MaxConns = most }}
	overFronts(t, s, func(t *testing.T, k *track) {
		k.mirror.answer.Store(&answer{raw: ok})
		var open []*proxytest.Conn
		for range most {
			c := k.connect(t)
			require.NoError(t, c.Send(get))
			_, err := c.ReadResponse("GET")
			require.NoError(t, err)
			open = append(open, c)
		}
		for range 2 * most { // closed connections do not count
			assert.False(t, k.served(t))
		}
		if k.tls != nil {
			assert.Equal(t, 308, proxytest.Dial(t, k.running.Plain).Do(get).StatusCode, "the other listener has a bound of its own")
		}
		for _, c := range open[1:] {
			require.NoError(t, c.Send(get), "the others go on")
			_, err := c.ReadResponse("GET")
			require.NoError(t, err)
		}
		open[0].Close()
		proxytest.Eventually(t, "room", func() bool { return k.served(t) })
	})
}

// stall begins a handshake, and stops after the server's first bytes.
func (k *track) stall(t *testing.T) net.Conn {
	t.Helper()
	raw, err := net.Dial("tcp", k.addr)
	require.NoError(t, err)
	t.Cleanup(func() { raw.Close() })
	_, err = raw.Write(helloOf(t, k.tls))
	require.NoError(t, err)
	_ = raw.SetDeadline(time.Now().Add(proxytest.Patience))
	_, err = io.ReadFull(raw, make([]byte, 5))
	require.NoError(t, err)
	return raw
}

func TestHandshakesAboveTheBoundWait(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		timeout time.Duration
		end     func(stalled net.Conn) // nil waits for the timeout
	}{
		{"until one ends", 0, func(stalled net.Conn) { stalled.Close() }},
		{"until one has had its time", 3 * patient, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k := newFast(t, shape{secure: true, tune: func(s *hostproxy.Server) { s.MaxHandshakes, s.HandshakeTimeout = 1, tt.timeout }})
			k.mirror.answer.Store(&answer{raw: ok})
			before := k.connect(t) // a connection does not count after its handshake
			require.NoError(t, before.Send(get))
			_, err := before.ReadResponse("GET")
			require.NoError(t, err)

			began := time.Now()
			stalled := k.stall(t)
			dawdle(tt.timeout / 2) // so that the time of the next one ends later
			answered := make(chan error, 1)
			c := k.connect(t)
			go func() {
				_ = c.Send(get)
				_, err := c.ReadResponse("GET")
				answered <- err
			}()
			require.NoError(t, before.Send(get), "those of before are served meanwhile")
			_, err = before.ReadResponse("GET")
			require.NoError(t, err)
			if tt.end != nil {
				never(t, "an answer without a wait", func() bool { return len(answered) > 0 })
				tt.end(stalled)
			}
			assert.NoError(t, <-answered)
			assert.GreaterOrEqual(t, time.Since(began), tt.timeout, "it waited")
		})
	}
}
