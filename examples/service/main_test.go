//go:build unix

package main

import (
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) {
	if proxytest.IsUnit() {
		main()
		return
	}
	proxytest.Main(m)
}

// A unit is the program in its own processes. It serves app.localhost.
type unit struct{ *proxytest.Unit }

// activate starts the program as a service manager does, with a route to
// target, and waits until it is ready.
func activate(t *testing.T, target string, args ...string) unit {
	t.Helper()
	return unit{proxytest.StartUnit(t, func(*proxytest.Unit) []string { return append(args, "app.localhost="+target) })}
}

// await returns the first state that contains text. It skips watchdog and
// reload messages, and fails at others.
func (u unit) await(t *testing.T, text string) string {
	t.Helper()
	for {
		said := u.Said(t)
		if strings.Contains(said, text) {
			return said
		}
		if said != "WATCHDOG=1" && !strings.HasPrefix(said, "RELOADING=1\nMONOTONIC_USEC=") {
			require.Fail(t, "unexpected state", "%q, waiting for %s", said, text)
		}
	}
}

// reload makes process pid hand over, and returns the new process's ID.
func (u unit) reload(t *testing.T, pid int) int {
	t.Helper()
	require.NoError(t, syscall.Kill(pid, syscall.SIGHUP))
	return u.Next(t)
}

func TestTheServiceIsActivatedByItsSockets(t *testing.T) {
	t.Parallel()
	backend := proxytest.NewServer(t, nil)
	u := activate(t, backend.Addr())
	client := proxytest.HTTPClient(t, u.HTTPS, u.Roots(t), "h2")
	p, err := client.Get("https://app.localhost/")
	require.NoError(t, err)
	p.Body.Close()
	assert.Equal(t, 200, p.StatusCode)
	plain := proxytest.Dial(t, u.Plain)
	assert.Equal(t, 308, plain.Do("GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n").StatusCode)
	u.await(t, "WATCHDOG=1")
	client.CloseIdleConnections()
	u.End(t, u.First.Process.Pid)
	assert.NoError(t, u.First.Wait())
}

func TestAFailedHandOverIsLoggedAndReportedToSystemd(t *testing.T) {
	u := activate(t, proxytest.NewServer(t, nil).Addr())
	require.NoError(t, os.Remove(u.Program))
	require.NoError(t, os.WriteFile(u.Program, []byte("#!/bin/sh\nexit 1\n"), 0o700))
	require.NoError(t, syscall.Kill(u.First.Process.Pid, syscall.SIGHUP))
	assert.Equal(t, u.await(t, "READY=1"), "READY=1\nSTATUS=hand-over failed: the new process has ended before it was ready: exit status 1")
	u.End(t, u.First.Process.Pid)
	assert.NoError(t, u.First.Wait())
	assert.Contains(t, u.Log.String(), "hostproxy: HandOver: the new process has ended before it was ready: exit status 1")
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
