package proxytest_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestEachFaultModeFailsAsNamed(t *testing.T) {
	b := proxytest.NewBackend(t, proxytest.Reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	f := proxytest.NewFault(t, b.Addr())
	for mode, want := range map[proxytest.FaultMode]string{
		proxytest.Pass:      "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		proxytest.Slow:      "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		proxytest.Refuse:    "refused",
		proxytest.Hang:      "i/o timeout",
		proxytest.Reset:     "reset",
		proxytest.ResetLate: "reset",
		proxytest.Truncate:  "EOF",
		proxytest.Garbage:   "\x16\x03\x01 this is not HTTP\r\n\r\n",
		proxytest.HalfClose: "EOF",
	} {
		failed, cut := f.Harm()
		f.Set(mode)
		c, err := net.Dial("tcp", f.Addr())
		if mode == proxytest.Refuse {
			assert.ErrorContains(t, err, want)
			continue
		}
		require.NoError(t, err)
		_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		require.NoError(t, err)
		_ = c.SetReadDeadline(time.Now().Add(proxytest.Patience))
		buf, n := make([]byte, 100), 0
		if mode == proxytest.Pass || mode == proxytest.Slow {
			n, err = io.ReadFull(c, buf[:len(want)])
			require.NoError(t, err)
		}
		if mode == proxytest.Hang {
			proxytest.Eventually(t, "the request to be taken", func() bool { taken, _ := f.Harm(); return taken > failed })
		}
		if n > 0 || mode == proxytest.Hang {
			// nothing more is expected
			_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		}
		rest, err := io.ReadFull(c, buf[n:])
		n += rest
		got := string(buf[:n])
		if got != want {
			require.Error(t, err, got)
			assert.ErrorContains(t, err, want, "%d", mode)
			assert.Less(t, n, 40)
		}
		nowFailed, nowCut := f.Harm()
		assert.EqualValues(t, map[bool]int{true: 1}[mode != proxytest.Pass && mode != proxytest.Slow], nowFailed-failed, "%d", mode)
		assert.EqualValues(t, map[bool]int{true: 1}[mode == proxytest.ResetLate || mode == proxytest.Truncate], nowCut-cut, "%d", mode)
		c.Close()
	}
}
