package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestARestartKeepsTheAppsAndTheirState(t *testing.T) {
	t.Parallel()
	one, two := newVersion(t, "one"), newVersion(t, "two")
	r := start(t)
	r.must("app", "app.localhost", one.Addr())
	r.must("app", "app.localhost", two.Addr())
	r.must("canary", "app", one.Addr(), "-header", "X-Canary=1")
	r.must("maintain", "app", "-status", "500")
	require.NoError(t, r.stop())

	r = startIn(t, r.dir)
	status, _ := r.get()
	assert.Equal(t, 500, status)
	r.must("resume", "app")
	assert.Equal(t, "two", r.says())
	_, text := r.get(func(q *http.Request) { q.Header.Set("X-Canary", "1") })
	assert.Equal(t, "one", text)
	r.must("canary", "app", "-end")
	r.must("pause", "app", "-for", "20s")
	require.NoError(t, r.stop())

	r = startIn(t, r.dir)
	waits := make(chan string, 1)
	go func() { waits <- r.says() }()
	r.must("rollback", "app")
	assert.Empty(t, waits)
	r.must("resume", "app")
	assert.Equal(t, "one", <-waits)
	r.must("stop", "app")
	require.NoError(t, r.stop())

	r = startIn(t, r.dir)
	status, _ = r.get()
	assert.Equal(t, 503, status)
	r.must("resume", "app")
	assert.Equal(t, "one", r.says())
}

func TestARestartInTheMiddleOfADeployLeavesTheOldTargets(t *testing.T) {
	one, two := newVersion(t, "one"), newVersion(t, "two")
	r := start(t)
	r.must("app", "app.localhost", one.Addr(), "-health", "/up")
	two.up.Store(false)
	deploy := r.begin("app", "app.localhost", two.Addr())
	r.await("health")
	require.NoError(t, r.stop())
	assert.ErrorContains(t, (<-deploy).err, "the proxy is about to end")

	// This is the state after a crash between the two writes of a switch.
	file := filepath.Join(r.dir, "state.json")
	s, err := load(file)
	require.NoError(t, err)
	app := s.Apps["app"]
	app.Next = []string{two.Addr()}
	s.Apps["app"] = app
	require.NoError(t, store(file, s))
	r = startIn(t, r.dir)
	assert.Equal(t, "one", r.says())
	assert.Contains(t, r.log.String(), "the proxy ended in the middle of a deploy; the old targets are in use")
}

// serveFor runs a proxy that must not start. If it starts, serveFor stops it.
func serveFor(t *testing.T, dir string) error {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	p := &proxy{dir: dir, http: "127.0.0.1:0", drain: time.Second, log: slog.New(slog.DiscardHandler)}
	return p.run(ctx, nil)
}

func TestABrokenStateFileIsRefusedAndKept(t *testing.T) {
	const app = `{"version":1,"apps":{"app":{"host":"app.localhost","targets":["localhost:1"],"settings":{"drain":1000000000}`
	for text, want := range map[string]string{
		"":                                  "unexpected end of JSON input",
		"{":                                 "unexpected end of JSON input",
		"\x00\x00\x00":                      "invalid character",
		`{"version":2,"apps":{}}`:           "version 2: want 1",
		`{"apps":{}}`:                       "version 0: want 1",
		`{"version":1}`:                     `"apps" is missing`,
		`{"version":1,"apps":{}}x`:          "invalid character 'x'",
		`{"version":1,"apps":{},"other":1}`: `unknown field "other"`,
		`{"version":1,"apps":{"A":{"host":"app.localhost","targets":["localhost:1"],"settings":{"drain":1000000000}}}}`: `app "A"`,
		`{"version":1,"apps":{"app":{"host":"a..b","targets":["localhost:1"],"settings":{"drain":1000000000}}}}`:        "a..b",
		`{"version":1,"apps":{"app":{"host":"app.localhost","targets":["nowhere"],"settings":{"drain":1000000000}}}}`:   `"nowhere"`,
		`{"version":1,"apps":{"app":{"host":"app.localhost","settings":{"drain":1000000000}}}}`:                         "no targets",
		app + `},"b":{"host":"APP.localhost","targets":["localhost:2"],"settings":{"drain":1000000000}}}}`:              `belongs to app "app"`,
		app + `,"hold":{"kind":"maintain"}}}}`:                                                                        "maintain has no page",
		app + `,"hold":{"kind":"hide"}}}}`:                                                                            `a hold is "hide"`,
		app + `,"canary":{"targets":["localhost:2"],"share":7}}}}`:                                                    "the share of a canary is 7",
		app + `,"guard":{"until":"2026-01-01T00:00:00Z","baseline":{}}}}}`:                                            "a canary that does not exist",
		`{"version":1,"apps":{"app":{"host":"app.localhost","targets":["localhost:1"],"settings":{}}}}`:               "-drain 0s",
		`{"version":1,"apps":{"app":{"host":"app.localhost","targets":["localhost:1"],"settings":{"drain":"soon"}}}}`: "cannot unmarshal string",
	} {
		dir := short(t)
		file := filepath.Join(dir, "state.json")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		for range 2 { // a service manager tries again
			err := serveFor(t, dir)
			require.ErrorContains(t, err, want, text)
			assert.ErrorContains(t, err, "cannot be used", text)
			assert.ErrorContains(t, err, "repair it, or move it away to begin without apps; a copy is in", text)
		}
		now, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.Equal(t, text, string(now), "the file is unchanged")
		copies, err := filepath.Glob(file + ".broken-*")
		require.NoError(t, err)
		require.Len(t, copies, 1)
		kept, err := os.ReadFile(copies[0])
		require.NoError(t, err)
		assert.Equal(t, text, string(kept))
	}
}

func TestAStateFileThatCannotBeReadIsRefused(t *testing.T) {
	dir := short(t)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "state.json"), 0o700))
	assert.ErrorContains(t, serveFor(t, dir), "is a directory")
}

func TestASecondProxyIsRefused(t *testing.T) {
	dir := short(t)
	first := &proxy{dir: dir, http: "127.0.0.1:0", drain: time.Second, log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- first.run(ctx, nil) }()
	proxytest.Eventually(t, "the proxy", func() bool { _, err := client(dir, "list"); return err == nil })
	assert.ErrorContains(t, serveFor(t, dir), "another proxy runs with this directory")
	// the socket still refuses a second proxy
	require.NoError(t, os.Remove(filepath.Join(dir, "lock")))
	assert.ErrorContains(t, serveFor(t, dir), "another process listens on the socket")
	_, err := client(dir, "list")
	assert.NoError(t, err, "the first proxy still serves")
	cancel()
	assert.NoError(t, <-done)
	assert.NoFileExists(t, filepath.Join(dir, socketName))
}

func TestTheSocketOfAProxyThatHasCrashedIsReplaced(t *testing.T) {
	dir := short(t)
	ln, err := net.Listen("unix", filepath.Join(dir, socketName))
	require.NoError(t, err)
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	_, err = client(dir, "list")
	assert.ErrorContains(t, err, "no proxy runs with the directory")
	r := startIn(t, dir)
	r.must("list")
	info, err := os.Stat(filepath.Join(dir, socketName))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestAProxyRequiresADirectoryOfItsOwn(t *testing.T) {
	open := short(t)
	require.NoError(t, os.Chmod(open, 0o777))
	file := filepath.Join(short(t), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	long := filepath.Join(short(t), strings.Repeat("d", 120))
	for dir, want := range map[string]string{
		open: "others could replace its files",
		file: "not a directory",
		long: "the path of a unix socket has",
	} {
		assert.ErrorContains(t, serveFor(t, dir), want)
	}
	for want, p := range map[string]*proxy{
		"-drain 0s: want more than 0": {},
		"-local asks no CA":           {drain: 1, local: true, https: ":443", email: "a@example.com"},
		"without -https there are no": {drain: 1, local: true},
	} {
		assert.ErrorContains(t, p.run(t.Context(), nil), want)
	}
}

// A state that is accepted is written so that it reads as the same state.
func FuzzStateFile(f *testing.F) {
	f.Add([]byte(`{"version":1,"apps":{"app":{"host":"app.localhost","targets":["localhost:1"],"settings":{"drain":1000000000}}}}`))
	f.Add([]byte(`{"version":1,"apps":{"app":{"host":"a","hold":{"kind":"pause","until":"2026-01-01T00:00:00Z","since":"2026-01-01T00:00:00Z"},"guard":{}}}}`))
	f.Add([]byte(`{"version":1,"apps":{"app":{"canary":{"targets":[],"share":0.5,"header":"X=1"},"settings":null}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var first, second state
		if first.decode(text) != nil {
			return
		}
		written, err := json.Marshal(first)
		require.NoError(t, err)
		require.NoError(t, second.decode(written))
		again, err := json.Marshal(second)
		require.NoError(t, err)
		assert.Equal(t, string(written), string(again))
	})
}
