package conformance_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// page does with five sites what browsers do, and reports what it saw to the
// first site.
const page = `<!doctype html><title>five sites</title><script>
const seen = {sites: [], events: [], upload: "", progress: false, echoes: [], protocols: []};
const port = location.port;
async function sites() {
  for (const name of ["one", "two", "three", "four", "five"])
    seen.sites.push(await (await fetch("https://" + name + ".localhost:" + port + "/who")).text());
}
function events() {
  return new Promise(done => {
    const source = new EventSource("/events");
    source.onmessage = e => { seen.events.push(e.data); if (e.data === "3") { source.close(); done(); } };
  });
}
function upload() {
  return new Promise((done, fail) => {
    const q = new XMLHttpRequest();
    q.upload.onprogress = e => {
      if (e.loaded < e.total && !seen.progress) { seen.progress = true; fetch("/goon"); }
    };
    q.onload = () => { seen.upload = q.responseText; done(); };
    q.onerror = fail;
    q.open("POST", "/upload");
    q.send(new Uint8Array(32 << 20));
  });
}
function echo() {
  return new Promise((done, fail) => {
    const ws = new WebSocket("wss://" + location.host + "/ws", "echo");
    ws.onopen = () => ws.send("hello");
    ws.onerror = fail;
    ws.onmessage = e => { seen.echoes.push(e.data); ws.send("bye"); };
    ws.onclose = e => { seen.echoes.push(e.code); done(); };
  });
}
Promise.all([sites(), events(), upload(), echo()]).catch(e => seen.failure = String(e)).then(() => {
  seen.protocols = [...new Set(performance.getEntriesByType("resource").map(e => e.nextHopProtocol))];
  return fetch("/report", {method: "POST", body: JSON.stringify(seen)});
});
</script>`

// A report is what the page reports.
type report struct {
	Sites, Events, Protocols []string
	Upload, Failure          string
	Progress                 bool // a part of the upload's progress was seen
	Echoes                   []any
}

// browsed serves the page and its requests, and passes on its report. It reads
// the rest of the upload only once the page has seen some progress: sockets and
// windows cannot hold the whole upload.
func browsed(reports chan<- report) http.HandlerFunc {
	seen := make(chan struct{})
	return func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Timing-Allow-Origin", "*")
		switch q.URL.Path {
		case "/":
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, page)
		case "/who":
			name, _, _ := strings.Cut(q.Host, ".")
			_, _ = io.WriteString(w, name)
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(w, "data: %d\n\n", i+1)
				_ = http.NewResponseController(w).Flush()
			}
			<-q.Context().Done() // until the page closes the stream
		case "/upload":
			part, _ := io.CopyN(io.Discard, q.Body, 1<<20)
			<-seen
			n, err := io.Copy(io.Discard, q.Body)
			fmt.Fprint(w, part+n, " ", err)
		case "/goon":
			close(seen)
		case "/ws":
			echo(w, q)
		case "/report":
			var r report
			if err := json.NewDecoder(q.Body).Decode(&r); err != nil {
				r.Failure = err.Error()
			}
			reports <- r
		}
	}
}

// A real browser uses five sites over HTTP/2: server-sent events, an upload
// with its progress, and a WebSocket in a stream (RFC 8441).
func TestABrowserIsServedOverHTTP2(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	require.NoError(t, err, "chromium is not installed: apt-get install chromium")
	reports := make(chan report, 1)
	backend := proxytest.NewServer(t, browsed(reports))

	var r hostproxy.Router
	hosts := []string{"one.localhost", "two.localhost", "three.localhost", "four.localhost", "five.localhost"}
	for _, host := range hosts {
		r.Handle(host, hostproxy.To(backend.Addr()))
	}
	cert, _ := proxytest.Certificate(t, hosts...)
	r.TLS.Config = &tls.Config{Certificates: []tls.Certificate{cert}}
	records := make(chan *hostproxy.Exchange, 100)
	r.Observe = func(x *hostproxy.Exchange) { records <- x }
	proxy := proxytest.Start(t, &hostproxy.Server{Router: &r})
	_, port, err := net.SplitHostPort(proxy.HTTPS)
	require.NoError(t, err)

	profile, err := os.MkdirTemp("", "browser")
	require.NoError(t, err)
	// unlike t.TempDir, this tolerates files that the browser's helpers still
	// write
	t.Cleanup(func() { _ = os.RemoveAll(profile) })
	browser := command(t, time.Minute, chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--user-data-dir="+profile, "--ignore-certificate-errors", "--remote-debugging-port=0", "https://one.localhost:"+port+"/")
	require.NoError(t, browser.Start())
	defer func() {
		_ = browser.Process.Signal(syscall.SIGTERM)
		_ = browser.Wait()
	}()
	var got report
	select {
	case got = <-reports:
	case <-time.After(50 * time.Second):
		t.Fatal("the page reports nothing")
	}
	assert.Empty(t, got.Failure)
	assert.Equal(t, []string{"one", "two", "three", "four", "five"}, got.Sites)
	assert.Equal(t, []string{"1", "2", "3"}, got.Events)
	assert.Equal(t, "33554432 <nil>", got.Upload)
	assert.True(t, got.Progress, "the upload's progress is seen during the upload")
	assert.Equal(t, []any{"hello", 4000.0}, got.Echoes)
	assert.Equal(t, []string{"h2"}, got.Protocols)
	for {
		x := <-records
		if x.Path == "/ws" {
			assert.Equal(t, "HTTP/2.0 CONNECT 200", fmt.Sprint(x.Proto, " ", x.Method, " ", x.Status))
			assert.NoError(t, x.Err)
			break
		}
	}
}
