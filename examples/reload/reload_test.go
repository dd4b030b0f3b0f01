package reload_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/reload"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// A buffer is a log.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A running is a proxy under test.
type running struct {
	*reload.Proxy
	t        *testing.T
	log      *buffer
	reloaded chan error
	addr     string // of the first listener
	cancel   context.CancelFunc
	done     chan struct{}
	err      error
}

// plain is a listener for routes without TLS.
const plain = "listeners: [{addr: \"127.0.0.1:0\", role: plain}]\n"

// write writes a file of the test by rename, as editors do.
func write(t *testing.T, file, text string, args ...any) {
	t.Helper()
	require.NoError(t, os.WriteFile(file+".new", fmt.Appendf(nil, text, args...), 0o600))
	require.NoError(t, os.Rename(file+".new", file))
}

// start runs p, whose file it writes if there is a text.
func start(t *testing.T, p *reload.Proxy, text string, args ...any) *running {
	t.Helper()
	if p.File == "" {
		p.File = filepath.Join(t.TempDir(), "proxy.yaml")
	}
	if text != "" {
		write(t, p.File, text, args...)
	}
	r := &running{Proxy: p, t: t, log: new(buffer), reloaded: make(chan error, 100), done: make(chan struct{})}
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

// next waits for the result of a reload.
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

// get returns status and body of a route.
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
	t.Log(faults.Lines())
	require.Len(t, faults, 2) // values first: the rest cannot be judged before
	assert.Equal(t, 2, faults[0].Line)
	assert.Equal(t, file+`:4:7: log: key "levl" is unknown: want level`, strings.Replace(faults[1].Error(), "want one of access, format, level, output", "want level", 1))
}
