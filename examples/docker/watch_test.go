package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// service starts the server of a container, and returns its address.
func service(t testing.TB, name string) string {
	t.Helper()
	return proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.WriteString(w, name+" "+q.URL.Path)
	})).Addr()
}

func TestRoutesFollowContainersThatComeAndGo(t *testing.T) {
	d := newDaemon(t).set(newBox("a", service(t, "one"), "hostproxy.host=a.test, b.test")).start()
	r := follow(t, d)
	r.becomes("a.test/x", "200 one /x")
	assert.Equal(t, "200 one /", r.ask("b.test/"))
	assert.Contains(t, r.ask("c.test/"), "404 ")

	d.set(newBox("c", service(t, "two"), "hostproxy.host=c.test", "hostproxy.path=/api", "hostproxy.strip=true"))
	d.event("start", "c", "")
	r.becomes("c.test/api/x", "200 two /x")
	assert.Contains(t, r.ask("c.test/"), "404 ")

	d.remove("c")
	d.event("die", "c", "")
	r.becomes("c.test/api/x", "404 ")
	assert.Equal(t, "200 one /", r.ask("a.test/"))
}

func TestSeveralContainersOfOneHostShareItsRequests(t *testing.T) {
	d := newDaemon(t).start()
	for _, id := range []string{"one", "two", "three"} {
		d.set(newBox(id, service(t, id), "hostproxy.host=a.test"))
	}
	r := follow(t, d)
	for _, id := range []string{"one", "two", "three"} {
		r.becomes("a.test/", "200 "+id)
	}
}

func TestOnlyContainersThatAreReadyGetTraffic(t *testing.T) {
	d := newDaemon(t).start()
	r := follow(t, d)
	ready := newBox("a", service(t, "one"), "hostproxy.host=a.test")
	for i, c := range []struct {
		path  string
		value any
		want  string
	}{
		{"State.Health", map[string]any{"Status": "starting"}, "503 "},
		{"State.Health", map[string]any{"Status": "healthy"}, "200 one"},
		{"State.Health", map[string]any{"Status": "unhealthy"}, "503 "},
		{"State.Health", map[string]any{"Status": "none"}, "200 one"},
		{"State.Status", "paused", "503 "},
		// Podman's form for a container without a check
		{"State.Health", map[string]any{}, "200 one"},
		{"State.Status", "restarting", "503 "},
		{"State.Health", nil, "200 one"},
		{"State.Status", "exited", "404 "},
	} {
		d.set(ready.with(c.path, c.value))
		d.event("health_status: changed", "a", "")
		r.becomes("a.test/", c.want)
		t.Log(i, c.path, c.value)
	}
}

func TestANewContainerWaitsForItsHealthPath(t *testing.T) {
	up := make(chan struct{})
	late := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-up:
			_, _ = io.WriteString(w, "late")
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	d := newDaemon(t).set(newBox("a", service(t, "one"), "hostproxy.host=a.test", "hostproxy.health=/up")).start()
	r := follow(t, d)
	r.becomes("a.test/", "200 one")
	d.set(newBox("b", late.Addr(), "hostproxy.host=a.test", "hostproxy.health=/up"))
	d.event("start", "b", "")
	proxytest.Eventually(t, "the new container is checked", func() bool { return len(late.Seen()) > 0 })
	for range 20 {
		assert.Equal(t, "200 one /", r.ask("a.test/"))
	}
	close(up)
}

func TestTheProxyServesUntilItIsToldToStop(t *testing.T) {
	d := newDaemon(t).set(newBox("a", service(t, "one"), "hostproxy.host=a.test")).start()
	r := &rig{daemon: d, log: new(proxytest.Log), t: t, addr: proxytest.Free(t)}
	p := newProxy(slog.New(slog.NewTextHandler(r.log, nil)), false)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.serve(ctx, "unix://"+d.socket, "", r.addr) }()
	r.says("following the containers")
	r.becomes("a.test/", "200 one")
	cancel()
	require.NoError(t, <-done)
	for _, c := range []struct{ daemon, https, http, says string }{
		{"ssh://x", "", "127.0.0.1:0", "ssh are not supported"},
		{"unix:///x", "127.0.0.1:99999", "127.0.0.1:0", "99999"},
		{"unix:///x", "", "", "-http is empty"},
		{"unix:///x", "127.0.0.1:0", "127.0.0.1:99999", "99999"},
	} {
		assert.ErrorContains(t, newProxy(slog.Default(), false).serve(t.Context(), c.daemon, c.https, c.http), c.says)
	}
}

func TestAContainerThatIsToldToStopGetsNoNewRequestAndFinishesTheOldOnes(t *testing.T) {
	release := make(chan struct{})
	slow := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.WriteString(w, "begin ")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-release:
		case <-q.Context().Done():
		}
		_, _ = io.WriteString(w, "end")
	}))
	d := newDaemon(t).set(newBox("old", slow.Addr(), "hostproxy.host=a.test")).start()
	r := follow(t, d)
	r.says("a.test")
	client := proxytest.HTTPClient(t, r.addr, nil, "h1")
	open, err := client.Get("http://a.test/")
	require.NoError(t, err)
	defer open.Body.Close()

	d.event("kill", "old", "1") // SIGHUP does not stop a container
	d.set(newBox("new", service(t, "new"), "hostproxy.host=a.test"))
	d.event("kill", "old", "15")
	proxytest.Eventually(t, "the old container is out", func() bool {
		return strings.Count(r.log.String(), "targets=http://") >= 2 && strings.HasPrefix(r.ask("a.test/"), "200 new")
	})
	for range 20 {
		assert.Equal(t, "200 new /", r.ask("a.test/"))
	}
	close(release)
	body, err := io.ReadAll(open.Body)
	require.NoError(t, err)
	assert.Equal(t, "begin end", string(body))
}

func TestARollingUpdateFailsNoRequest(t *testing.T) {
	start := func(i int) (box, *proxytest.Server) {
		s := proxytest.NewServer(t, nil)
		return newBox(fmt.Sprint("v", i), s.Addr(), "hostproxy.host=a.test"), s
	}
	old, server := start(0)
	d := newDaemon(t).set(old).start()
	r := follow(t, d)
	r.becomes("a.test/", "200 ok")
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var answers, failures atomic.Int64
	for range 2 {
		client := proxytest.HTTPClient(t, r.addr, nil, "h1")
		clients.Go(func() {
			for ctx.Err() == nil {
				p, err := client.Get("http://a.test/")
				if err != nil || p.StatusCode != http.StatusOK {
					failures.Add(1)
				}
				if err == nil {
					_, _ = io.Copy(io.Discard, p.Body)
					_ = p.Body.Close()
				}
				answers.Add(1)
			}
		})
	}
	for i := range 8 {
		next, nextServer := start(i + 1)
		d.set(next)
		d.event("start", next["Id"].(string), "")
		proxytest.Eventually(t, "the new version is asked", func() bool { return len(nextServer.Seen()) > 0 })
		d.event("kill", old["Id"].(string), "15")
		server.Close() // it is gone before the proxy reads the event
		d.remove(old["Id"].(string))
		d.event("die", old["Id"].(string), "")
		old, server = next, nextServer
	}
	cancel()
	clients.Wait()
	t.Logf("%d requests", answers.Load())
	assert.Zero(t, failures.Load())
}

func TestASignalThatDoesNotStopAContainerKeepsItsTraffic(t *testing.T) {
	p := newProxy(slog.New(slog.DiscardHandler), false)
	for _, c := range []struct {
		action, signal string
		matters, stops bool
	}{
		{"kill", "1", true, false}, {"kill", "15", true, true}, {"start", "", true, false}, {"kill", "9", true, true},
		{"restart", "", true, false}, {"exec_create: /bin/true", "", false, false}, {"exec_die", "", false, false},
		{"top", "", false, false}, {"health_status: healthy", "", true, false}, {"", "", true, false},
	} {
		var ev event
		ev.Action, ev.Actor.ID, ev.Actor.Attributes.Signal = c.action, "a", c.signal
		assert.Equal(t, c.matters, p.note(ev), c.action)
		assert.Equal(t, c.stops, len(p.stops()) == 1, c.action)
	}
	p.stopping["a"] = time.Now().Add(-2 * stopFor)
	assert.Empty(t, p.stops(), "a container that ignores the signal gets traffic again")
}

func TestAWebSocketSurvivesChangesOfOtherContainers(t *testing.T) {
	const hello = "\x81\x85\x00\x00\x00\x00hello"
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil && c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n") == nil {
			for err == nil {
				var frame string // client frames are masked; the answer is not
				if frame, err = c.ReadString(2); err == nil && frame[0] == 0x81 {
					_, _ = c.ReadString(len(hello) - 2)
					err = c.Send("\x81\x05hello")
				} else {
					return
				}
			}
		}
	})
	d := newDaemon(t).set(newBox("a", backend.Addr(), "hostproxy.host=a.test")).start()
	r := follow(t, d)
	r.says("a.test")
	c := proxytest.Dial(t, r.addr)
	c.Send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	c.Head()
	echo := func() {
		t.Helper()
		c.Send(hello)
		c.Expect("\x81\x05hello")
	}
	echo()
	d.set(newBox("b", service(t, "b"), "hostproxy.host=a.test"), newBox("c", service(t, "c"), "hostproxy.host=c.test"))
	d.event("start", "b", "")
	r.becomes("c.test/", "200 c")
	echo()
	d.remove("b")
	d.remove("c")
	d.event("die", "b", "")
	r.becomes("c.test/", "404 ")
	echo()
	d.stop()
	r.says("the events have ended")
	r.says("cannot follow the containers")
	echo()
	d.set(newBox("d", service(t, "d"), "hostproxy.host=d.test")).start()
	r.becomes("d.test/", "200 d")
	echo()
	d.remove("a")
	d.event("die", "a", "")
	r.becomes("a.test/", "404 ")
	c.Expect("\x88")
	c.Send("\x88\x80\x00\x00\x00\x00")
	assert.Contains(t, c.Rest(), "\x03\xe9", "closed with 1001")
}

func TestALateDaemonIsFoundAndALostOneLeavesTheRoutes(t *testing.T) {
	t.Parallel()
	d := newDaemon(t).set(newBox("a", service(t, "one"), "hostproxy.host=a.test"))
	r := follow(t, d, func(p *proxy, _ *engine) {
		require.NoError(t, p.add("fixed.test="+service(t, "fixed")))
		require.NoError(t, p.apply(nil))
	})
	assert.Equal(t, "200 fixed /", r.ask("fixed.test/"))
	r.says("cannot follow the containers")
	d.start()
	r.becomes("a.test/", "200 one")
	for range 3 {
		d.stop()
		assert.Equal(t, "200 one /", r.ask("a.test/"))
		d.start()
		d.set(newBox("b", service(t, "two"), "hostproxy.host=b.test"))
		r.becomes("b.test/", "200 two")
		d.remove("b")
		d.event("die", "b", "")
		r.becomes("b.test/", "404 ")
	}
	assert.Equal(t, "200 fixed /", r.ask("fixed.test/"))
}

func TestAnEventBetweenConnectingAndListingIsNotLost(t *testing.T) {
	d := newDaemon(t).set(newBox("a", service(t, "one"), "hostproxy.host=a.test")).start()
	late := newBox("b", service(t, "two"), "hostproxy.host=b.test")
	first := true
	d.answer(func(w http.ResponseWriter, q *http.Request) bool {
		if q.URL.Path == "/containers/a/json" && first { // the list was sent, without b
			first = false
			d.set(late)
			d.event("start", "b", "")
		}
		return false
	})
	r := follow(t, d)
	r.becomes("b.test/", "200 two")
}

func TestABurstOfEventsCausesFewLists(t *testing.T) {
	t.Parallel()
	d := newDaemon(t).set(newBox("a", service(t, "one"), "hostproxy.host=a.test")).start()
	r := follow(t, d, func(p *proxy, _ *engine) { p.gather = 300 * time.Millisecond })
	r.becomes("a.test/", "200 one")
	for i := range 5000 {
		d.event("exec_start: check", fmt.Sprint(i), "")
		d.event("start", fmt.Sprint(i), "")
	}
	d.set(newBox("b", service(t, "two"), "hostproxy.host=b.test"))
	d.event("start", "b", "")
	r.becomes("b.test/", "200 two")
	assert.Less(t, d.listed(), 50, "of 5,001 events that matter")
}

func TestGarbageFromTheSocketChangesNothing(t *testing.T) {
	t.Parallel()
	garbage := func(status int, text string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		}
	}
	for name, c := range map[string]struct {
		path   string
		answer func(http.ResponseWriter)
		says   string
	}{
		"a list that is HTML":          {"/containers/json", garbage(200, "<html>"), "not the JSON"},
		"a list that is an object":     {"/containers/json", garbage(200, `{"Id":"x"}`), "not the JSON"},
		"a list that is cut":           {"/containers/json", garbage(200, `[{"Id":"a"`), "not the JSON"},
		"an error":                     {"/containers/json", garbage(500, `{"message":"database is locked"}`), "database is locked"},
		"a proxy that forbids":         {"/containers/json", garbage(403, `Forbidden`), "status 403"},
		"a container that is a number": {"/containers/a/json", garbage(200, `7`), "not the JSON"},
		"a container without an ID":    {"/containers/a/json", garbage(200, `{}`), "has no ID"},
		"a container without a date":   {"/containers/a/json", garbage(200, `{"Id":"a","Created":"soon"}`), "not the JSON"},
		"an error for a container":     {"/containers/a/json", garbage(500, `oops`), "oops"},
		"events that are no JSON":      {"/events", garbage(200, "%%%\n"), "an event is not JSON"},
		"events that end":              {"/events", garbage(200, ""), "ended the events"},
		"an event that is too long":    {"/events", garbage(200, strings.Repeat("x", maxEvent+1)), "token too long"},
		"events that are forbidden":    {"/events", garbage(403, "no"), "status 403"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t).set(newBox("a", service(t, "one"), "hostproxy.host=a.test")).start()
			r := follow(t, d)
			r.becomes("a.test/", "200 one")
			d.answer(func(w http.ResponseWriter, q *http.Request) bool {
				if q.URL.Path != c.path {
					return false
				}
				c.answer(w)
				return true
			})
			d.set(newBox("b", service(t, "two"), "hostproxy.host=b.test"))
			if c.path == "/events" {
				d.hangUp()
			} else {
				d.event("start", "b", "")
			}
			r.says(c.says)
			assert.Equal(t, "200 one /", r.ask("a.test/"))
			d.answer(nil)
			r.becomes("b.test/", "200 two")
		})
	}
}

func TestAContainerThatTheDaemonHangsOnDelaysNoOther(t *testing.T) {
	t.Parallel()
	d := newDaemon(t).set(newBox("a", service(t, "one"), "hostproxy.host=a.test")).start()
	r := follow(t, d, func(_ *proxy, e *engine) { e.patience = 200 * time.Millisecond })
	r.becomes("a.test/", "200 one")
	d.answer(func(_ http.ResponseWriter, q *http.Request) bool {
		if q.URL.Path != "/containers/a/json" {
			return false
		}
		<-q.Context().Done()
		return true
	})
	d.set(newBox("b", service(t, "two"), "hostproxy.host=b.test"))
	d.event("start", "b", "")
	r.becomes("b.test/", "200 two")
	assert.Equal(t, "200 one /", r.ask("a.test/"), "its route stays as it was")
	r.says("deadline exceeded")
}

func TestAnInvalidRouteStopsNoOther(t *testing.T) {
	p := newProxy(slog.New(slog.DiscardHandler), false)
	good := &route{settings: settings{scheme: "http"}, targets: []string{"http://127.0.0.1:1"}}
	require.NoError(t, p.apply(map[string]*route{"a.test": good}))
	before := p.live["a.test"].upstream
	bad := &route{settings: settings{scheme: "http"}, targets: []string{"nonsense"}}
	err := p.apply(map[string]*route{"a.test": bad, "b.test": good, "c.test": bad})
	assert.ErrorContains(t, err, `route "a.test"`)
	assert.ErrorContains(t, err, `route "c.test"`)
	assert.Same(t, before, p.live["a.test"].upstream)
	assert.NotNil(t, p.live["b.test"])
	require.NoError(t, p.apply(map[string]*route{"a.test": good}))
	assert.Same(t, before, p.live["a.test"].upstream)
}

func TestAHangingDaemonIsAskedAgain(t *testing.T) {
	t.Parallel()
	d := newDaemon(t).start()
	hung := make(chan struct{}, 100)
	d.answer(func(_ http.ResponseWriter, q *http.Request) bool {
		if q.URL.Path != "/containers/json" {
			return false
		}
		hung <- struct{}{}
		<-q.Context().Done()
		return true
	})
	r := follow(t, d, func(_ *proxy, e *engine) { e.patience = 50 * time.Millisecond })
	<-hung
	<-hung // the proxy tries again
	d.answer(nil)
	d.set(newBox("a", service(t, "one"), "hostproxy.host=a.test"))
	r.becomes("a.test/", "200 one")
}

func TestRefusedContainersAreNamedOnceAndOthersStay(t *testing.T) {
	d := newDaemon(t).set(
		newBox("good", service(t, "one"), "hostproxy.host=a.test"),
		newBox("typo", service(t, "two"), "hostproxy.hosts=b.test"),
		newBox("thief", service(t, "three"), "hostproxy.host=a.test,mine.test", "com.docker.compose.project=x").with("Created", "2026-01-02T00:00:00Z"),
	).start()
	r := follow(t, d)
	r.becomes("mine.test/", "200 three")
	for range 3 {
		n := d.listed()
		d.event("start", "good", "")
		proxytest.Eventually(t, "the daemon is asked again", func() bool { return d.listed() > n })
	}
	for range 10 {
		assert.Equal(t, "200 one /", r.ask("a.test/"))
	}
	for _, line := range []string{"container=typo", "container=thief"} {
		assert.Equal(t, 1, strings.Count(r.log.String(), line), r.log.String())
	}
	assert.Contains(t, r.log.String(), `belongs to container \"good\"`)
	d.remove("good")
	d.event("die", "good", "")
	r.becomes("a.test/", "200 three")
}
