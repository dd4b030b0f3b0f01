package status_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/status"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// page has one of everything, with name in every string that a client may
// choose.
func page(name string) status.Page {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return status.Page{
		Time: now,
		Routes: []status.Route{
			{Pattern: name, Handler: name, Targets: []status.Target{
				{Name: name, State: "up", InFlight: 3, Streams: 1, Answers: 12345, Failures: 2, P50: 1.25, P90: 8, P99: 80.5,
					Recent:  status.Recent{Seconds: 100, Attempts: 1000, Errors: 20, Spread: []uint64{0, 0, 0, 0, 0, 0, 0, 0, 1, 5, 300, 500, 174}},
					Changes: []status.Change{{Time: now.Add(-time.Hour), State: "down", Reason: name}, {Time: now, State: "up"}}},
				{Name: name, State: "down", Reason: name, Since: now},
				{Name: name, State: "half-open", Reason: name, Since: now},
			}, Queued: 2, Paused: true},
			{Pattern: name, Handler: name},
			{Pattern: name, Error: name, Sharing: 1},
		},
		Certificates: []status.Certificate{{Host: name, State: "valid", Issuer: name, NotAfter: now, Renewal: now}, {Host: name, State: "failed", Error: name},
			{Host: name, State: "failed", Error: name, Attempts: 3, NextTry: now, Check: name},
			{Host: name, State: "pending", Why: name}},
		Uncertified: []status.Uncertified{{Host: name, Why: name}},
		Servers: []status.Server{{Listeners: []status.Listener{{Addr: "[::]:443", TLS: true, Open: 7}, {Addr: "[::]:80"}},
			Refused: []status.Refusal{{What: "requests", Why: "400", Count: 9, Latest: now}}}},
		Failures: []status.Failure{{Time: now, Host: name, Path: name, Target: name, Status: 502, Op: "dial", Side: "upstream", Cause: name}},
	}
}

func get(t testing.TB, h http.Handler, method, target, accept string) *http.Response {
	t.Helper()
	q := httptest.NewRequest(method, target, nil)
	q.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, q)
	return w.Result()
}

func body(t testing.TB, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return string(b)
}

func handler(name string) http.Handler {
	return status.Handler(func() status.Page { return page(name) }, func(q *http.Request) *status.Explanation { return explanation(name, q) })
}

func TestTheMethodAndAcceptDecideTheResponse(t *testing.T) {
	h := handler("app.test")
	for _, tt := range []struct {
		method, target, accept string
		status                 int
		contentType            string
	}{
		{"GET", "/", "text/html,application/xhtml+xml,*/*;q=0.8", 200, "text/html; charset=utf-8"},
		{"GET", "/", "", 200, "text/html; charset=utf-8"},
		{"GET", "/", "application/json", 200, "application/json"},
		{"GET", "/", "text/html, application/json", 200, "text/html; charset=utf-8"},
		{"GET", "/?format=json", "text/html", 200, "application/json"},
		{"GET", "/?format=html", "application/json", 200, "text/html; charset=utf-8"},
		{"HEAD", "/", "", 200, "text/html; charset=utf-8"},
		{"POST", "/", "", 405, ""},
		{"DELETE", "/", "", 405, ""},
	} {
		t.Run(tt.method+" "+tt.target+" "+tt.accept, func(t *testing.T) {
			res := get(t, h, tt.method, tt.target, tt.accept)
			assert.Equal(t, tt.status, res.StatusCode)
			if tt.status == 405 {
				assert.Equal(t, "GET, HEAD", res.Header.Get("Allow"))
				return
			}
			assert.Equal(t, tt.contentType, res.Header.Get("Content-Type"))
			assert.Equal(t, "no-store", res.Header.Get("Cache-Control"))
			assert.Contains(t, res.Header.Get("Content-Security-Policy"), "default-src 'none'")
			assert.Equal(t, tt.method == "HEAD", body(t, res) == "")
		})
	}
}

func TestJSONSaysWhatThePageSays(t *testing.T) {
	var got status.Page
	require.NoError(t, json.Unmarshal([]byte(body(t, get(t, handler("app.test"), "GET", "/?format=json", ""))), &got))
	assert.Equal(t, page("app.test"), got)
}

func TestAFailedCertificateShowsTheNextStep(t *testing.T) {
	h := status.Handler(func() status.Page {
		return status.Page{Time: time.Now(), Certificates: []status.Certificate{
			{Host: "a.example.com", State: "failed", Error: "no record", NextTry: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Attempts: 3,
				Check: status.ReachCommand("a.example.com")},
			{Host: "nas.lan", State: "failed", Error: "no public CA signs it"},
			{Host: "new.example.com", State: "pending", Waiting: 64, Refused: 7},
			{Host: "good.example.com", State: "valid", NotAfter: time.Date(2026, 3, 2, 3, 4, 5, 0, time.UTC)},
		}}
	}, nil)
	b := body(t, get(t, h, "GET", "/", ""))
	assert.Contains(t, b, "3 failed attempts, next try <span class=\"when\">2026-01-02 03:04:05Z</span>")
	assert.Contains(t, b, "short a.example.com A a.example.com AAAA; curl")
	assert.Equal(t, 1, strings.Count(b, "not retried"), "only for the one that needs a change of the settings")
	assert.NotContains(t, b, "onclick")
	assert.Equal(t, 1, strings.Count(b, "<script"), "only the script of the page")
	assert.Equal(t, 1, strings.Count(b, "handshakes: "))
	assert.Contains(t, b, "handshakes: 64 waiting, 7 refused")
	j := body(t, get(t, h, "GET", "/?format=json", ""))
	assert.Contains(t, j, `"waiting": 64`)
	assert.Contains(t, j, `"refused": 7`)
	assert.Contains(t, j, `"nextTry": "2026-01-02T03:04:05Z"`)
	assert.Contains(t, j, `"attempts": 3`)
	assert.Contains(t, j, `"check": "dig +short`)
	assert.NotContains(t, j, "0001-01-01")
}

func TestThePageShowsWhatServersRefused(t *testing.T) {
	h := status.Handler(func() status.Page {
		return status.Page{Servers: []status.Server{
			{Listeners: []status.Listener{{Addr: "[::]:443", TLS: true, Open: 12}, {Addr: "[::]:80", Open: 3}}, Refused: []status.Refusal{
				{What: "connections", Why: "MaxConnsPerClient", Count: 1990, Latest: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
				{What: "requests", Why: "431", Count: 2, Latest: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)},
			}},
			{Listeners: []status.Listener{{Addr: "127.0.0.1:8080"}}},
		}}
	}, nil)
	b := body(t, get(t, h, "GET", "/?q=other", ""))
	assert.Contains(t, b, `<code>[::]:443</code> <span class="mute">TLS</span></td><td class="n">12</td>`)
	assert.Contains(t, b, `<code>[::]:80</code></td><td class="n">3</td>`)
	assert.Contains(t, b, `<td>connections: MaxConnsPerClient</td><td class="n">1990</td><td class="when">2026-01-02 03:04:05Z</td>`)
	assert.Contains(t, b, `<td>requests: 431</td><td class="n">2</td>`)
	assert.Equal(t, 1, strings.Count(b, "nothing refused"), "shown for the other server")
	j := body(t, get(t, h, "GET", "/?format=json", ""))
	for _, want := range []string{`"addr": "[::]:443"`, `"tls": true`, `"open": 12`, `"what": "connections"`, `"why": "MaxConnsPerClient"`, `"count": 1990`, `"latest": "2026-01-02T03:04:05Z"`} {
		assert.Contains(t, j, want)
	}
}

func TestCommandsAreSafeToPaste(t *testing.T) {
	for host, want := range map[string]string{
		"blog.example.com": "dig +short blog.example.com A blog.example.com AAAA; curl -sSI http://blog.example.com/; curl -sSkI https://blog.example.com/",
		"8.8.8.8":          "curl -sSI http://8.8.8.8/; curl -sSkI https://8.8.8.8/",
		"2600::1":          "curl -sSI 'http://[2600::1]/'; curl -sSkI 'https://[2600::1]/'",
		"a;rm -rf /":       "", "$(x)": "", "a b": "", "-oProxy.com": "", "*.example.com": "", "": "", "a\nb": "", "A.example.com": "",
	} {
		assert.Equal(t, want, status.ReachCommand(host), host)
	}
	assert.Equal(t, "dig +short example.com NS _acme-challenge.example.com TXT", status.RecordsCommand("*.example.com"))
	assert.Equal(t, "dig +short a.example.com NS _acme-challenge.a.example.com TXT", status.RecordsCommand("a.example.com"))
	assert.Empty(t, status.RecordsCommand("*.`x`"))
}

func TestASentenceIsOneLineOfLimitedLength(t *testing.T) {
	assert.Equal(t, "a; b; c", status.Sentence("a\n\tb\r\n\n  c\n"))
	assert.Equal(t, "a", status.Sentence("a"))
	assert.Empty(t, status.Sentence(" \n"))
	assert.Less(t, len(status.Sentence(strings.Repeat("é\n", 100_000))), 1_100)
	assert.True(t, utf8.ValidString(status.Sentence("x"+strings.Repeat("é", 100_000))))
}

func TestTheFilterHidesOtherRoutes(t *testing.T) {
	h := handler("app.test")
	assert.Contains(t, body(t, get(t, h, "GET", "/?q=pp.t", "")), "app.test")
	none := body(t, get(t, h, "GET", "/?q=other", ""))
	assert.NotContains(t, none, "app.test")
	assert.Contains(t, none, `value="other"`)
	assert.NotContains(t, body(t, get(t, h, "GET", "/?q=%22%3E%3Cscript%3Ealert", "")), "<script>alert")
}

// full is a Spread whose chart has all bars.
var full = slices.Repeat([]uint64{3}, 31)

func TestThePageIsLimitedButJSONIsComplete(t *testing.T) {
	h := status.Handler(func() status.Page {
		var p status.Page
		for i := range 10_000 {
			r := status.Route{Pattern: fmt.Sprintf("h%d.test", i), Handler: "x"}
			for j := range 1 + 29*(i%2000/1999) { // some routes have 30 targets
				r.Targets = append(r.Targets, status.Target{Name: fmt.Sprintf("t%d:%d", j, i), State: "up", P50: 1, P90: 1, P99: 1,
					Recent: status.Recent{Seconds: 100, Attempts: 10, Spread: full}})
			}
			p.Routes = append(p.Routes, r)
			p.Certificates = append(p.Certificates, status.Certificate{Host: r.Pattern, State: "valid"})
			p.Uncertified = append(p.Uncertified, status.Uncertified{Host: r.Pattern, Why: "x"})
		}
		p.Routes[7999].Targets[29].State = "down"
		return p
	}, nil)
	b := body(t, get(t, h, "GET", "/", ""))
	assert.Less(t, len(b), 700_000)
	assert.Equal(t, 3, strings.Count(b, "and 9800 more"))
	assert.Contains(t, b, "and 10 more targets: see")
	assert.Contains(t, b, "<code>t29:7999</code>", "what is in trouble is among what is shown")
	assert.Contains(t, b, "<b>10144 of 10145</b> targets up")
	one := body(t, get(t, h, "GET", "/?q=t7:9999", ""))
	assert.Contains(t, one, "h9999.test")
	assert.Less(t, len(one), 60_000)
	assert.Contains(t, body(t, get(t, h, "GET", "/?format=json", "")), "h9999.test")
}

// shape returns the elements of a page with their attributes, which must
// contain nothing that a client chose.
func shape(t testing.TB, s string) string {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(s))
	require.NoError(t, err)
	var b strings.Builder
	var walk func(*html.Node)
	walk = func(n *html.Node) {
		if n.Type == html.ElementNode {
			fmt.Fprint(&b, "<", n.Data, " ", n.Attr, ">")
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c)
		}
	}
	walk(doc)
	return b.String()
}

func FuzzNamesAreTextAndNothingElse(f *testing.F) {
	for _, s := range []string{"<script>alert(1)</script>", `"><img src=x onerror=alert(1)>`, "a\u202eb", "\x00", "{{.}}", "</style>", "</td></table>",
		"javascript:alert(1)", "&lt;b&gt;", "\xff", "<!--", "]]>", strings.Repeat("x", 10_000)} {
		f.Add(s)
	}
	plain := shape(f, body(f, get(f, handler("app.test"), "GET", "/", "")))
	f.Fuzz(func(t *testing.T, name string) {
		if name == "" {
			return // it leaves out some elements
		}
		b := body(t, get(t, handler(name), "GET", "/", ""))
		assert.Equal(t, plain, shape(t, b))
		assert.NotContains(t, b, "\u202e")
		assert.True(t, json.Valid([]byte(body(t, get(t, handler(name), "GET", "/?format=json", "")))))
	})
}

func TestFailuresKeepTheLatest(t *testing.T) {
	var r status.Failures
	assert.Empty(t, r.Latest())
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				r.Add(status.Failure{Status: 1})
				r.Latest()
			}
		})
	}
	all.Wait()
	for i := range 150 {
		r.Add(status.Failure{Status: i, Host: strings.Repeat("h", 1000), Path: "/"})
	}
	got := r.Latest()
	require.Len(t, got, 100)
	assert.Equal(t, 149, got[0].Status)
	assert.Equal(t, 50, got[99].Status)
	assert.Less(t, len(got[0].Host), 300)
}

// A real browser shows the page as intended, and finds nothing that the policy
// forbids.
func TestABrowserShowsThePage(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		require.Empty(t, os.Getenv("CI"), "chromium is not installed")
		t.Skip("chromium is not installed: apt-get install chromium")
	}
	s := httptest.NewServer(handler("<script>document.title='hacked'</script>app.test"))
	defer s.Close()
	shot := filepath.Join(t.TempDir(), "page.png")
	browse := func(args ...string) (stdout, log string) {
		ctx := t.Context()
		c := exec.CommandContext(ctx, chromium, append([]string{"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
			"--no-first-run", "--user-data-dir=" + t.TempDir(), "--enable-logging=stderr", "--timeout=10000", "--window-size=1200,1000"}, args...)...)
		var out, errs strings.Builder
		c.Stdout, c.Stderr, c.WaitDelay = &out, &errs, 10*time.Second
		require.NoError(t, c.Run(), errs.String())
		return out.String(), errs.String()
	}
	dom, log := browse("--dump-dom", s.URL)
	assert.Contains(t, dom, "<title>hostproxy status</title>")
	assert.Contains(t, dom, "<b>1 of 3</b> targets up")
	assert.NotContains(t, dom, "<script>document.title")
	assert.NotContains(t, log, "Content Security Policy")
	browse("--screenshot="+shot, s.URL)
	info, err := os.Stat(shot)
	require.NoError(t, err)
	assert.Greater(t, info.Size(), int64(10_000), "the page is not blank")
	if keep := os.Getenv("KEEP_SCREENSHOT"); keep != "" {
		b, err := os.ReadFile(shot)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(keep, b, 0o644))
	}
}
