//go:build unix

package main

import (
	"crypto/x509"
	"net"
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

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A unit is the program in its own processes, with TLS, and a service manager
// that receives its notifications.
type unit struct {
	https   string
	dir     string
	first   *exec.Cmd
	manager *net.UnixConn
	log     *proxytest.Log
	over    chan struct{} // closed when the last process has ended
}

// activate starts the program like a service manager, and waits until it is
// ready.
func activate(t *testing.T) *unit {
	t.Helper()
	u := &unit{dir: short(t), log: new(proxytest.Log), over: make(chan struct{})}
	name := filepath.Join(u.dir, "notify")
	var err error
	u.manager, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { u.manager.Close() })
	require.NoError(t, os.Symlink(os.Args[0], u.program()))
	u.first = exec.Command(u.program(), "run", "-dir", u.dir, "-local", "-drain", "1m")
	u.first.Env = append(os.Environ(), programEnv+"=1", "XDG_DATA_HOME="+u.dir, "NOTIFY_SOCKET="+name,
		"LISTEN_PID=mine", "LISTEN_FDS=2", "LISTEN_FDNAMES=https:http")
	for _, addr := range []*string{&u.https, new(string)} {
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
	u.killLater(t, u.first.Process.Pid)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(u.log)
		}
	})
	u.await(t, "READY=1")
	return u
}

// program returns where the program is installed.
func (u *unit) program() string { return filepath.Join(u.dir, "deploy") }

// killLater kills a process that this test has started, if it still runs at the
// end.
func (u *unit) killLater(t *testing.T, pid int) {
	t.Cleanup(func() {
		select {
		case <-u.over:
		default:
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}

// await returns the first notification that contains text.
func (u *unit) await(t *testing.T, text string) string {
	t.Helper()
	b := make([]byte, 4096)
	for {
		_ = u.manager.SetReadDeadline(time.Now().Add(2 * proxytest.Patience))
		n, err := u.manager.Read(b)
		require.NoError(t, err, "waiting for %s: %s", text, u.log)
		if said := string(b[:n]); strings.Contains(said, text) {
			return said
		}
	}
}

// next returns the ID of the process that has taken over.
func (u *unit) next(t *testing.T) int {
	t.Helper()
	line, _, _ := strings.Cut(u.await(t, "MAINPID="), "\n")
	pid, err := strconv.Atoi(strings.TrimPrefix(line, "MAINPID="))
	require.NoError(t, err)
	u.killLater(t, pid)
	return pid
}

// must runs a command in this process, like the client.
func (u *unit) must(t *testing.T, words ...string) string {
	t.Helper()
	text, err := client(u.dir, words...)
	require.NoError(t, err, "%q", words)
	return text
}

// roots returns the root of the program's own authority. It waits until there
// is one.
func (u *unit) roots(t *testing.T) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	proxytest.Eventually(t, "the root certificate", func() bool {
		text, err := os.ReadFile(filepath.Join(u.dir, "certmagic", "localca", "root.crt"))
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

func TestTheProgramRestartsItself(t *testing.T) {
	u := activate(t)
	one, two := newVersion(t, "one"), newVersion(t, "two")
	u.must(t, "app", "app.localhost", one.Addr(), "-health", "/up")
	u.must(t, "pause", "app", "-for", "1m")
	_, err := client(u.dir, "restart")
	assert.ErrorContains(t, err, `"app" is paused until `)
	u.must(t, "resume", "app")

	// A deploy that waits for health is canceled. A command that comes during
	// the hand-over is sent again.
	two.up.Store(false)
	waits := make(chan error, 1)
	go func() {
		_, err := client(u.dir, "app", "app.localhost", two.Addr())
		waits <- err
	}()
	proxytest.Eventually(t, "health", func() bool { return strings.Contains(u.must(t, "list"), "(health)") })
	between := make(chan error, 1)
	restarted := make(chan error, 1)
	go func() {
		_, err := client(u.dir, "restart")
		restarted <- err
	}()
	assert.ErrorContains(t, <-waits, "the proxy is about to end or to hand over")
	go func() {
		_, err := client(u.dir, "maintain", "app")
		between <- err
	}()
	pid := u.next(t)
	assert.NoError(t, <-restarted)
	assert.NoError(t, <-between)
	assert.NoError(t, u.first.Wait(), "the old process has ended")
	assert.Contains(t, u.must(t, "list"), "the page of maintain")
	u.must(t, "resume", "app")

	// The new process has the lock and the socket.
	assert.ErrorContains(t, serveFor(t, u.dir), "another proxy runs with this directory")

	// After a failed restart, the old process stays and takes commands.
	require.NoError(t, os.Remove(u.program()))
	require.NoError(t, os.WriteFile(u.program(), []byte("#!/bin/sh\nexit 1\n"), 0o700))
	_, err = client(u.dir, "restart")
	assert.ErrorContains(t, err, "the new process has ended before it was ready")
	two.up.Store(true)
	u.must(t, "app", "app.localhost", two.Addr())
	u.end(t, pid)
	assert.NotContains(t, u.log.String(), "level=ERROR")
}

func TestTheGuardContinuesInTheNextProcess(t *testing.T) {
	u := activate(t)
	one, two := newVersion(t, "one"), newVersion(t, "two")
	u.must(t, "app", "app.localhost", one.Addr(), "-health", "/up")
	deploy := make(chan error, 1)
	go func() {
		_, err := client(u.dir, "app", "app.localhost", two.Addr(), "-guard", "1m")
		deploy <- err
	}()
	proxytest.Eventually(t, "guard", func() bool { return strings.Contains(u.must(t, "list"), "a deploy (guard)") })
	u.must(t, "restart")
	pid := u.next(t)
	assert.ErrorContains(t, <-deploy, two.Addr()+" is in use, and is watched again afterwards")
	assert.Contains(t, u.must(t, "list"), "the watch of a deploy (guard)")
	u.must(t, "rollback", "app")
	u.end(t, pid)
	_ = u.first.Wait()
}

func TestACrashKeepsWhatWasInUse(t *testing.T) {
	u := activate(t)
	one := newVersion(t, "one")
	u.must(t, "app", "app.localhost", one.Addr())
	require.NoError(t, u.first.Process.Kill())
	_ = u.first.Wait()
	r := startIn(t, u.dir) // the crash left its socket and its lock file
	assert.Equal(t, "one", r.says())
}
