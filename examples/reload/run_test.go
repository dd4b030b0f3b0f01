package reload_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/reload"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// A running is a proxy in a test.
type running struct {
	*reload.Proxy
	t        *testing.T
	log      *proxytest.Log
	reloaded chan error
	addr     string // address of the first listener
	cancel   context.CancelFunc
	done     chan struct{}
	err      error
}

// plain configures one listener, without TLS.
const plain = "listeners: [{addr: \"127.0.0.1:0\", role: plain}]\n"

// write replaces a file by rename, as editors do.
func write(t *testing.T, file, text string, args ...any) {
	t.Helper()
	require.NoError(t, os.WriteFile(file+".new", fmt.Appendf(nil, text, args...), 0o600))
	require.NoError(t, os.Rename(file+".new", file))
}

// start runs p. If there is a text, it writes it to p's file first.
func start(t *testing.T, p *reload.Proxy, text string, args ...any) *running {
	t.Helper()
	if p.File == "" {
		p.File = filepath.Join(t.TempDir(), "proxy.yaml")
	}
	if text != "" {
		write(t, p.File, text, args...)
	}
	r := &running{Proxy: p, t: t, log: new(proxytest.Log), reloaded: make(chan error, 100), done: make(chan struct{})}
	p.Stderr = r.log
	p.Reloaded = func(err error) { r.reloaded <- err }
	if p.Settle == 0 {
		p.Settle = 50 * time.Millisecond
	}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(r.done)
		r.err = p.Run(ctx)
	}()
	t.Cleanup(func() { assert.NoError(t, r.stop()) })
	proxytest.Eventually(t, "listeners", func() bool {
		select {
		case <-r.done:
			return true
		default:
			return p.Addrs() != nil
		}
	})
	if as := p.Addrs(); len(as) > 0 {
		r.addr = as[0].String()
	}
	return r
}

func (r *running) stop() error {
	r.cancel()
	<-r.done
	err := r.err
	r.err = nil
	return err
}

// next returns the result of the next reload.
func (r *running) next() error {
	r.t.Helper()
	timer := time.NewTimer(2 * proxytest.Patience)
	defer timer.Stop()
	select {
	case err := <-r.reloaded:
		return err
	case <-timer.C:
		r.t.Fatalf("no reload; the log: %s", r.log)
		return nil
	}
}

// get returns the status and body of a GET for a host.
func (r *running) get(host string) string {
	r.t.Helper()
	return get(r.t, proxytest.HTTPClient(r.t, r.addr, nil, "h1"), "http://"+host+"/")
}

func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	p, err := client.Get(url)
	require.NoError(t, err)
	defer p.Body.Close()
	body, err := io.ReadAll(p.Body)
	require.NoError(t, err)
	return fmt.Sprintf("%d %s", p.StatusCode, body)
}

// named returns a server that answers with its name.
func named(t *testing.T, name string) string {
	return proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })).Addr()
}

func TestAChangedFileIsPutInForce(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	r := start(t, &reload.Proxy{}, plain+"routes: {app.localhost: %s}", a)
	assert.Equal(t, "200 a", r.get("app.localhost"))
	write(t, r.File, plain+"routes: {app.localhost: %s, new.localhost: %[1]s}", b)
	require.NoError(t, r.next())
	assert.Equal(t, "200 b", r.get("app.localhost"))
	assert.Equal(t, "200 b", r.get("new.localhost"))
}

func TestABrokenFileAtTheStartIsRefusedWithAllFaults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "proxy.yaml")
	write(t, file, "routes:\n  app.localhost: {targets: nope, dial_timeout: 5}\n  b..c: localhost:1\nlog: {levl: debug}\n")
	err := (&reload.Proxy{File: file}).Run(context.Background())
	var faults reload.Faults
	require.ErrorAs(t, err, &faults)
	require.Len(t, faults, 4, "%s", faults.Lines())
	assert.Equal(t, file+`:2:19: routes[app.localhost].targets: target "nope": the port is missing: write nope:80 or another port`, faults[0].Error())
	assert.Equal(t, file+`:2:48: routes[app.localhost].dial_timeout: "5": want a duration with a unit, such as 500ms, 30s, 5m or 90d`, faults[1].Error())
	assert.Contains(t, faults[2].Error(), file+`:3:3: routes[b..c]: `)
	assert.Contains(t, faults[3].Error(), file+`:4:7: log: key "levl" is unknown: want `)
}

func TestABrokenFileLaterChangesNothingAndNoRequestFails(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	r := start(t, &reload.Proxy{}, plain+"routes: {app.localhost: %s}", a)
	load := new(load)
	load.run(t, r.addr)
	before := strings.Count(r.log.String(), "\n")
	write(t, r.File, plain+"routes:\n  app.localhost: {targets: %s, hedge: 1}\n  b.localhost: nope\n", a)
	err := r.next()
	var faults reload.Faults
	require.ErrorAs(t, err, &faults)
	require.Len(t, faults, 2)
	assert.Equal(t, before+1, strings.Count(r.log.String(), "\n"), r.log)
	line := lastLine(r.log)
	assert.Contains(t, line, "level=ERROR msg=\"configuration refused; the old one stays in force\"")
	assert.Contains(t, line, `faults=2`)
	for _, f := range faults {
		assert.Contains(t, line, strings.ReplaceAll(f.Error(), `"`, `\"`))
	}
	assert.Contains(t, r.get("b.localhost"), "404 ")
	for i := range 5 { // right and broken files in turn
		write(t, r.File, plain+"routes: {app.localhost: %s, n%d.localhost: localhost:1}", b, i)
		require.NoError(t, r.next())
		write(t, r.File, plain+"routes: {app.localhost: {targets: %s, dial_timeout: %ds}}", a, i+1)
		require.NoError(t, r.next())
		write(t, r.File, "routes: [")
		require.Error(t, r.next())
	}
	load.end(t)
}

func lastLine(b *proxytest.Log) string {
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	return lines[len(lines)-1]
}

// A load sends requests to app.localhost until end is called, and counts
// failures.
type load struct {
	stop          atomic.Bool
	count, failed atomic.Int64
	work          sync.WaitGroup
}

func (l *load) run(t *testing.T, addr string) {
	for range 4 {
		client := proxytest.HTTPClient(t, addr, nil, "h1")
		l.work.Go(func() {
			for !l.stop.Load() {
				p, err := client.Get("http://app.localhost/")
				if err != nil || p.StatusCode != 200 {
					l.failed.Add(1)
				}
				if err == nil {
					_, _ = io.Copy(io.Discard, p.Body)
					p.Body.Close()
				}
				l.count.Add(1)
			}
		})
	}
	t.Cleanup(func() { l.stop.Store(true); l.work.Wait() })
	proxytest.Eventually(t, "requests", func() bool { return l.count.Load() > 50 })
}

func (l *load) end(t *testing.T) {
	t.Helper()
	before := l.count.Load()
	proxytest.Eventually(t, "requests", func() bool { return l.count.Load() > before+50 })
	l.stop.Store(true)
	l.work.Wait()
	t.Logf("%d requests", l.count.Load())
	assert.Zero(t, l.failed.Load(), "of %d requests", l.count.Load())
}

func TestADeletedFileChangesNothingAndMayComeBack(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	r := start(t, &reload.Proxy{}, plain+"routes: {app.localhost: %s}", a)
	require.NoError(t, os.Remove(r.File))
	assert.ErrorContains(t, r.next(), "the file cannot be read")
	assert.Equal(t, "200 a", r.get("app.localhost"))
	write(t, r.File, plain+"routes: {app.localhost: %s}", b)
	require.NoError(t, r.next())
	assert.Equal(t, "200 b", r.get("app.localhost"))
}

func TestADirectoryThatIsDeletedAndComesBackIsWatchedAgain(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	dir := filepath.Join(t.TempDir(), "etc", "proxy")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	r := start(t, &reload.Proxy{File: filepath.Join(dir, "proxy.yaml")}, plain+"routes: {app.localhost: %s}", a)
	require.NoError(t, os.RemoveAll(dir))
	require.Error(t, r.next())
	require.NoError(t, os.MkdirAll(dir, 0o700))
	write(t, r.File, plain+"routes: {app.localhost: %s}", b)
	for r.next() != nil { // a reload may find it missing at first
	}
	assert.Equal(t, "200 b", r.get("app.localhost"))
}

// Kubernetes swaps the link ..data to another directory. The file is a link
// through ..data.
func TestASwappedLinkOfAConfigMapIsNoticed(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	dir := t.TempDir()
	version := func(name, target string) {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		write(t, filepath.Join(dir, name, "proxy.yaml"), plain+"routes: {app.localhost: %s}", target)
		require.NoError(t, os.Symlink(name, filepath.Join(dir, "..new")))
		require.NoError(t, os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")))
	}
	version("..1", a)
	file := filepath.Join(dir, "proxy.yaml")
	require.NoError(t, os.Symlink(filepath.Join("..data", "proxy.yaml"), file))
	outer := filepath.Join(t.TempDir(), "current") // the directory is behind another link
	require.NoError(t, os.Symlink(dir, outer))
	r := start(t, &reload.Proxy{File: filepath.Join(outer, "proxy.yaml")}, "")
	assert.Equal(t, "200 a", r.get("app.localhost"))
	version("..2", b)
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "..1")))
	require.NoError(t, r.next())
	assert.Equal(t, "200 b", r.get("app.localhost"))

	other := t.TempDir()
	write(t, filepath.Join(other, "proxy.yaml"), plain+"routes: {app.localhost: %s}", a)
	require.NoError(t, os.Symlink(other, outer+".new"))
	require.NoError(t, os.Rename(outer+".new", outer))
	require.NoError(t, r.next())
	assert.Equal(t, "200 a", r.get("app.localhost"))
}

func TestABurstOfWritesCausesOneReload(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	r := start(t, &reload.Proxy{Settle: 500 * time.Millisecond}, plain+"routes: {app.localhost: %s}", a)
	f, err := os.Create(r.File) // half-written, in place
	require.NoError(t, err)
	for _, part := range []string{plain, "routes:\n", "  app.localhost: {targets: ", b, "}\n"} {
		_, err = io.WriteString(f, part)
		require.NoError(t, err)
		require.NoError(t, f.Sync())
	}
	require.NoError(t, f.Close())
	write(t, r.File, plain+"routes: {app.localhost: %s, b.localhost: %[1]s}", b)
	require.NoError(t, r.next())
	assert.Equal(t, "200 b", r.get("b.localhost"))
	assert.Equal(t, "200 b", r.get("app.localhost"))
	assert.Equal(t, 1, strings.Count(r.log.String(), "configuration "), r.log)
	assert.Empty(t, r.reloaded)
}

func TestAFileThatStaysHalfWrittenIsRefused(t *testing.T) {
	a := named(t, "a")
	r := start(t, &reload.Proxy{}, plain+"routes: {app.localhost: %s}", a)
	for _, text := range []string{"", plain, plain + "routes:", plain + "routes:\n  app.localhost:", plain + "routes: {app.localh", "\x00\x00\x00"} {
		require.NoError(t, os.WriteFile(r.File, []byte(text), 0o600))
		var faults reload.Faults
		require.ErrorAs(t, r.next(), &faults, "%q", text)
		assert.Len(t, faults, 1, "%q", text)
		assert.Equal(t, "200 a", r.get("app.localhost"))
	}
}

func TestASettingThatCannotChangeWhileTheProxyRunsIsRefusedByName(t *testing.T) {
	a := named(t, "a")
	r := start(t, &reload.Proxy{}, plain+"routes: {app.localhost: %s}", a)
	write(t, r.File, "listeners: [{addr: \"127.0.0.1:0\", role: plain}, {addr: \":1\", role: plain}]\ntls: {email: ops@example.com}\n"+
		"server:\n  proxy_protocol: {from: 10.0.0.1}\nrequest_id: {name: X-Id}\nroutes: {app.localhost: %s, b.localhost: %[1]s}", a)
	err := r.next()
	for _, want := range []string{
		":1:50: listeners[1].addr: (none) -> \":1\": this cannot change", ":2:7: tls.email: (none) -> \"ops@example.com\": this cannot change while the proxy runs: restart it, or change it back",
		":4:20: server.proxy_protocol.from: (none) -> [10.0.0.1/32]: this cannot change", ":5:14: request_id.name: ",
	} {
		assert.ErrorContains(t, err, want)
	}
	assert.Contains(t, r.get("b.localhost"), "404 ")
}

func TestLimitsAndLoggingChangeAtOnce(t *testing.T) {
	a := named(t, "a")
	r := start(t, &reload.Proxy{}, plain+"routes: {app.localhost: %s}", a)
	log := filepath.Join(filepath.Dir(r.File), "access.log")
	write(t, r.File, plain+"server: {max_header_bytes: 1KiB, idle_timeout: 5s, drain_timeout: off}\nlog: {output: access.log, format: json, access: {omit_query: true}}\nroutes: {app.localhost: %s}", a)
	require.NoError(t, r.next())
	client := proxytest.HTTPClient(t, r.addr, nil, "h1")
	assert.Equal(t, "200 a", get(t, client, "http://app.localhost/x?secret=1"))
	q, err := http.NewRequest("GET", "http://app.localhost/", nil)
	require.NoError(t, err)
	q.Header.Set("X-Long", strings.Repeat("x", 8<<10))
	p, err := client.Do(q)
	require.NoError(t, err)
	p.Body.Close()
	assert.Equal(t, 431, p.StatusCode)
	text := func() string { b, _ := os.ReadFile(log); return string(b) }
	proxytest.Eventually(t, "the access log", func() bool { return strings.Contains(text(), `"path":"/x"`) })
	assert.NotContains(t, text(), "secret")

	require.NoError(t, os.Rename(log, log+".1")) // rotated: SIGHUP opens a new file
	require.NoError(t, r.Reload())
	assert.Contains(t, text(), "configuration in force")
	write(t, r.File, plain+"log: {output: no/such/directory}\nroutes: {app.localhost: %s}", a)
	assert.ErrorContains(t, r.Reload(), ":2:7: log.output: open ")
	assert.Contains(t, text(), "configuration refused")
}

func TestAFileThatCannotBeReadIsRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "proxy.yaml")
	assert.ErrorContains(t, (&reload.Proxy{File: file}).Run(context.Background()), "create it, or correct the name")
	assert.ErrorContains(t, (&reload.Proxy{File: dir}).Run(context.Background()), "is no regular file")
	require.NoError(t, os.WriteFile(file, make([]byte, 17<<20), 0o600))
	assert.ErrorContains(t, (&reload.Proxy{File: file}).Run(context.Background()), "more than 16777216 bytes")
}

func TestAValidFileOfTenMegabytesIsReadAndAnInvalidOneRefused(t *testing.T) {
	a := named(t, "a")
	var text strings.Builder
	text.WriteString(plain + "routes:\n")
	for i := 0; text.Len() < 10<<20; i++ {
		fmt.Fprintf(&text, "  h%d.example.com: {targets: %s, dial_timeout: 5s, retry: {attempts: 2}} # %s\n", i, a, strings.Repeat("comment ", 400))
	}
	r := start(t, &reload.Proxy{}, "%s", text.String())
	begin := time.Now()
	assert.Equal(t, "200 a", r.get("h7.example.com"))
	write(t, r.File, "%s", text.String()+"  last.example.com: {targets: "+a+"}\n")
	require.NoError(t, r.next())
	t.Logf("%d bytes read again in %v", text.Len(), time.Since(begin))
	assert.Equal(t, "200 a", r.get("last.example.com"))
	write(t, r.File, "%s", strings.ReplaceAll(text.String(), "5s", "5"))
	err := r.next()
	assert.ErrorContains(t, err, "more")
	assert.Less(t, len(lastLine(r.log)), 20<<10)
}

func TestAChangedSecretIsInForceAtOnceAndAWebSocketStays(t *testing.T) {
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		if _, err := c.ReadRequest(); err == nil && c.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n") == nil {
			_, _ = io.Copy(c, c)
		}
	})
	const hash = "$2a$04$r.H.IwusjCYoQM/2jE2t1ex2PJE9s8XUMzwU8yUGnPrQeuF57GLjS"
	other := named(t, "other")
	r := start(t, &reload.Proxy{}, plain+"routes: {app.localhost: %s}", backend.Addr())
	upgrade := "GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	c := proxytest.Dial(t, r.addr)
	c.Send(upgrade)
	c.Head()
	stays := func() {
		t.Helper()
		c.Send("hello")
		c.Expect("hello")
	}
	users := filepath.Join(filepath.Dir(r.File), "users")
	write(t, users, "# all\nann:%s\n", hash)
	for _, text := range []string{
		"routes: {app.localhost: {targets: %s, basic_auth: {users_file: users}}}",
		"routes: {app.localhost: {targets: %s, basic_auth: {users_file: users}, guard: {deny: 10.0.0.1}}, b.localhost: localhost:1}",
		"routes: {app.localhost: {targets: [%s, \"%s\"], basic_auth: {users_file: users}}}",
		"routes: {app.localhost: {targets: %s, basic_auth: {users_file: users}, maintenance: {status: 503, body: soon}}}",
	} {
		args := []any{backend.Addr(), other}
		write(t, r.File, "%s", plain+fmt.Sprintf(text, args[:strings.Count(text, "%s")]...))
		require.NoError(t, r.next(), text)
		stays()
		assert.Equal(t, 401, proxytest.Dial(t, r.addr).Do(upgrade).StatusCode)
	}
	write(t, users, "ben:%s\n", hash) // the users file is watched too
	require.NoError(t, r.next())
	stays()
	write(t, users, "ben:plain\n")
	assert.ErrorContains(t, r.next(), "users, line 1: want name:hash with a bcrypt hash")
	stays()
	write(t, users, "ben:%s\n", hash)
	require.NoError(t, r.next())
	stays()
	write(t, r.File, plain+"routes: {app.localhost: %s}", other) // the old target is gone
	require.NoError(t, r.next())
	require.NoError(t, c.Reset())
	assert.Equal(t, "200 other", r.get("app.localhost"))
}
