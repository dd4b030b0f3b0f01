package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A box is a container of the fake daemon, as its inspect endpoint returns it.
type box map[string]any

// newBox returns a running container on the network web. It listens at addr,
// 127.0.0.1:port.
func newBox(id, addr string, labels ...string) box {
	host, port, _ := strings.Cut(addr, ":")
	all := map[string]string{"hostproxy.port": port}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		all[k] = v
	}
	return box{
		"Id": id, "Name": "/" + id, "Created": "2026-01-01T00:00:00.5Z",
		"State":      map[string]any{"Status": "running"},
		"Config":     map[string]any{"Labels": all, "ExposedPorts": map[string]any{}},
		"HostConfig": map[string]any{"NetworkMode": "web"},
		"NetworkSettings": map[string]any{
			"Ports":    map[string]any{},
			"Networks": map[string]any{"web": map[string]any{"IPAddress": host, "Gateway": "127.0.0.1"}},
		},
	}
}

// with returns a copy of b with the value at a path such as State.Status.
func (b box) with(path string, v any) box {
	b = maps.Clone(b)
	key, rest, deeper := strings.Cut(path, ".")
	if deeper {
		inner, _ := b[key].(map[string]any)
		v = map[string]any(box(inner).with(rest, v))
	}
	b[key] = v
	return b
}

// container returns b decoded as the program does.
func (b box) container(t testing.TB) *container {
	t.Helper()
	text, err := json.Marshal(b)
	require.NoError(t, err)
	c := new(container)
	require.NoError(t, json.Unmarshal(text, c))
	c.Name = strings.TrimPrefix(c.Name, "/")
	return c
}

// A daemon is a fake of Docker's daemon, on a unix socket.
type daemon struct {
	t      testing.TB
	socket string
	server *proxytest.Server

	mu    sync.Mutex
	boxes map[string]box
	// answers instead of the daemon if it returns true
	override func(w http.ResponseWriter, q *http.Request) bool
	streams  map[chan string]bool
	lists    int
}

func newDaemon(t testing.TB) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "d") // t.TempDir may be too long for a socket's path
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &daemon{t: t, socket: filepath.Join(dir, "s"), boxes: map[string]box{}, streams: map[chan string]bool{}}
}

// start makes the daemon listen.
func (d *daemon) start() *daemon {
	d.t.Helper()
	d.server = proxytest.NewUnixServer(d.t, d.socket, d)
	d.t.Cleanup(d.hangUp)
	return d
}

// stop ends the daemon like a crash.
func (d *daemon) stop() {
	d.hangUp()
	d.server.CloseClientConnections()
	d.server.Close()
	_ = os.Remove(d.socket)
}

// hangUp ends the event streams.
func (d *daemon) hangUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for s := range d.streams {
		close(s)
	}
	clear(d.streams)
}

// set changes containers without an event.
func (d *daemon) set(boxes ...box) *daemon {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range boxes {
		d.boxes[b["Id"].(string)] = b
	}
	return d
}

// remove removes a container without an event.
func (d *daemon) remove(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.boxes, id)
}

// answer lets f answer the requests for which it returns true.
func (d *daemon) answer(f func(http.ResponseWriter, *http.Request) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.override = f
}

// send sends a line to all event streams.
func (d *daemon) send(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for s := range d.streams {
		s <- line
	}
}

func (d *daemon) event(action, id, signal string) {
	d.send(fmt.Sprintf(`{"Type":"container","Action":%q,"Actor":{"ID":%q,"Attributes":{"signal":%q,"name":%q}},"time":1}`, action, id, signal, id))
}

// listed returns how often the containers were listed.
func (d *daemon) listed() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lists
}

func (d *daemon) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	d.mu.Lock()
	override := d.override
	d.mu.Unlock()
	if override != nil && override(w, q) {
		return
	}
	switch id := strings.TrimSuffix(strings.TrimPrefix(q.URL.Path, "/containers/"), "/json"); {
	case q.Method != http.MethodGet:
		d.t.Errorf("the daemon is asked to %s %s: want GET only", q.Method, q.URL)
	case q.URL.Path == "/events":
		d.serveEvents(w, q)
	case q.URL.Path == "/containers/json":
		d.serveList(w)
	default:
		b, ok := d.box(id)
		if !ok {
			http.Error(w, `{"message":"No such container: `+id+`"}`, http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(b)
	}
}

// box returns the container with an ID or a name.
func (d *daemon) box(id string) (box, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range d.boxes {
		if b["Id"] == id || b["Name"] == "/"+id {
			return b, true
		}
	}
	return nil, false
}

func (d *daemon) serveList(w http.ResponseWriter) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lists++
	list := []any{}
	for id, b := range d.boxes {
		if b["State"].(map[string]any)["Status"] != "exited" {
			list = append(list, map[string]any{"Id": id, "Names": []any{b["Name"]}, "Labels": b["Config"].(map[string]any)["Labels"]})
		}
	}
	_ = json.NewEncoder(w).Encode(list)
}

func (d *daemon) serveEvents(w http.ResponseWriter, q *http.Request) {
	lines := make(chan string, 10_000)
	d.mu.Lock()
	d.streams[lines] = true
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.streams, lines)
	}()
	_ = http.NewResponseController(w).Flush()
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return
			}
			_, _ = fmt.Fprintln(w, line)
			_ = http.NewResponseController(w).Flush()
		case <-q.Context().Done():
			return
		}
	}
}

// A rig is a proxy that follows a fake daemon.
type rig struct {
	*daemon
	proxy *proxy
	log   *proxytest.Log
	addr  string
	t     testing.TB
}

// follow starts a proxy on the host. It follows d and serves plain HTTP.
func follow(t testing.TB, d *daemon, configure ...func(*proxy, *engine)) *rig {
	t.Helper()
	r := &rig{daemon: d, log: new(proxytest.Log), t: t}
	r.proxy = newProxy(slog.New(slog.NewTextHandler(r.log, nil)), false)
	r.proxy.gather, r.proxy.pause = 5*time.Millisecond, 10*time.Millisecond
	e, err := newEngine("unix://" + d.socket)
	require.NoError(t, err)
	for _, c := range configure {
		c(r.proxy, e)
	}
	server := proxytest.StartPlain(t, &hostproxy.Server{Router: &r.proxy.router})
	r.addr = server.Plain
	ctx := t.Context() // done before the Cleanup functions run
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.proxy.watch(ctx, e)
	}()
	t.Cleanup(func() { <-done })
	return r
}

// ask returns the status and the body of a GET for a URL without its scheme.
func (r *rig) ask(url string) string {
	r.t.Helper()
	host, path, _ := strings.Cut(url, "/")
	p := proxytest.Dial(r.t, r.addr).Do("GET /" + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
	return fmt.Sprint(p.StatusCode, " ", strings.TrimSpace(string(p.Content)))
}

// becomes waits until a GET gets the answer want.
func (r *rig) becomes(url, want string) {
	r.t.Helper()
	proxytest.Eventually(r.t, url+" is answered with "+want, func() bool { return strings.HasPrefix(r.ask(url), want) })
}

// says waits until the log contains text.
func (r *rig) says(text string) {
	r.t.Helper()
	proxytest.Eventually(r.t, "the log says "+text, func() bool { return strings.Contains(r.log.String(), text) })
}
