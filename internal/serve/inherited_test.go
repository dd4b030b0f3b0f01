package serve_test

import (
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/serve"
)

// An at is a listener with that address.
type at struct {
	net.Listener
	addr net.Addr
}

func (l at) Addr() net.Addr { return l.addr }

func TestAnInheritedSocketIsComparedWithItsListener(t *testing.T) {
	tcp := func(s string) net.Addr {
		a, err := net.ResolveTCPAddr("tcp", s)
		require.NoError(t, err)
		return a
	}
	for _, tt := range []struct {
		addr string
		has  net.Addr
		same bool
	}{
		{":8080", tcp("[::]:8080"), true},
		{":8080", tcp("0.0.0.0:8080"), true},
		{"0.0.0.0:8080", tcp("[::]:8080"), true},
		{":http", tcp("[::]:80"), true},
		{":0", tcp("[::]:8080"), true},
		{"localhost:8080", tcp("127.0.0.1:8080"), true},
		{"127.0.0.1:8080", tcp("127.0.0.1:8080"), true},
		{"[::1]:8080", tcp("[::1]:8080"), true},
		{"unix:/run/a", &net.UnixAddr{Name: "/run/a", Net: "unix"}, true},
		{":8080", tcp("[::]:8081"), false},
		{":8080", tcp("127.0.0.1:8080"), false},
		{"127.0.0.1:8080", tcp("[::]:8080"), false},
		{"127.0.0.1:8080", tcp("127.0.0.2:8080"), false},
		{"localhost:8080", tcp("127.0.0.1:8081"), false},
		{":8080", &net.UnixAddr{Name: "/run/a", Net: "unix"}, false},
		{"unix:/run/a", &net.UnixAddr{Name: "/run/b", Net: "unix"}, false},
		{"unix:/run/a", tcp("[::]:8080"), false},
		{"8080", tcp("[::]:8080"), false},
		{":no-such-service", tcp("[::]:8080"), false},
	} {
		e := &serve.Entrance{Addr: tt.addr}
		assert.Equal(t, tt.same, e.Differs(at{addr: tt.has}) == "", "%s at %s", tt.addr, tt.has)
	}
}

func TestTheModeOfAnInheritedSocketIsComparedToo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := serve.ListenUnix(path, 0o600)
	require.NoError(t, err)
	defer ln.Close()
	assert.Empty(t, (&serve.Entrance{Addr: "unix:" + path}).Differs(ln))
	assert.Empty(t, (&serve.Entrance{Addr: "unix:" + path, Mode: 0o600}).Differs(ln))
	assert.Equal(t, "its file has mode 0600, and Mode is 0660", (&serve.Entrance{Addr: "unix:" + path, Mode: 0o660}).Differs(ln))
	assert.Equal(t, `it listens on "unix:`+path+`", and Addr is ":80"`, (&serve.Entrance{Addr: ":80"}).Differs(ln))
	other := proxytest.Listen(t)
	assert.Contains(t, (&serve.Entrance{Addr: "unix:" + path}).Differs(other), `it listens on "127.0.0.1:`)
}
