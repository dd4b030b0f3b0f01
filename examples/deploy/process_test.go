//go:build unix

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A unit is the program in its own processes.
type unit struct{ *proxytest.Unit }

// activate starts the program like a service manager, and waits until it is
// ready.
func activate(t *testing.T) unit {
	t.Helper()
	return unit{proxytest.StartUnit(t, func(u *proxytest.Unit) []string {
		return []string{"run", "-dir", u.Dir, "-local", "-drain", "1m"}
	})}
}

// must runs a command in this process, like the client.
func (u unit) must(t *testing.T, words ...string) string {
	t.Helper()
	text, err := client(u.Dir, words...)
	require.NoError(t, err, "%q", words)
	return text
}

func TestTheProgramRestartsItself(t *testing.T) {
	u := activate(t)
	one, two := newVersion(t, "one"), newVersion(t, "two")
	u.must(t, "app", "app.localhost", one.Addr(), "-health", "/up")
	u.must(t, "pause", "app", "-for", "1m")
	_, err := client(u.Dir, "restart")
	assert.ErrorContains(t, err, `"app" is paused until `)
	u.must(t, "resume", "app")

	// A deploy that waits for health is canceled. A command that comes during
	// the hand-over is sent again.
	two.up.Store(false)
	waits := make(chan error, 1)
	go func() {
		_, err := client(u.Dir, "app", "app.localhost", two.Addr())
		waits <- err
	}()
	proxytest.Eventually(t, "health", func() bool { return strings.Contains(u.must(t, "list"), "(health)") })
	between := make(chan error, 1)
	restarted := make(chan error, 1)
	go func() {
		_, err := client(u.Dir, "restart")
		restarted <- err
	}()
	assert.ErrorContains(t, <-waits, "the proxy is about to end or to hand over")
	go func() {
		_, err := client(u.Dir, "maintain", "app")
		between <- err
	}()
	pid := u.Next(t)
	assert.NoError(t, <-restarted)
	assert.NoError(t, <-between)
	assert.NoError(t, u.First.Wait(), "the old process has ended")
	assert.Contains(t, u.must(t, "list"), "the page of maintain")
	u.must(t, "resume", "app")

	// The new process has the lock and the socket.
	assert.ErrorContains(t, serveFor(t, u.Dir), "another proxy runs with this directory")

	// After a failed restart, the old process stays and takes commands.
	require.NoError(t, os.Remove(u.Program))
	require.NoError(t, os.WriteFile(u.Program, []byte("#!/bin/sh\nexit 1\n"), 0o700))
	_, err = client(u.Dir, "restart")
	assert.ErrorContains(t, err, "the new process has ended before it was ready")
	two.up.Store(true)
	u.must(t, "app", "app.localhost", two.Addr())
	u.End(t, pid)
	assert.NotContains(t, u.Log.String(), "level=ERROR")
}

func TestTheGuardContinuesInTheNextProcess(t *testing.T) {
	u := activate(t)
	one, two := newVersion(t, "one"), newVersion(t, "two")
	u.must(t, "app", "app.localhost", one.Addr(), "-health", "/up")
	deploy := make(chan error, 1)
	go func() {
		_, err := client(u.Dir, "app", "app.localhost", two.Addr(), "-guard", "1m")
		deploy <- err
	}()
	proxytest.Eventually(t, "guard", func() bool { return strings.Contains(u.must(t, "list"), "a deploy (guard)") })
	u.must(t, "restart")
	pid := u.Next(t)
	assert.ErrorContains(t, <-deploy, two.Addr()+" is in use, and is watched again afterwards")
	assert.Contains(t, u.must(t, "list"), "the watch of a deploy (guard)")
	u.must(t, "rollback", "app")
	u.End(t, pid)
	_ = u.First.Wait()
}

func TestACrashKeepsWhatWasInUse(t *testing.T) {
	u := activate(t)
	one := newVersion(t, "one")
	u.must(t, "app", "app.localhost", one.Addr())
	require.NoError(t, u.First.Process.Kill())
	_ = u.First.Wait()
	r := startIn(t, u.Dir) // the crash left its socket and its lock file
	assert.Equal(t, "one", r.says())
}
