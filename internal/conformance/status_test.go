package conformance_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// watched returns the URL of a Router's status page. The Router has served good
// and bad requests, has a target that is down, a certificate, and a host that
// waits for one.
func watched(t *testing.T) string {
	t.Helper()
	good := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/bad" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	r.TLS.CA = "https://127.0.0.1:1/nothing-answers"
	shop := hostproxy.To(good.Addr(), "127.0.0.1:1")
	shop.Health = &hostproxy.HealthCheck{Interval: 50 * time.Millisecond, Fall: 1}
	const long = "a-name-that-does-not-fit-on-the-screen-of-a-phone.of-a-tenant-of-this-proxy.localhost"
	r.Handle("shop.localhost", shop)
	r.Handle("www.shop.localhost", shop)
	r.Handle("shop.example.com", hostproxy.Redirect("shop.localhost"))
	r.Handle(long+"/and/a/path/", hostproxy.To("127.0.0.1:1"))
	plain, page := proxytest.Listen(t), proxytest.Listen(t)
	s := &hostproxy.Server{Router: &r, Listeners: []hostproxy.Listener{
		{Listener: plain, Role: hostproxy.RolePlain}, {Listener: page, Role: hostproxy.RoleInternal, Handler: hostproxy.StatusHandler(&r)},
	}}
	proxytest.Start(t, s)
	for i := range 60 {
		host, path := []string{"shop.localhost", "www.shop.localhost", long}[i%3], "/and/a/path/"
		if i%10 == 0 {
			path = "/bad"
		}
		q, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+plain.Addr().String()+path, nil)
		require.NoError(t, err)
		q.Host = host
		res, err := http.DefaultClient.Do(q)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
	}
	proxytest.Eventually(t, "a target is down", func() bool {
		for target := range shop.All() {
			if target.Health().State == "down" {
				return true
			}
		}
		return false
	})
	proxytest.Eventually(t, "a certificate has failed", func() bool {
		c, _ := r.Certificate("shop.example.com")
		return c.State == hostproxy.CertFailed
	})
	return "http://" + page.Addr().String() + "/"
}

// overflow returns how much wider the page is than the screen. dim lists texts
// with a contrast below 4.5 to 1.
const (
	overflow = `document.documentElement.scrollWidth - innerWidth`
	dim      = `(() => {
  const parse = s => (s.match(/[\d.]+/g) || []).map(Number);
  const light = c => {
    const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const low = [];
  const check = (e, color, text) => {
    const [a, b] = [light(parse(color).slice(0, 3)), light(behind(e))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) low.push(text.trim().slice(0, 40) + ": " + color + " on " + behind(e));
  };
  for (const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT); walk.nextNode();) {
    const e = walk.currentNode.parentElement;
    if (walk.currentNode.data.trim() && e.tagName !== "SCRIPT" && e.getClientRects().length) check(e, getComputedStyle(e).color, walk.currentNode.data);
  }
  for (const e of document.querySelectorAll("input[placeholder]")) check(e, getComputedStyle(e, "::placeholder").color, e.placeholder);
  return low;
})()`
)

func TestABrowserShowsTheStatusPage(t *testing.T) {
	url, b := watched(t), newTab(t)
	t.Run("on each screen", func(t *testing.T) { showsOnEachScreen(t, b, url) })
	t.Run("to a screen reader", func(t *testing.T) { isReadableByAScreenReader(t, b, url) })
	t.Run("without disturbing its reader when it refreshes", func(t *testing.T) { refreshes(t, b, url) })
	assert.Empty(t, b.faults)
}

// To look at the pages, set KEEP_SCREENSHOTS to a directory.
func showsOnEachScreen(t *testing.T, b *tab, url string) {
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int{320, 390, 1280} {
			name := fmt.Sprintf("%s-%d", scheme, width)
			b.open(url+"?url=shop.localhost", scheme, width, 844)
			var wider int
			b.eval(overflow, &wider)
			assert.LessOrEqual(t, wider, 0, "%s: the page scrolls to the side", name)
			var low []string
			b.eval(dim, &low)
			assert.Empty(t, low, name)
			var background string
			b.eval(`getComputedStyle(document.body).backgroundColor`, &background)
			assert.Equal(t, map[string]string{"light": "rgb(246, 247, 249)", "dark": "rgb(15, 18, 22)"}[scheme], background, name)
			if dir := os.Getenv("KEEP_SCREENSHOTS"); dir != "" {
				require.NoError(t, os.WriteFile(filepath.Join(dir, name+".png"), b.shoot(), 0o644))
			}
		}
	}
	var charts, changes, failed int
	b.eval(`document.querySelectorAll("svg.chart").length`, &charts)
	b.eval(`document.querySelectorAll(".changes li").length`, &changes)
	b.eval(`document.querySelectorAll("td .failed").length`, &failed)
	assert.Equal(t, 2, charts, "of the routes with responses")
	assert.Positive(t, changes)
	assert.Positive(t, failed)
}

func refreshes(t *testing.T, b *tab, url string) {
	b.open(url, "light", 390, 844)
	// A refresh would replace the marked elements.
	b.eval(`document.querySelector("[type=search]").value = "half a wo";
		document.querySelector("[type=search]").focus();
		scrollTo(0, 300);
		document.getElementById("now").dataset.old = "true"; 0`, nil)
	var after struct {
		Scroll int
		Value  string
		Focus  string
		Note   string
		Shows  bool
	}
	b.eval(`new Promise(done => new MutationObserver(() => {
		if (document.querySelector("#now[data-old]")) return;
		const search = document.querySelector("[type=search]");
		done({Scroll: scrollY, Value: search.value, Focus: document.activeElement.name, Note: document.getElementById("note").textContent,
			Shows: document.getElementById("now").textContent.includes("shop.localhost")});
	}).observe(document.querySelector("main"), {childList: true}))`, &after)
	assert.Equal(t, 300, after.Scroll)
	assert.Equal(t, "half a wo", after.Value)
	assert.Equal(t, "q", after.Focus)
	assert.Empty(t, after.Note)
	assert.True(t, after.Shows)
}

// After the end of a session or of the proxy, the page must not look live.
func TestAStatusPageThatIsNotRefreshedSaysWhy(t *testing.T) {
	var r hostproxy.Router
	page := hostproxy.StatusHandler(&r)
	var instead atomic.Pointer[http.HandlerFunc]
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if h := instead.Load(); h != nil {
			(*h)(w, q)
			return
		}
		page.ServeHTTP(w, q)
	}))
	t.Cleanup(s.Close)
	b := newTab(t)
	// makes the page refresh every 50 ms instead of every five seconds
	b.do("Page.addScriptToEvaluateOnNewDocument", map[string]any{"source": "const real = setInterval; window.setInterval = f => real(f, 50)"}, nil)
	b.open(s.URL+"/", "light", 390, 844)
	for _, tt := range []struct {
		want    string
		instead http.HandlerFunc
	}{
		{"not refreshed: the response is another page; load this one again", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "log in") }},
		{"not refreshed: the response has status 401", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }},
		{"not refreshed: no answer from the proxy", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		{"", page.ServeHTTP},
	} {
		instead.Store(&tt.instead)
		note := ""
		proxytest.Eventually(t, tt.want, func() bool {
			b.eval(`document.getElementById("note").textContent`, &note)
			return note == tt.want
		})
	}
}

func isReadableByAScreenReader(t *testing.T, b *tab, url string) {
	b.open(url, "light", 390, 844)
	var tree struct {
		Nodes []struct {
			Ignored    bool
			Role, Name struct{ Value any }
		}
	}
	b.do("Accessibility.getFullAXTree", nil, &tree)
	roles := make(map[string]int)
	for _, n := range tree.Nodes {
		role, _ := n.Role.Value.(string)
		if n.Ignored {
			continue
		}
		roles[role]++
		switch role {
		case "textbox", "searchbox", "checkbox", "button", "link", "region":
			assert.NotEmpty(t, n.Name.Value, "a %s without a name", role)
		}
	}
	for _, role := range []string{"heading", "table", "columnheader", "row", "searchbox", "checkbox", "main", "search", "region", "list"} {
		assert.Positive(t, roles[role], role)
	}
	assert.Zero(t, roles["image"], "a chart repeats the words beside it")
}
