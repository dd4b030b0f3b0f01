//go:build unix && !portable

package service_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/service"
)

// A manager is a service manager that only receives.
type manager struct {
	*net.UnixConn
	t *testing.T
}

// manage makes a manager and registers it for this process.
func manage(t *testing.T) *manager {
	t.Helper()
	name := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	return &manager{c, t}
}

// heard returns the next state.
func (m *manager) heard() string {
	m.t.Helper()
	_ = m.SetReadDeadline(time.Now().Add(proxytest.Patience))
	b := make([]byte, 4096)
	n, err := m.Read(b)
	require.NoError(m.t, err)
	return string(b[:n])
}

// silent checks that nothing more was sent.
func (m *manager) silent() {
	m.t.Helper()
	_ = m.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	b := make([]byte, 4096)
	n, err := m.Read(b)
	assert.Error(m.t, err, "%s", b[:n])
}

func TestNotifySendsAState(t *testing.T) {
	m := manage(t)
	require.NoError(t, service.Notify("STATUS=loading\nREADY=1\n"))
	assert.Equal(t, "STATUS=loading\nREADY=1", m.heard())
	require.NoError(t, service.Notify("RELOADING=1"))
	said, clock, _ := strings.Cut(m.heard(), "\n")
	assert.Equal(t, "RELOADING=1", said)
	if runtime.GOOS == "linux" {
		n, err := strconv.ParseInt(strings.TrimPrefix(clock, "MONOTONIC_USEC="), 10, 64)
		require.NoError(t, err)
		assert.Positive(t, n)
	}
	for _, bad := range []string{"", "READY", "=1", "READY=1\n\nSTATUS=x", "STATUS=a\x00b"} {
		assert.ErrorContains(t, service.Notify(bad), "want lines of KEY=value", bad)
	}
	m.silent()
}

func TestNotifyWithoutAServiceManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	assert.NoError(t, service.Notify("READY=1"))
	for name, want := range map[string]string{
		"relative":                             "want an absolute path",
		"vsock:2":                              "want an absolute path",
		filepath.Join(t.TempDir(), "missing"):  "no such file",
		"/" + strings.Repeat("too long ", 200): "invalid argument",
	} {
		t.Setenv("NOTIFY_SOCKET", name)
		err := service.Notify("READY=1")
		assert.ErrorContains(t, err, "NOTIFY_SOCKET is ")
		assert.ErrorContains(t, err, want)
	}
}

func TestServersNotifyTheServiceManagerOfStartAndStop(t *testing.T) {
	m := manage(t)
	var turns service.Turns
	one, stopOne := context.WithCancel(t.Context())
	two, stopTwo := context.WithCancel(t.Context())
	_, endOne := turns.Begin(one, 1, discard, nil)
	_, endTwo := turns.Begin(two, 2, discard, nil)
	assert.Equal(t, "READY=1", m.heard())
	m.silent()
	stopOne()
	endOne()
	m.silent()
	stopTwo()
	assert.Equal(t, "STOPPING=1", m.heard(), "sent when the last server stops")
	endTwo()
	_, end := turns.Begin(t.Context(), 1, discard, nil)
	assert.Equal(t, "READY=1", m.heard(), "again")
	end()
	assert.Equal(t, "STOPPING=1", m.heard(), "sent also if the server ends by itself")
}

func TestTheWatchdogIsNotifiedRegularly(t *testing.T) {
	m := manage(t)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	var turns service.Turns
	_, end := turns.Begin(t.Context(), 1, discard, nil)
	assert.Equal(t, "READY=1", m.heard())
	for range 3 {
		assert.Equal(t, "WATCHDOG=1", m.heard())
	}
	end()
	for state := ""; state != "STOPPING=1"; state = m.heard() {
		require.Contains(t, []string{"", "WATCHDOG=1"}, state)
	}
}

func TestTheWatchdogIsNotNotifiedUnlessRequested(t *testing.T) {
	m := manage(t)
	for _, tt := range []struct{ usec, pid, log string }{
		{"1000", "1", ""},
		{"", "", ""},
		{"x", "", `WATCHDOG_USEC is \"x\"`},
		{"0", "", `WATCHDOG_USEC is \"0\"`},
		{"-5", "", `WATCHDOG_USEC is \"-5\"`},
		{"9223372036854775807", "", `WATCHDOG_USEC is`},
	} {
		t.Setenv("WATCHDOG_USEC", tt.usec)
		t.Setenv("WATCHDOG_PID", tt.pid)
		var log bytes.Buffer
		var turns service.Turns
		_, end := turns.Begin(t.Context(), 1, slog.New(slog.NewTextHandler(&log, nil)), nil)
		assert.Equal(t, "READY=1", m.heard())
		m.silent()
		end()
		assert.Equal(t, "STOPPING=1", m.heard())
		if tt.log == "" {
			assert.Empty(t, log.String())
		} else {
			assert.Contains(t, log.String(), tt.log)
		}
	}
}

func TestTheServiceManagerLearnsOfTheNewProcess(t *testing.T) {
	m := manage(t)
	t.Setenv("WATCHDOG_USEC", "10000000")
	ln := proxytest.Listen(t)
	turns := new(service.Turns)
	ctx, stop := context.WithCancel(t.Context())
	_, end := turns.Begin(ctx, "server", discard, []service.Socket{service.SocketOf(ln, "a")})
	assert.Equal(t, "READY=1", m.heard())
	require.Error(t, turns.HandOver(t.Context(), "server", program(t, "exit")))
	assert.Contains(t, m.heard(), "RELOADING=1\nMONOTONIC_USEC=")
	assert.Equal(t, "READY=1\nSTATUS=hand-over failed: the new process has ended before it was ready: exit status 3", m.heard())
	cmd := program(t, "a")
	require.NoError(t, turns.HandOver(t.Context(), "server", cmd))
	assert.Contains(t, m.heard(), "RELOADING=1")
	assert.Equal(t, "MAINPID="+strconv.Itoa(cmd.Process.Pid)+"\nREADY=1", m.heard())
	stop()
	end()
	m.silent()
}

func TestAnUnreachableServiceManagerIsLogged(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "missing"))
	var log bytes.Buffer
	var turns service.Turns
	_, end := turns.Begin(t.Context(), 1, slog.New(slog.NewTextHandler(&log, nil)), nil)
	end()
	assert.Contains(t, log.String(), "service manager not notified")
	assert.Contains(t, log.String(), `state="STOPPING=1"`)
}
