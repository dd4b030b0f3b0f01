//go:build unix

package main

import (
	"crypto/x509"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// programEnv is set in a process that runs the program.
const programEnv = "HOSTPROXY_TEST_SERVICE"

func TestMain(m *testing.M) {
	if _, ok := os.LookupEnv(programEnv); ok {
		// a service manager knows the process ID in advance; a test does not
		if os.Getenv("LISTEN_PID") == "mine" {
			os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
		}
		main()
		return
	}
	proxytest.Main(m)
}

// A unit is the program with two sockets, and the service manager's notify
// socket. It serves app.localhost.
type unit struct {
	https, plain string
	data         string // directory of the program's files
	first        *exec.Cmd
	manager      *net.UnixConn
	log          *proxytest.Log
	over         chan struct{} // closed when the last process has ended
}

// activate starts the program as a service manager does, with a route to
// target, and waits until it is ready.
func activate(t *testing.T, target string, args ...string) *unit {
	t.Helper()
	u := &unit{data: t.TempDir(), log: new(proxytest.Log), over: make(chan struct{})}
	name := filepath.Join(u.data, "notify")
	var err error
	u.manager, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { u.manager.Close() })

	require.NoError(t, os.Symlink(os.Args[0], u.program()))
	u.first = exec.Command(u.program(), append(args, "app.localhost="+target)...)
	u.first.Env = append(os.Environ(), programEnv+"=1", "XDG_DATA_HOME="+u.data, "NOTIFY_SOCKET="+name, "WATCHDOG_USEC=2000000",
		"LISTEN_PID=mine", "LISTEN_FDS=2", "LISTEN_FDNAMES=https:http")
	for _, addr := range []*string{&u.https, &u.plain} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		*addr = ln.Addr().String()
		f, err := ln.(*net.TCPListener).File()
		require.NoError(t, err)
		u.first.ExtraFiles = append(u.first.ExtraFiles, f)
		defer f.Close() // afterwards, only the program holds the sockets
		defer ln.Close()
	}
	r, w, err := os.Pipe()
	require.NoError(t, err)
	u.first.Stdout, u.first.Stderr = w, w
	require.NoError(t, u.first.Start())
	w.Close()
	go func() {
		defer close(u.over)
		defer r.Close()
		_, _ = r.WriteTo(u.log) // all processes share the pipe
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(u.log)
		}
	})
	u.await(t, "READY=1")
	return u
}

// program returns where the program is installed.
func (u *unit) program() string { return filepath.Join(u.data, "hostproxy") }

// await returns the first state that contains text. It skips watchdog and
// reload messages.
func (u *unit) await(t *testing.T, text string) string {
	t.Helper()
	b := make([]byte, 4096)
	for {
		_ = u.manager.SetReadDeadline(time.Now().Add(2 * proxytest.Patience))
		n, err := u.manager.Read(b)
		require.NoError(t, err, "waiting for %s: %s", text, u.log)
		if said := string(b[:n]); strings.Contains(said, text) {
			return said
		} else if said != "WATCHDOG=1" && !strings.HasPrefix(said, "RELOADING=1\nMONOTONIC_USEC=") {
			require.Fail(t, "unexpected state", "%q, waiting for %s: %s", said, text, u.log)
		}
	}
}

// reload makes process pid hand over, and returns the new process's ID.
func (u *unit) reload(t *testing.T, pid int) int {
	t.Helper()
	require.NoError(t, syscall.Kill(pid, syscall.SIGHUP))
	line, _, _ := strings.Cut(u.await(t, "MAINPID="), "\n")
	next, err := strconv.Atoi(strings.TrimPrefix(line, "MAINPID="))
	require.NoError(t, err)
	t.Cleanup(func() {
		select {
		case <-u.over:
		default:
			_ = syscall.Kill(next, syscall.SIGKILL) // started by this test, and still running
		}
	})
	return next
}

// roots returns the root of the program's own authority. It waits until there
// is one.
func (u *unit) roots(t *testing.T) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	proxytest.Eventually(t, "the root certificate", func() bool {
		text, err := os.ReadFile(filepath.Join(u.data, "certmagic", "localca", "root.crt"))
		return err == nil && pool.AppendCertsFromPEM(text)
	})
	return pool
}

// end stops the process that serves, and waits until no process is left.
func (u *unit) end(t *testing.T, pid int) {
	t.Helper()
	require.NoError(t, syscall.Kill(pid, syscall.SIGTERM))
	u.await(t, "STOPPING=1")
	select {
	case <-u.over:
	case <-t.Context().Done():
	}
}

func TestTheServiceIsActivatedByItsSockets(t *testing.T) {
	t.Parallel()
	backend := proxytest.NewServer(t, nil)
	u := activate(t, backend.Addr())
	client := proxytest.HTTPClient(t, u.https, u.roots(t), "h2")
	p, err := client.Get("https://app.localhost/")
	require.NoError(t, err)
	p.Body.Close()
	assert.Equal(t, 200, p.StatusCode)
	plain := proxytest.Dial(t, u.plain)
	assert.Equal(t, 308, plain.Do("GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n").StatusCode)
	u.await(t, "WATCHDOG=1")
	client.CloseIdleConnections()
	u.end(t, u.first.Process.Pid)
	assert.NoError(t, u.first.Wait())
}

func TestAFailedHandOverIsLoggedAndReportedToSystemd(t *testing.T) {
	u := activate(t, proxytest.NewServer(t, nil).Addr())
	require.NoError(t, os.Remove(u.program()))
	require.NoError(t, os.WriteFile(u.program(), []byte("#!/bin/sh\nexit 1\n"), 0o700))
	require.NoError(t, syscall.Kill(u.first.Process.Pid, syscall.SIGHUP))
	assert.Equal(t, u.await(t, "READY=1"), "READY=1\nSTATUS=hand-over failed: the new process has ended before it was ready: exit status 1")
	u.end(t, u.first.Process.Pid)
	assert.NoError(t, u.first.Wait())
	assert.Contains(t, u.log.String(), "hostproxy: HandOver: the new process has ended before it was ready: exit status 1")
}

func TestRoutesAreReadFromArguments(t *testing.T) {
	for word, want := range map[string]string{
		"":                      "no routes: want one or more words",
		"app.localhost":         `route "app.localhost": want host=target`,
		"app.localhost=nowhere": `target "nowhere"`,
		"a..b=localhost:1":      "a..b",
	} {
		var words []string
		if word != "" {
			words = []string{word}
		}
		assert.ErrorContains(t, route(new(hostproxy.Router), words), want)
	}
	var r hostproxy.Router
	require.NoError(t, route(&r, []string{"app.localhost=localhost:4006"}))
	_, pattern := r.Handler(httptest.NewRequest("GET", "https://app.localhost/", nil))
	assert.Equal(t, "app.localhost", pattern)
}
