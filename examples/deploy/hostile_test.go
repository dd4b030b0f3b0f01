package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestACanaryKeepsTheSettingsThatACommandDoesNotName(t *testing.T) {
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

func TestAnExpiredPauseSurvivesARestart(t *testing.T) {
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr(), "-health", "/up")
	r.must("pause", "app", "-for", "1ms")
	proxytest.Eventually(t, "the end of the pause", func() bool { return strings.Contains(r.row().State, "for too long") })
	r.must("app", "app.localhost", two.Addr(), "-guard", "10ms")
	require.NoError(t, r.stop())
	r = startIn(t, r.dir)
	status, _ := r.get()
	assert.Equal(t, 503, status)
	r.must("resume", "app")
	assert.Equal(t, "two", r.says())
	assert.NotContains(t, r.log.String(), "level=ERROR")
}

func TestOddArgumentsBreakNothing(t *testing.T) {
	r, one := start(t), newVersion(t, "one")
	r.must("app", "app.localhost", one.Addr())
	odd := []string{"", " ", "*", "..", "a\x00b", "a\nb", "\x1b[31m", "-", "--", "=", "%", "unix:", "unix:x", "unix:/", "http://", "http://a:b@c", "https://a/b?c", "localhost:0", "localhost:99999",
		"[::1]", "[::1]:x", strings.Repeat("a", 70_000), "\xff", "h2c://a:1#x", "ftp://a:1", "a:1,b:2"}
	for _, w := range odd {
		for _, words := range [][]string{{w, "new.localhost", one.Addr()}, {"new", w, one.Addr()}, {"new", "new.localhost", w}, {"new", "new.localhost", one.Addr(), "-health", "/" + w},
			{"canary", "app", w, "-share", "1"}, {"canary", "app", one.Addr(), "-cookie", w + "=1"}, {"canary", "app", one.Addr(), "-header", "X=" + w}, {"pause", w}, {"remove", w}, {"maintain", "app", "-page", w}} {
			text, err := r.do(append(words, "-ready", "20ms")...)
			if words[0] == "pause" || words[0] == "remove" || words[0] == "maintain" {
				text, err = r.do(words...)
			}
			assert.False(t, strings.ContainsAny(fmt.Sprint(text, err), "\x00\x1b"), "%.80q: %.300q %.300q", words, text, err)
			if _, err := r.do("remove", "new"); err != nil {
				assert.ErrorContains(t, err, "no app")
			}
		}
	}
	assert.NotContains(t, r.must("list"), "\x1b")
	require.NoError(t, r.stop())
	r = startIn(t, r.dir)
	r.must("resume", "app")
	assert.Equal(t, "one", r.says())
}

func TestARestartMayInterruptAnyCommand(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ words, phase, says string }{
		{"app app.localhost TWO", "health", "one"},
		{"app app.localhost TWO -guard 1m", "guard", "two"},
		{"canary app TWO -share 1", "health", "one"},
		{"canary app TWO -share 1 -guard 1m", "guard", "two"},
		{"rollback app", "health", "one"},
		{"first first.localhost TWO -health /up", "health", "one"},
		{"remove app", "", ""},
		{"stop app", "", "This site is stopped.\n"},
	} {
		r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
		r.must("app", "app.localhost", two.Addr(), "-health", "/up")
		r.must("app", "app.localhost", one.Addr())
		two.up.Store(tt.phase != "health")
		slow := make(chan string, 1)
		if tt.phase == "" {
			go func() {
				_, text := r.get(func(q *http.Request) { q.URL.Path = "/slow" })
				slow <- text
			}()
			proxytest.Eventually(t, "the slow request", func() bool {
				return slices.ContainsFunc(one.Seen(), func(q proxytest.Seen) bool { return q.Target == "/slow" })
			})
		}
		command := r.begin(strings.Fields(strings.ReplaceAll(tt.words, "TWO", two.Addr()))...)
		proxytest.Eventually(t, tt.words, func() bool {
			list := r.must("list")
			return strings.Contains(list, "("+tt.phase+")") || tt.phase == "" && !strings.Contains(list, "serves")
		})
		go func() { close(one.gates) }() // while the process ends
		require.NoError(t, r.stop())
		if (<-command).err == nil && tt.phase != "" {
			t.Errorf("%s is done, and was canceled", tt.words)
		}
		if tt.phase == "" {
			assert.Equal(t, "one", <-slow, tt.words)
		}
		r = startIn(t, r.dir)
		if tt.says == "" {
			status, _ := r.get()
			assert.Equal(t, 404, status, tt.words)
			continue
		}
		assert.Equal(t, tt.says, r.says(), tt.words)
		if tt.phase == "guard" {
			r.must("rollback", "app")
			assert.Equal(t, "one", r.says(), tt.words)
		}
		require.NoError(t, r.stop())
	}
}
