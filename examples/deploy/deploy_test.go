package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
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

func TestAnAppIsDeployedRolledBackAndRemoved(t *testing.T) {
	proxytest.NoLeaks(t)
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	status, _ := r.get()
	assert.Equal(t, 404, status)

	assert.Equal(t, "app: "+one.Addr()+" is in use for app.localhost\n", r.must("app", "app.localhost", one.Addr(), "-health", "/up"))
	assert.Equal(t, "one", r.says())
	assert.Equal(t, "app: "+two.Addr()+" is in use in place of "+one.Addr()+"\n", r.must("deploy", "app", "app.localhost", two.Addr()))
	assert.Equal(t, "two", r.says())
	r.must("rollback", "app")
	assert.Equal(t, "one", r.says())
	assert.Equal(t, []string{two.Addr()}, r.state().Previous)
	assert.Contains(t, r.must("list"), "app.localhost")

	r.must("stop", "app")
	status, text := r.get()
	assert.Equal(t, 503, status)
	assert.Equal(t, "This site is stopped.\n", text)
	r.must("resume", "app")
	assert.Equal(t, "one", r.says())
	r.must("remove", "app")
	status, _ = r.get()
	assert.Equal(t, 404, status)
	_, err := r.do("rollback", "app")
	assert.ErrorContains(t, err, `there is no app "app"`)
}

func TestADeployCommandHasSeveralForms(t *testing.T) {
	for _, words := range []string{
		"app app.localhost a:1 b:2 -health /up", "deploy app app.localhost a:1 b:2 -health=/up", "-health /up deploy app app.localhost a:1 b:2",
		"deploy --target a:1 --target b:2 --host app.localhost --health /up app", "deploy app -health /up -host app.localhost a:1 b:2",
		"app app.localhost -target a:1 -health /up -target b:2",
	} {
		q, _, err := parse(strings.Fields(words))
		if strings.HasPrefix(words, "-") {
			assert.Error(t, err, words)
			continue
		}
		require.NoError(t, err, words)
		assert.Equal(t, []any{"deploy", "app", "app.localhost", []string{"a:1", "b:2"}, "/up"}, []any{q.Command, q.App, q.Host, q.Targets, q.Settings.Health}, words)
	}
}

func TestATargetThatNeverBecomesHealthyChangesNothing(t *testing.T) {
	t.Parallel()
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr(), "-health", "/up")
	two.up.Store(false)
	for _, bad := range []string{two.Addr(), proxytest.Refused(t)} {
		_, err := r.do("app", "app.localhost", bad, "-ready", "300ms")
		assert.ErrorContains(t, err, "health: ")
		assert.ErrorContains(t, err, bad)
		assert.ErrorContains(t, err, one.Addr()+" stays in use")
		assert.Equal(t, "one", r.says())
		assert.Equal(t, []string{one.Addr()}, r.state().Targets)
		assert.Empty(t, r.state().Previous)
	}
	assert.Equal(t, exitFailed, command([]string{"app", "app.localhost", two.Addr(), "-ready", "100ms", "-dir", r.dir}))

	_, err := r.do("new", "new.localhost", two.Addr(), "-health", "/up", "-ready", "100ms")
	assert.ErrorContains(t, err, "nothing has changed")
	assert.NotContains(t, r.must("list"), "new")
}

func TestAStateThatCannotBeStoredChangesNothing(t *testing.T) {
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr())
	require.NoError(t, os.MkdirAll(filepath.Join(r.dir, "state.json.new", "in the way"), 0o700))
	for _, words := range [][]string{{"app", "app.localhost", two.Addr()}, {"maintain", "app"}, {"pause", "app"}, {"stop", "app"},
		{"remove", "app"}, {"canary", "app", two.Addr(), "-share", "1"}, {"other", "other.localhost", two.Addr()}} {
		_, err := r.do(words...)
		assert.ErrorContains(t, err, "state: the state cannot be stored", "%q", words)
		assert.Equal(t, "one", r.says(), "%q", words)
	}
	require.NoError(t, os.RemoveAll(filepath.Join(r.dir, "state.json.new")))
	r.must("app", "app.localhost", two.Addr())
	assert.Equal(t, "two", r.says())
}

func TestASecondDeployIsRefusedAndARollbackCancelsTheFirst(t *testing.T) {
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr(), "-health", "/up")
	two.up.Store(false)
	first := r.begin("app", "app.localhost", two.Addr())
	r.await("health")
	_, err := r.do("app", "app.localhost", one.Addr())
	assert.ErrorContains(t, err, `a deploy of "app" is in progress`)
	assert.ErrorContains(t, err, "(health): wait until it has ended, or cancel it by deploy rollback app")
	assert.Equal(t, "app: a deploy was canceled; "+one.Addr()+" stays in use\n", r.must("rollback", "app"))
	assert.ErrorContains(t, (<-first).err, "canceled by a rollback")
	assert.Equal(t, "one", r.says())
	assert.Empty(t, r.state().Previous)
}

func TestStopCancelsADeploy(t *testing.T) {
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	two.up.Store(false)
	first := r.begin("app", "app.localhost", two.Addr(), "-health", "/up")
	r.await("health")
	assert.Equal(t, "app: the first deploy was canceled\n", r.must("stop", "app"))
	err := (<-first).err
	assert.ErrorContains(t, err, "canceled by stop or remove")
	assert.ErrorContains(t, err, "nothing has changed")

	r.must("app", "app.localhost", one.Addr(), "-health", "/up")
	second := r.begin("app", "app.localhost", two.Addr())
	r.await("health")
	assert.Equal(t, "app is stopped\n", r.must("stop", "app"))
	assert.ErrorContains(t, (<-second).err, "canceled by stop or remove")
	status, _ := r.get()
	assert.Equal(t, 503, status)
	two.up.Store(true)
	r.must("app", "app.localhost", two.Addr())
	assert.Equal(t, "two", r.says(), "a deploy starts the app again")
}

func TestAClientDisconnectCancelsACommandThatHasChangedNothing(t *testing.T) {
	t.Parallel()
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr(), "-health", "/up")
	two.up.Store(false)
	body, err := json.Marshal(request{Command: "deploy", App: "app", Host: "app.localhost", Targets: []string{two.Addr()}})
	require.NoError(t, err)
	c, err := net.Dial("unix", filepath.Join(r.dir, socketName))
	require.NoError(t, err)
	_, err = fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: deploy\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	require.NoError(t, err)
	r.await("health")
	c.Close()
	proxytest.Eventually(t, "the end of the deploy", func() bool { return r.row().InProgress == "" })
	proxytest.Eventually(t, "the log", func() bool { return strings.Contains(r.log.String(), "the client has disconnected") })
	two.up.Store(true)
	assert.Equal(t, "one", r.says())
	r.must("app", "app.localhost", two.Addr())
}

func TestRequestsOfTheOldTargetFinish(t *testing.T) {
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr())
	slow := make(chan string, 1)
	go func() {
		_, text := r.get(func(q *http.Request) { q.URL.Path = "/slow" })
		slow <- text
	}()
	proxytest.Eventually(t, "the slow request", func() bool { return len(one.Seen()) > 0 })
	deploy := r.begin("app", "app.localhost", two.Addr())
	proxytest.Eventually(t, "the switch", func() bool { return r.says() == "two" })
	assert.Empty(t, deploy, "the deploy waits for the drain")
	r.must("rollback", "app") // the drain does not prevent a rollback
	assert.Equal(t, "one", r.says())
	close(one.gates)
	assert.Equal(t, "one", <-slow)
	assert.NoError(t, (<-deploy).err)
}

func TestADrainThatIsCutOffIsAWarning(t *testing.T) {
	t.Parallel()
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	defer close(one.gates)
	r.must("app", "app.localhost", one.Addr(), "-drain", "100ms")
	go func() {
		q, _ := http.NewRequest("GET", "http://"+r.addr+"/slow", nil)
		q.Host = "app.localhost"
		if p, err := http.DefaultTransport.RoundTrip(q); err == nil {
			p.Body.Close()
		}
	}()
	proxytest.Eventually(t, "the slow request", func() bool { return len(one.Seen()) > 0 })
	assert.Contains(t, r.must("app", "app.localhost", two.Addr()), "warning: drain: hostproxy: the new targets are in use")
	assert.Equal(t, "two", r.says())
	http.DefaultClient.CloseIdleConnections()
}

func TestADeployDuringAPauseKeepsThePause(t *testing.T) {
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr())
	r.must("pause", "app", "-for", "20s")
	waits := make(chan string, 1)
	go func() { waits <- r.says() }()
	r.must("app", "app.localhost", two.Addr())
	assert.Empty(t, waits)
	assert.Contains(t, r.row().State, "requests wait until")
	r.must("resume", "app")
	assert.Equal(t, "two", <-waits)
}

func TestRequestsDoNotWaitLongerThanThePause(t *testing.T) {
	r, one := start(t), newVersion(t, "one")
	r.must("app", "app.localhost", one.Addr())
	r.must("pause", "app", "-for", "50ms")
	status, _ := r.get()
	assert.Equal(t, 503, status)
	assert.Contains(t, r.must("list"), "paused for too long")
	r.must("resume", "app")
	assert.Equal(t, "one", r.says())
}

func TestStopAnswersRequestsThatWait(t *testing.T) {
	for _, word := range []string{"stop", "remove"} {
		r, one := start(t), newVersion(t, "one")
		r.must("app", "app.localhost", one.Addr())
		r.must("pause", "app", "-for", "1m")
		waits := make(chan int, 1)
		go func() {
			status, _ := r.get(func(q *http.Request) { q.URL.Path = "/waits" })
			waits <- status
		}()
		r.must(word, "app")
		assert.Contains(t, []int{503, 404}, <-waits) // 404 if it came after remove
		assert.Empty(t, one.Seen())
	}
}

func TestASecondRollbackIsRefusedWhileOneWaits(t *testing.T) {
	t.Parallel()
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr(), "-health", "/up")
	r.must("app", "app.localhost", two.Addr())
	one.up.Store(false)
	first := r.begin("rollback", "app")
	r.await("health")
	_, err := r.do("rollback", "app")
	assert.ErrorContains(t, err, "a rollback of \"app\" is in progress")
	one.up.Store(true)
	assert.NoError(t, (<-first).err)
	assert.Equal(t, "one", r.says())
}

func TestMaintainShowsAPage(t *testing.T) {
	r, one := start(t), newVersion(t, "one")
	r.must("app", "app.localhost", one.Addr())
	file := filepath.Join(r.dir, "page.html")
	require.NoError(t, os.WriteFile(file, []byte("<h1>soon</h1>"), 0o600))
	r.must("maintain", "app", "-page", file, "-status", "502", "-retry-after", "1m")
	status, text := r.get()
	assert.Equal(t, 502, status)
	assert.Equal(t, "<h1>soon</h1>", text)
	r.must("pause", "app") // replaces the page
	assert.Contains(t, r.row().State, "wait")
	r.must("resume", "app")
	assert.Equal(t, "one", r.says())
}

func TestEachMistakeInACommandIsAnError(t *testing.T) {
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr())
	r.must("other", "other.localhost", one.Addr())
	for _, tt := range []struct{ words, want string }{
		{"app", "want an app, its host and one or more targets"},
		{"App a.localhost " + one.Addr(), `app "App": want 1 to 64 lower-case letters`},
		{"deploy run a.localhost " + one.Addr(), `app "run" has the name of a command`},
		{"new a..b " + one.Addr(), "a..b"},
		{"new a.localhost nowhere", `"nowhere"`},
		{"new app " + one.Addr(), `"app" is the name of an app, not a host: is "new" meant as a command?`},
		{"new APP.localhost. " + one.Addr(), `belongs to app "app"`},
		{"app b.localhost " + one.Addr(), `"app" serves "app.localhost", not "b.localhost"`},
		{"app app.localhost " + two.Addr() + " -health /other", "has the settings of its first deploy"},
		{"new a.localhost " + one.Addr() + " -health up", `-health "up": want a path`},
		{"new a.localhost " + one.Addr() + " -drain 0s", "-drain 0s: want more than 0"},
		{"new a.localhost " + one.Addr() + " -guard -1s", "-guard -1s: want 0 or more"},
		{"new a.localhost " + one.Addr() + " -nothing", "not defined: -nothing"},
		{"pause app -for 2h", "-for 2h0m0s: want more than 0 and at most 1h0m0s"},
		{"pause", "pause: want the name of an app"},
		{"pause app other", `["other"] is too much`},
		{"list app", `["app"] is too much`},
		{"resume nobody", `there is no app "nobody"`},
		{"rollback app", "has no targets to go back to"},
		{"maintain app -status 204", "-status 204: want 200 to 599"},
		{"maintain app -status 0", "-status 0: want 200 to 599"},
		{"maintain app -page /nowhere/page", `-page "/nowhere/page": no such file`},
		{"canary app -end", `"app" has no canary`},
		{"canary app " + two.Addr(), "a canary without clients"},
		{"canary app " + two.Addr() + " -share 120%", `-share "120%": want more than 0`},
		{"canary app " + two.Addr() + " -header X", `-header "X": want a name and a value`},
		{"canary app " + two.Addr() + " -promote", "and not several of these"},
		{"canary app " + one.Addr() + " -share 1", "is in use for all clients"},
	} {
		_, err := r.do(strings.Fields(tt.words)...)
		assert.ErrorContains(t, err, tt.want, tt.words)
	}
	assert.Equal(t, "one", r.says())
	assert.Equal(t, exitUsage, command([]string{"pause"}))
	assert.Equal(t, exitUsage, command([]string{"run", "too", "much"}))
	assert.Equal(t, exitDone, command([]string{"pause", "-h"}))
	assert.Equal(t, exitFailed, command([]string{"list", "-dir", "/nowhere"}))
}

func TestACanaryGetsItsClientsUntilItEnds(t *testing.T) {
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr())
	r.must("canary", "app", two.Addr(), "-header", "X-Canary=1", "-cookie", "canary=yes")
	header := func(q *http.Request) { q.Header.Set("X-Canary", "1") }
	_, text := r.get(header)
	assert.Equal(t, "two", text)
	_, text = r.get(func(q *http.Request) { q.AddCookie(&http.Cookie{Name: "canary", Value: "yes"}) })
	assert.Equal(t, "two", text)
	_, text = r.get(func(q *http.Request) { q.Header.Set("X-Canary", "2") })
	assert.Equal(t, "one", text)
	_, err := r.do("app", "app.localhost", two.Addr())
	assert.ErrorContains(t, err, "has a canary")

	r.must("canary", "app", "-share", "100%")
	assert.Equal(t, "two", r.says())
	assert.Contains(t, r.must("list"), "for 100 % of the clients and the header X-Canary=1 and the cookie canary=yes")
	r.must("maintain", "app")
	status, _ := r.get(header)
	assert.Equal(t, 503, status)
	r.must("resume", "app")

	r.must("rollback", "app")
	_, text = r.get(header)
	assert.Equal(t, "one", text)
	assert.Nil(t, r.state().Canary)

	r.must("canary", "app", two.Addr(), "-share", "0.5")
	r.must("canary", "app", "-promote")
	assert.Equal(t, "two", r.says())
	assert.Equal(t, []string{one.Addr()}, r.state().Previous)
	assert.Nil(t, r.state().Canary)
}

func TestGarbageOnTheSocketDisturbsNoCommand(t *testing.T) {
	proxytest.NoLeaks(t)
	r, one := start(t), newVersion(t, "one")
	r.must("app", "app.localhost", one.Addr())
	info, err := os.Stat(filepath.Join(r.dir, socketName))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	post := "POST / HTTP/1.1\r\nHost: deploy\r\nConnection: close\r\nContent-Length: "
	for _, garbage := range []string{
		"\x16\x03\x01\x02\x00\x01\x00\x01", "\x00\x00\x00\x00\r\n\r\n", strings.Repeat("A", 100_000),
		"GET / HTTP/1.1\r\nHost: deploy\r\nConnection: close\r\n\r\n",
		post + "2\r\n\r\n{]", post + "4\r\n\r\nnull", post + "2\r\n\r\n[]", post + "0\r\n\r\n",
		post + "27\r\n\r\n{\"command\":\"x\",\"app\":\"app\"}",
		post + "18\r\n\r\n{\"command\":\"pause\"}", post + "15\r\n\r\n{\"unknown\":true}",
		post + "36\r\n\r\n{\"command\":\"pause\",\"app\":\"app\",\"for\":1e99}",
		post + "100\r\n\r\n{\"command\"",
	} {
		c, err := net.Dial("unix", filepath.Join(r.dir, socketName))
		require.NoError(t, err)
		_, _ = io.WriteString(c, garbage)
		_ = c.(*net.UnixConn).CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(proxytest.Patience))
		answer, _ := io.ReadAll(c)
		assert.NotContains(t, string(answer), "200 OK", garbage)
		c.Close()
	}
	held := make([]net.Conn, 50) // connections that send nothing
	for i := range held {
		held[i], err = net.Dial("unix", filepath.Join(r.dir, socketName))
		require.NoError(t, err)
		defer held[i].Close()
	}
	assert.Equal(t, "one", r.says())
	assert.Equal(t, "serves", r.row().State)
}

func TestConcurrentCommandsLeaveACorrectState(t *testing.T) {
	t.Parallel()
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr(), "-health", "/up")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	commands := [][]string{
		{"app", "app.localhost", two.Addr()}, {"app", "app.localhost", one.Addr(), "-guard", "50ms"}, {"rollback", "app"}, {"stop", "app"},
		{"resume", "app"}, {"pause", "app"}, {"canary", "app", two.Addr(), "-share", "50%"}, {"canary", "app", "-end"},
		{"canary", "app", "-promote"}, {"maintain", "app"}, {"list"},
	}
	done := make(chan int, 4)
	for i := range cap(done) {
		go func() {
			n := 0
			for ; ctx.Err() == nil; n++ {
				_, _ = r.do(commands[(i*3+n*(i+1))%len(commands)]...)
			}
			done <- n
		}()
	}
	n := 0
	for range cap(done) {
		n += <-done
	}
	t.Logf("%d commands", n)
	proxytest.Eventually(t, "the end of all", func() bool { return r.row().InProgress == "" })
	if s := r.state(); s.Canary != nil {
		r.must("canary", "app", "-end")
	}
	r.must("resume", "app")
	s := r.state()
	assert.Nil(t, s.Next)
	names := map[string]string{one.Addr(): "one", two.Addr(): "two"}
	assert.Equal(t, names[s.Targets[0]], r.says())
	assert.NotContains(t, r.log.String(), "panic")
}
