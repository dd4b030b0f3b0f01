package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestACanaryKeepsWhatACommandDoesNotName(t *testing.T) {
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr())
	r.must("canary", "app", two.Addr(), "-share", "100%")
	r.must("canary", "app", "-cookie", "canary=yes")
	assert.Equal(t, "two", r.says())
	assert.Equal(t, 1.0, r.state().Canary.Share)
	assert.Equal(t, "canary=yes", r.state().Canary.Cookie)
}

func TestAPageThatCannotBeShownIsNotStored(t *testing.T) {
	r, one := start(t), newVersion(t, "one")
	r.must("app", "app.localhost", one.Addr())
	_, err := ask(r.dir, request{Command: "maintain", App: "app", Status: 503, Type: "text/html\r\nX: y"})
	assert.ErrorContains(t, err, "Page.ContentType")
	assert.Equal(t, "one", r.says())
	require.NoError(t, r.stop())
	assert.Equal(t, "one", startIn(t, r.dir).says())
}

func TestAFullDiskChangesNothing(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("no device stands for a full disk here")
	}
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr())
	for _, words := range []string{"app app.localhost " + two.Addr(), "maintain app", "remove app", "canary app " + two.Addr() + " -share 1"} {
		require.NoError(t, os.Symlink("/dev/full", filepath.Join(r.dir, "state.json.new")))
		_, err := r.do(strings.Fields(words)...)
		assert.ErrorContains(t, err, "no space left on device", words)
		assert.Equal(t, "one", r.says(), words)
		assert.Equal(t, []string{one.Addr()}, r.state().Targets, words)
	}
	r.must("app", "app.localhost", two.Addr())
	assert.Equal(t, "two", r.says())
}

func TestClientsThatDoNotWaitForAResumeLeaveNothingBehind(t *testing.T) {
	proxytest.NoLeaks(t)
	r, one := start(t), newVersion(t, "one")
	r.must("app", "app.localhost", one.Addr())
	r.must("pause", "app", "-for", "1m")
	for range 20 {
		c := proxytest.Dial(t, r.addr)
		c.Send("GET /left HTTP/1.1\r\nHost: app.localhost\r\n\r\n")
		require.NoError(t, c.Close())
	}
	r.must("resume", "app")
	assert.Equal(t, "one", r.says())
	proxytest.Eventually(t, "no request in flight", func() bool { return r.row().Targets[0].InFlight == 0 })
}
