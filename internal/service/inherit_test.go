//go:build unix && !portable

package service_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/service"
)

// filed returns the file of a socket, for os/exec.
func filed(t *testing.T, s interface{ File() (*os.File, error) }) *os.File {
	t.Helper()
	f, err := s.File()
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// inherits returns the output of a process that inherits the files, with these
// environment variables.
func inherits(t *testing.T, env string, files ...*os.File) string {
	t.Helper()
	cmd := program(t, "list")
	cmd.Env = append(cmd.Env, strings.Fields(env)...)
	cmd.ExtraFiles = files
	out, err := cmd.CombinedOutput()
	require.NoError(t, err)
	return string(out)
}

func TestInheritedSocketsAreFoundByName(t *testing.T) {
	a, b := proxytest.Listen(t), proxytest.Listen(t)
	files := []*os.File{filed(t, a.(*net.TCPListener)), filed(t, b.(*net.TCPListener))}
	out := inherits(t, "LISTEN_PID=mine LISTEN_FDS=2 LISTEN_FDNAMES=web:web", files...)
	assert.Equal(t, "web "+a.Addr().String()+"\nweb "+b.Addr().String()+"\nweb: no socket \"web\" was inherited: all sockets are in use\n", out,
		"one after the other, and no variable is left")
	out = inherits(t, "LISTEN_PID=mine LISTEN_FDS=2 LISTEN_FDNAMES=admin:web", files...)
	assert.Equal(t, "web "+b.Addr().String()+"\nweb: no socket \"web\" was inherited: want \"admin\"\n"+
		"api: permission denied; no socket \"api\" was inherited, but \"admin\"\n"+
		"close: inherited sockets that the program does not use: \"admin\": use them by Server.Sockets or Sockets.Listen, or remove them from the socket unit\n", out)
}

func TestAHostileEnvironmentIsRefused(t *testing.T) {
	ln := proxytest.Listen(t)
	good := filed(t, ln.(*net.TCPListener))
	datagram, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer datagram.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	plain, err := os.Create(filepath.Join(t.TempDir(), "file"))
	require.NoError(t, err)
	defer plain.Close()
	unlistened, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	bound := os.NewFile(uintptr(unlistened), "socket")
	defer bound.Close()
	for _, tt := range []struct {
		about, env string
		file       *os.File
		want       string
	}{
		{"nothing", "", nil, `web: no socket "web" was inherited: LISTEN_FDS is not set`},
		{"no sockets", "LISTEN_FDS=0", nil, `web: no socket "web" was inherited: LISTEN_FDS is not set`},
		{"too many", "LISTEN_PID=mine LISTEN_FDS=999999", good, `error: LISTEN_FDS is "999999": want a number from 1 to 1024`},
		{"more than there are", "LISTEN_PID=mine LISTEN_FDS=900", good, `error: LISTEN_FDS is 900: file descriptor 4, "unknown": is not`},
		{"a negative number", "LISTEN_PID=mine LISTEN_FDS=-1", good, `error: LISTEN_FDS is "-1": want a number`},
		{"no number", "LISTEN_PID=mine LISTEN_FDS=x", good, `error: LISTEN_FDS is "x": want a number`},
		{"a number that overflows", "LISTEN_PID=mine LISTEN_FDS=18446744073709551617", good, `error: LISTEN_FDS is "18446744073709551617": want`},
		{"no number of sockets", "LISTEN_PID=mine", good, `error: LISTEN_FDS is "": want a number`},
		{"another process", "LISTEN_PID=1 LISTEN_FDS=1", good, `web: no socket "web" was inherited: LISTEN_PID is 1, but this process is `},
		{"no process", "LISTEN_PID=x LISTEN_FDS=1", good, `error: LISTEN_PID is "x": want the number of a process`},
		{"no process at all", "LISTEN_FDS=1", good, `error: LISTEN_PID is "": want the number of a process`},
		{"too few names", "LISTEN_PID=mine LISTEN_FDS=1 LISTEN_FDNAMES=a:web", good, `error: LISTEN_FDNAMES is "a:web", which has 2 names: want as many as LISTEN_FDS says, 1`},
		{"no names", "LISTEN_PID=mine LISTEN_FDS=1", good, `web: no socket "web" was inherited: want "unknown"`},
		{"a file", "LISTEN_PID=mine LISTEN_FDS=1 LISTEN_FDNAMES=web", plain, `error: LISTEN_FDS is 1: file descriptor 3, "web": is not a socket`},
		{"a closed one", "LISTEN_PID=mine LISTEN_FDS=1 LISTEN_FDNAMES=web", nil, `error: LISTEN_FDS is 1: file descriptor 3, "web": is not `},
		{"a datagram socket", "LISTEN_PID=mine LISTEN_FDS=1 LISTEN_FDNAMES=web", filed(t, datagram.(*net.UDPConn)), `web: the inherited socket "web" (file descriptor 3) is a datagram socket: want`},
		{"a connection", "LISTEN_PID=mine LISTEN_FDS=1 LISTEN_FDNAMES=web", filed(t, c.(*net.TCPConn)), `web: the inherited socket "web" (file descriptor 3) is a connection`},
		{"one that does not listen", "LISTEN_PID=mine LISTEN_FDS=1 LISTEN_FDNAMES=web", bound, `is a connection or a socket that does not listen: want`},
		{"a hand-over by another process", "HOSTPROXY_HANDOVER=1 LISTEN_FDS=1", good, `web: no socket "web" was inherited: HOSTPROXY_HANDOVER is "1", but`},
	} {
		t.Run(tt.about, func(t *testing.T) {
			var files []*os.File
			if tt.file != nil {
				files = append(files, tt.file)
			}
			out := inherits(t, tt.env, files...)
			assert.Contains(t, out, tt.want)
			assert.NotContains(t, out, "left:", "no child sees the variables")
		})
	}
	t.Run("nothing is lost", func(t *testing.T) {
		c, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		c.Close()
	})
}

func TestListenOpensWhatWasNotInherited(t *testing.T) {
	var none service.Sockets
	opens := func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }
	ln, err := none.Listen("web", opens)
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	_, err = none.Listen("a:b", opens)
	assert.ErrorContains(t, err, `socket name "a:b": want one or more characters other than a colon`)
	_, err = none.Listen("web", func() (net.Listener, error) { return nil, os.ErrPermission })
	assert.Equal(t, os.ErrPermission, err)
	assert.NoError(t, none.Close())
}
