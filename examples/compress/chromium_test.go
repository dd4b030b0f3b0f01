package compress_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/compress"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// browserPage fetches a long text and reads three events. The site sends each
// further event once the page has reported the one before.
const browserPage = `<!doctype html><title>compressed</title><script>
const seen = {text: "", smaller: false, events: []};
async function text() {
  seen.text = await (await fetch("/text")).text();
  const t = performance.getEntriesByName(location.origin + "/text")[0];
  seen.smaller = t.encodedBodySize > 0 && t.encodedBodySize < t.decodedBodySize / 10;
}
function events() {
  return new Promise(done => {
    const source = new EventSource("/events");
    source.onmessage = e => {
      seen.events.push(e.data);
      if (e.data === "3") { source.close(); done(); } else fetch("/next", {method: "POST"});
    };
  });
}
Promise.all([text(), events()]).catch(e => seen.failure = String(e))
  .then(() => fetch("/report", {method: "POST", body: JSON.stringify(seen)}));
</script>`

type browserReport struct {
	Text, Failure string
	Smaller       bool
	Events        []string
}

// browserSite serves the page and what it fetches.
func browserSite(reports chan<- browserReport) http.Handler {
	next := make(chan struct{}, 2)
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, browserPage)
	})
	mux.HandleFunc("/text", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, prose)
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, event := range []string{"1", "2", "3"} {
			_, _ = io.WriteString(w, "data: "+event+"\n\n")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-next:
			case <-q.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/next", func(http.ResponseWriter, *http.Request) { next <- struct{}{} })
	mux.HandleFunc("/report", func(_ http.ResponseWriter, q *http.Request) {
		var r browserReport
		if err := json.NewDecoder(q.Body).Decode(&r); err != nil {
			r.Failure = err.Error()
		}
		reports <- r
	})
	return mux
}

func TestABrowserReadsCompressedTextAndEventsAsTheyCome(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	require.NoError(t, err, "chromium is not installed: apt-get install chromium")
	reports := make(chan browserReport, 1)
	_, run := place{upstream: true, protocol: "h2"}.start(t, compress.Options{}, browserSite(reports))
	_, port, err := net.SplitHostPort(run.HTTPS)
	require.NoError(t, err)
	profile, err := os.MkdirTemp("", "browser")
	require.NoError(t, err)
	// the browser's helper processes may still write files: that must not fail
	// the test
	t.Cleanup(func() { _ = os.RemoveAll(profile) })
	browser := exec.Command(chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--user-data-dir="+profile, "--ignore-certificate-errors", "--host-resolver-rules=MAP a.test 127.0.0.1", "https://a.test:"+port+"/")
	require.NoError(t, browser.Start())
	t.Cleanup(func() {
		_ = browser.Process.Signal(syscall.SIGTERM)
		_ = browser.Wait()
	})
	var got browserReport
	proxytest.Eventually(t, "the report of the page", func() bool {
		select {
		case got = <-reports:
			return true
		default:
			return false
		}
	})
	assert.Empty(t, got.Failure)
	assert.Equal(t, prose, got.Text)
	assert.True(t, got.Smaller, "the text was compressed on its way")
	assert.Equal(t, []string{"1", "2", "3"}, got.Events)
}
