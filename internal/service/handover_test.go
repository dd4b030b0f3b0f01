//go:build unix && !portable

package service_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
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
	"github.com/hostproxy/hostproxy/internal/service"
)

// discard is a logger that discards everything. Read-only.
var discard = slog.New(slog.DiscardHandler)

func TestHandOverPassesTheSockets(t *testing.T) {
	a, b := proxytest.Listen(t), proxytest.Listen(t)
	turns, passed := begun(t, service.SocketOf(a, "a"), service.SocketOf(b, "b"))
	cmd := program(t, "b a")
	require.NoError(t, turns.HandOver(t.Context(), "server", cmd))
	assert.Error(t, passed.Err(), "the context ends")
	waiting, err := net.Dial("tcp", a.Addr().String())
	require.NoError(t, err)
	defer waiting.Close()
	a.Close()
	b.Close()
	assert.Equal(t, cmd.Process.Pid, asked(t, "tcp", a.Addr().String()))
	assert.Equal(t, cmd.Process.Pid, asked(t, "tcp", b.Addr().String()))
	assert.ErrorContains(t, turns.HandOver(t.Context(), "server", program(t, "b a")), "has handed over already")
}

func TestHandOverLeavesListenersNonBlocking(t *testing.T) {
	ln := proxytest.Listen(t)
	turns, _ := begun(t, service.SocketOf(ln, "a"))
	require.Error(t, turns.HandOver(t.Context(), "server", program(t, "exit")))
	raw, err := ln.(*net.TCPListener).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_GETFL, 0)
		assert.Zero(t, errno)
		assert.NotZero(t, flags&syscall.O_NONBLOCK, "a blocking listener would delay Close until Accept returns")
	}))
}

func TestAHandOverThatFailsChangesNothing(t *testing.T) {
	t.Parallel() // it waits
	for _, tt := range []struct{ child, want string }{
		{"exit", "the new process has ended before it was ready: exit status 3"},
		{"leave", "the new process has ended before it was ready: exit status 4"},
		{"close", "the new process has closed its pipe before it was ready, and was killed"},
		{"garbage", `the new process says "hello,": want "ready\n"`},
		{"other", "the new process has ended before it was ready: exit status 1"},
	} {
		t.Run(tt.child, func(t *testing.T) {
			ln := proxytest.Listen(t)
			turns, passed := begun(t, service.SocketOf(ln, "a"))
			for range 2 { // it can be tried again
				err := turns.HandOver(t.Context(), "server", program(t, tt.child))
				assert.ErrorContains(t, err, tt.want)
			}
			assert.NoError(t, passed.Err())
			go answer(ln)
			assert.Equal(t, os.Getpid(), asked(t, "tcp", ln.Addr().String()))
			cmd := program(t, "a")
			require.NoError(t, turns.HandOver(t.Context(), "server", cmd), "the hand-over succeeds")
			ln.Close()
			assert.Equal(t, cmd.Process.Pid, asked(t, "tcp", ln.Addr().String()))
		})
	}
}

func TestAHandOverHasATimeLimit(t *testing.T) {
	ln := proxytest.Listen(t)
	turns, _ := begun(t, service.SocketOf(ln, "a"))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	cmd := program(t, "hang")
	err := turns.HandOver(ctx, "server", cmd)
	assert.ErrorContains(t, err, "the new process was not ready in time, and was killed")
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.NotNil(t, cmd.ProcessState, "no zombie is left")
}

func TestAChildOfTheNewProcessDoesNotDelayAHandOver(t *testing.T) {
	t.Parallel() // it waits
	ln := proxytest.Listen(t)
	turns, _ := begun(t, service.SocketOf(ln, "a"))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	cmd := exec.Command("/bin/sh", "-c", "sleep 30 & echo $!; exit 3")
	var out bytes.Buffer
	cmd.Stdout = &out
	start := time.Now()
	assert.ErrorContains(t, turns.HandOver(ctx, "server", cmd), "the new process was not ready in time, and was killed")
	assert.Less(t, time.Since(start), proxytest.Patience)
	pid, err := strconv.Atoi(strings.TrimSpace(out.String()))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL)) // the sleep
}

// A new process that serves only one of two sockets is not ready, and accepts
// no connection.
func TestAProcessAcceptsNothingBeforeItIsReady(t *testing.T) {
	a, b := proxytest.Listen(t), proxytest.Listen(t)
	turns, _ := begun(t, service.SocketOf(a, "a"), service.SocketOf(b, "b"))
	ctx, cancel := context.WithCancelCause(t.Context())
	failed := make(chan error, 1)
	go func() { failed <- turns.HandOver(ctx, "server", program(t, "half")) }()
	c, err := net.Dial("tcp", a.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	cancel(errors.New("the test has seen enough"))
	assert.ErrorContains(t, <-failed, "was killed before it was ready: the test has seen enough")
	mine, err := a.Accept()
	require.NoError(t, err, "the connection is still there")
	mine.Close()
}

func TestTwoHandOversAtATimeAreRefused(t *testing.T) {
	ln := proxytest.Listen(t)
	turns := new(service.Turns)
	assert.ErrorContains(t, turns.HandOver(t.Context(), "server", program(t, "a")), "call it while Serve is in progress")
	ctx, stop := context.WithCancel(t.Context())
	_, end := turns.Begin(ctx, "server", discard, []service.Socket{service.SocketOf(ln, "a")})
	first := program(t, "hang")
	says, out, err := os.Pipe()
	require.NoError(t, err)
	defer says.Close()
	first.Stdout = out
	failed := make(chan error, 1)
	go func() { failed <- turns.HandOver(t.Context(), "server", first) }()
	_, err = says.Read(make([]byte, 1))
	require.NoError(t, err)
	second := program(t, "a")
	assert.EqualError(t, turns.HandOver(t.Context(), "server", second), "a hand-over is in progress: wait until HandOver returns")
	assert.Nil(t, second.Process)
	stop()
	assert.ErrorContains(t, <-failed, "was killed before it was ready: the Server is shutting down")
	out.Close()
	assert.ErrorContains(t, turns.HandOver(t.Context(), "server", program(t, "a")), "the Server is shutting down")
	end()
	assert.ErrorContains(t, turns.HandOver(t.Context(), "server", program(t, "a")), "call it while Serve is in progress")
}

// A server may start again before its last turn has ended completely.
func TestTheEndOfATurnDoesNotEndTheNextOne(t *testing.T) {
	turns := new(service.Turns)
	sockets := []service.Socket{service.SocketOf(proxytest.Listen(t), "a")}
	_, end := turns.Begin(t.Context(), "server", discard, sockets)
	_, next := turns.Begin(t.Context(), "server", discard, sockets)
	end()
	missing := exec.Command(filepath.Join(t.TempDir(), "missing"))
	assert.ErrorIs(t, turns.HandOver(t.Context(), "server", missing), os.ErrNotExist, "the next turn can hand over")
	next()
}

func TestBadCommandsAreRefused(t *testing.T) {
	ln := proxytest.Listen(t)
	turns, _ := begun(t, service.SocketOf(ln, "a"))
	missing := exec.Command(filepath.Join(t.TempDir(), "missing"))
	assert.ErrorIs(t, turns.HandOver(t.Context(), "server", missing), os.ErrNotExist)
	files := program(t, "a")
	files.ExtraFiles = []*os.File{os.Stdin}
	assert.ErrorContains(t, turns.HandOver(t.Context(), "server", files), "cmd.ExtraFiles is set: want none")
	started := program(t, "list")
	require.NoError(t, started.Run())
	assert.ErrorContains(t, turns.HandOver(t.Context(), "server", started), "cmd was started already")
	type hidden struct{ net.Listener }
	turns, _ = begun(t, service.SocketOf(hidden{ln}, "a"))
	assert.ErrorContains(t, turns.HandOver(t.Context(), "server", program(t, "a")), `the listener "a", a service_test.hidden, has no method SyscallConn`)
}

func TestTheFileOfAUnixSocketIsRemovedByItsLastProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	var none service.Sockets
	ln, err := none.Listen("a", func() (net.Listener, error) { return net.Listen("unix", path) })
	require.NoError(t, err)
	turns, _ := begun(t, service.SocketOf(ln, "other"))
	require.Error(t, turns.HandOver(t.Context(), "server", program(t, "leave")), "the file still belongs to this process")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=a")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, turns.HandOver(t.Context(), "server", cmd))
	ln.Close()
	assert.Equal(t, cmd.Process.Pid, asked(t, "unix", path))
	in.Close()
	require.NoError(t, cmd.Wait())
	assert.NoFileExists(t, path)
}

// A shutdown may close the socket after the new process was allowed to accept.
func TestTheFileOfAUnixSocketSurvivesAShutdownDuringAHandOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	ln, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer ln.Close()
	turns, _ := begun(t, service.SocketOf(ln, "a"))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=ponder")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	says, out, err := os.Pipe()
	require.NoError(t, err)
	defer says.Close()
	cmd.Stdout = out
	done := make(chan error, 1)
	go func() { done <- turns.HandOver(t.Context(), "server", cmd) }()
	_, err = says.Read(make([]byte, 10))
	require.NoError(t, err)
	out.Close()
	ln.Close()
	_, err = in.Write([]byte("\n"))
	require.NoError(t, err)
	require.NoError(t, <-done)
	assert.FileExists(t, path, "the file belongs to the new process")
	in.Close()
	require.NoError(t, cmd.Wait())
}

func TestAProcessThatRunsThisProgramAgainLeavesNoZombie(t *testing.T) {
	m := manage(t)
	t.Setenv(childEnv, "brief")
	ln := proxytest.Listen(t)
	turns, _ := begun(t, service.SocketOf(ln, "a"))
	require.NoError(t, turns.HandOver(t.Context(), "server", nil))
	m.heard()
	m.heard()
	line, _, _ := strings.Cut(m.heard(), "\n")
	pid, err := strconv.Atoi(strings.TrimPrefix(line, "MAINPID="))
	require.NoError(t, err)
	proxytest.Eventually(t, "its end", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
}
