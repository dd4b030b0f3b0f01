package conformance_test

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
)

// A tab is a page in a real browser, driven by the DevTools protocol. It is for
// one goroutine only.
type tab struct {
	t       *testing.T
	ctx     context.Context
	ws      *websocket.Conn
	id      int
	session string
	faults  []string // faults of the console, of scripts and of the content security policy
}

// newTab starts a browser. It ends with the test.
func newTab(t *testing.T) *tab {
	t.Helper()
	chromium, err := exec.LookPath("chromium")
	require.NoError(t, err, "chromium is not installed: apt-get install chromium")
	profile, err := os.MkdirTemp("", "browser")
	require.NoError(t, err)
	// unlike t.TempDir, this tolerates files that the browser's helpers still
	// write
	t.Cleanup(func() { _ = os.RemoveAll(profile) })
	browser := command(t, time.Minute, chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--user-data-dir="+profile, "--remote-debugging-port=0", "about:blank")
	stderr, err := browser.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, browser.Start())
	t.Cleanup(func() {
		_ = browser.Process.Signal(syscall.SIGTERM)
		_ = browser.Wait()
	})
	address := ""
	lines := bufio.NewScanner(stderr)
	for address == "" && lines.Scan() {
		_, address, _ = strings.Cut(lines.Text(), "DevTools listening on ")
	}
	require.NotEmpty(t, address, "the browser does not say where it listens")
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	t.Cleanup(cancel)
	b := &tab{t: t, ctx: ctx}
	b.ws, _, err = websocket.Dial(ctx, address, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.ws.CloseNow() })
	b.ws.SetReadLimit(64 << 20)
	var made struct{ TargetID string }
	b.do("Target.createTarget", map[string]any{"url": "about:blank"}, &made)
	var attached struct{ SessionID string }
	b.do("Target.attachToTarget", map[string]any{"targetId": made.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log", "Accessibility"} {
		b.do(domain+".enable", nil, nil)
	}
	return b
}

// do calls a method. It records the faults that the browser reports meanwhile.
func (b *tab) do(method string, params, result any) {
	b.t.Helper()
	b.id++
	call := map[string]any{"id": b.id, "method": method, "params": params}
	if params == nil {
		call["params"] = struct{}{}
	}
	if b.session != "" {
		call["sessionId"] = b.session
	}
	text, err := json.Marshal(call)
	require.NoError(b.t, err)
	require.NoError(b.t, b.ws.Write(b.ctx, websocket.MessageText, text))
	for {
		_, text, err := b.ws.Read(b.ctx)
		require.NoError(b.t, err, method)
		var m struct {
			ID     int
			Method string
			Params struct {
				Type  string
				Entry struct{ Level, Text string }
			}
			Result, Error json.RawMessage
		}
		require.NoError(b.t, json.Unmarshal(text, &m))
		switch {
		case m.Method == "Runtime.exceptionThrown",
			m.Method == "Runtime.consoleAPICalled" && (m.Params.Type == "error" || m.Params.Type == "warning"),
			m.Method == "Log.entryAdded" && (m.Params.Entry.Level == "error" || m.Params.Entry.Level == "warning"):
			b.faults = append(b.faults, string(text))
		case m.ID == b.id:
			require.Empty(b.t, string(m.Error), method)
			if result != nil {
				require.NoError(b.t, json.Unmarshal(m.Result, result))
			}
			return
		}
	}
}

// eval runs a script, waits if its value is a promise, and decodes the value.
func (b *tab) eval(script string, value any) {
	b.t.Helper()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	b.do("Runtime.evaluate", map[string]any{"expression": script, "awaitPromise": true, "returnByValue": true}, &r)
	require.Empty(b.t, string(r.ExceptionDetails))
	if value != nil {
		require.NoError(b.t, json.Unmarshal(r.Result.Value, value))
	}
}

// open shows a URL on a screen of this size, in a color scheme: light or dark.
func (b *tab) open(url, scheme string, width, height int) {
	b.t.Helper()
	b.do("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}, nil)
	b.do("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]any{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	var r struct{ ErrorText string }
	b.do("Page.navigate", map[string]any{"url": url}, &r)
	require.Empty(b.t, r.ErrorText)
	b.eval(`new Promise(done => {
		const look = () => location.href !== "about:blank" && document.readyState === "complete" ? done(true) : setTimeout(look, 10);
		look();
	})`, nil)
}

// shoot returns the whole page as a PNG.
func (b *tab) shoot() []byte {
	b.t.Helper()
	var r struct{ Data []byte }
	b.do("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}, &r)
	return r.Data
}
