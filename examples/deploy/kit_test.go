package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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
	_ = flag.Set("test.parallel", "16") // parallel tests mostly wait; -parallel overrides it
	proxytest.Main(m)
}

// A running is a proxy in this process that serves its routes over plain HTTP.
type running struct {
	t    *testing.T
	dir  string
	addr string
	log  *proxytest.Log
	stop func() error
}

// short returns a directory whose path is short enough for a socket.
func short(t *testing.T) string {
	dir, err := os.MkdirTemp("", "deploy")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func start(t *testing.T) *running { return startIn(t, short(t)) }

func startIn(t *testing.T, dir string) *running {
	t.Helper()
	r := &running{t: t, dir: dir, log: new(proxytest.Log)}
	p := &proxy{dir: dir, drain: 10 * time.Second, log: slog.New(slog.NewTextHandler(r.log, nil))}
	ln := proxytest.Listen(t)
	r.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	control, _ := p.control(new(hostproxy.Sockets))
	go func() { done <- p.serve(ctx, nil, control, nil, ln) }()
	ended := false
	r.stop = func() error {
		if ended {
			return nil
		}
		ended = true
		cancel()
		return <-done
	}
	t.Cleanup(func() { assert.NoError(t, r.stop()) })
	proxytest.Eventually(t, "the proxy", func() bool {
		_, err := ask(dir, request{Command: "list"})
		return err == nil
	})
	return r
}

// do runs a command like the client, and returns its output.
func (r *running) do(words ...string) (string, error) {
	return client(r.dir, words...)
}

func client(dir string, words ...string) (string, error) {
	q, dir, err := parse(append(words, "-dir", dir))
	if err != nil {
		return "", err
	}
	return ask(dir, q)
}

// must is do for commands that must succeed.
func (r *running) must(words ...string) string {
	r.t.Helper()
	text, err := r.do(words...)
	require.NoError(r.t, err)
	return text
}

// begin is do in the background.
func (r *running) begin(words ...string) <-chan result {
	c := make(chan result, 1)
	go func() {
		text, err := r.do(words...)
		c <- result{text, err}
	}()
	return c
}

type result struct {
	text string
	err  error
}

// get returns the answer for app.localhost.
func (r *running) get(change ...func(*http.Request)) (int, string) {
	r.t.Helper()
	c := proxytest.HTTPClient(r.t, r.addr, nil, "h1")
	q, err := http.NewRequest("GET", "http://app.localhost/", nil)
	require.NoError(r.t, err)
	for _, f := range change {
		f(q)
	}
	p, err := c.Do(q)
	require.NoError(r.t, err)
	defer p.Body.Close()
	text, err := io.ReadAll(p.Body)
	require.NoError(r.t, err)
	return p.StatusCode, string(text)
}

// says returns the body of the app's answer.
func (r *running) says() string {
	r.t.Helper()
	_, text := r.get()
	return text
}

// row returns app's row of the list.
func (r *running) row() row {
	r.t.Helper()
	var rows []row
	require.NoError(r.t, json.Unmarshal([]byte(r.must("list", "-json")), &rows))
	for _, row := range rows {
		if row.App == "app" {
			return row
		}
	}
	return row{}
}

// await waits until an operation of the app is in that phase.
func (r *running) await(phase string) {
	r.t.Helper()
	proxytest.Eventually(r.t, phase, func() bool {
		return strings.Contains(r.row().InProgress, "("+phase+")")
	})
}

// state returns app's entry in the state file.
func (r *running) state() saved {
	r.t.Helper()
	s, err := load(filepath.Join(r.dir, "state.json"))
	require.NoError(r.t, err)
	return s.Apps["app"]
}

// A version is a target that serves one version of the app.
type version struct {
	*proxytest.Server
	sick  atomic.Bool   // answers 500
	up    atomic.Bool   // whether /up succeeds
	gates chan struct{} // if not nil, /slow waits for a value from it
}

// newVersion returns a target that answers with its name.
func newVersion(t *testing.T, name string) *version {
	v := &version{gates: make(chan struct{})}
	v.up.Store(true)
	v.Server = proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch {
		case q.URL.Path == "/up" && v.up.Load():
		case q.URL.Path == "/up" || v.sick.Load():
			w.WriteHeader(500)
		case q.URL.Path == "/slow":
			<-v.gates
			fallthrough
		default:
			fmt.Fprint(w, name)
		}
	}))
	return v
}
