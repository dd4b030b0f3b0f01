package status_test

import (
	"crypto/sha256"
	"encoding/base64"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/status"
)

func TestThePolicyAllowsOnlyTheStyleAndScriptOfThePage(t *testing.T) {
	res := get(t, handler("app.test"), "GET", "/", "")
	csp, b := res.Header.Get("Content-Security-Policy"), body(t, res)
	for _, part := range []string{"default-src 'none'", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'", "connect-src 'self'"} {
		assert.Contains(t, csp, part)
	}
	assert.NotContains(t, csp, "unsafe")
	for _, tag := range []string{"style", "script"} {
		found := regexp.MustCompile(`(?s)<`+tag+`>(.*?)</`+tag+`>`).FindAllStringSubmatch(b, -1)
		require.Len(t, found, 1)
		sum := sha256.Sum256([]byte(found[0][1]))
		assert.Contains(t, csp, tag+"-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	}
	assert.NotRegexp(t, `(?i)\s(style|on[a-z]+)=|(?:src|href)="https?:|@import|url\(`, b)
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
		"Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-store"} {
		assert.Equal(t, want, res.Header.Get(name), name)
	}
}

// row returns the page's figures of one target: rate, share and chart.
func row(t *testing.T, r status.Recent) string {
	t.Helper()
	h := status.Handler(func() status.Page {
		return status.Page{Time: time.Now(), Routes: []status.Route{{Pattern: "app.test", Targets: []status.Target{{Name: "a:1", State: "up", Recent: r}}}}}
	}, nil)
	b := body(t, get(t, h, "GET", "/", ""))
	_, b, _ = strings.Cut(b, `<tr class="route">`)
	b, _, _ = strings.Cut(b, "</tr>")
	_, b, _ = strings.Cut(b, "</th>")
	return regexp.MustCompile(`<path class="grid"[^>]*>|viewBox="[^"]*" aria-hidden="true"`).ReplaceAllString(b, "")
}

func TestFiguresShowRecentRatesAndErrors(t *testing.T) {
	spread := func(counts map[int]uint64) []uint64 {
		all := make([]uint64, 31)
		for i, n := range counts {
			all[i] = n
		}
		return all
	}
	for name, tt := range map[string]struct {
		recent status.Recent
		want   string
	}{
		"nothing":                {status.Recent{Seconds: 64}, `<td></td><td class="n">0</td><td class="n">–</td>`},
		"only errors":            {status.Recent{Seconds: 100, Attempts: 50, Errors: 50}, `<td></td><td class="n">0.50</td><td class="n failed">100 %</td>`},
		"one in a million":       {status.Recent{Seconds: 100, Attempts: 1_000_000, Errors: 1}, `<td></td><td class="n">10,000</td><td class="n">&lt;0.01 %</td>`},
		"all but one are errors": {status.Recent{Seconds: 100, Attempts: 100_000, Errors: 99_999}, `<td></td><td class="n">1,000</td><td class="n failed">&gt;99.9 %</td>`},
		"a bar at least as high as is seen": {status.Recent{Seconds: 100, Attempts: 1001, Errors: 1, Spread: spread(map[int]uint64{11: 1000, 20: 1})},
			`<td><svg class="chart" ><path d="M20 24v-24h4v24zM65 24v-2h4v2z"/></svg></td><td class="n">10.0</td><td class="n">0.10 %</td>`},
		"the ends have what is beyond": {status.Recent{Seconds: 100, Attempts: 4, Spread: spread(map[int]uint64{0: 1, 7: 1, 25: 1, 30: 1})},
			`<td><svg class="chart" ><path d="M0 24v-24h4v24zM90 24v-24h4v24z"/></svg></td><td class="n">0.04</td><td class="n">0</td>`},
		"a young target": {status.Recent{Seconds: 0.001, Attempts: 3}, `<td></td><td class="n">3.0</td><td class="n">0</td>`},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, tt.want, row(t, tt.recent))
		})
	}
}

func TestTheSummaryCountsASharedUpstreamOnce(t *testing.T) {
	shared := status.Target{Of: 1, Name: "a:1", State: "up", Recent: status.Recent{Seconds: 100, Attempts: 1000, Errors: 500}}
	own := status.Target{Of: 2, Name: "b:1", State: "down", Recent: status.Recent{Seconds: 50, Attempts: 500}}
	h := status.Handler(func() status.Page {
		return status.Page{Routes: []status.Route{
			{Pattern: "a.test", Sharing: 2, Targets: []status.Target{shared}}, {Pattern: "b.test", Sharing: 2, Targets: []status.Target{shared}},
			// such as a ForwardAuth and what is behind it
			{Pattern: "c.test", Sharing: 2, Targets: []status.Target{shared, own}},
		}}
	}, nil)
	b := body(t, get(t, h, "GET", "/", ""))
	assert.Contains(t, b, "<b>20.0</b> requests/s")
	assert.Contains(t, b, "<b>25.0 %</b> errors")
	assert.Contains(t, b, "<b>1 of 2</b> targets up")
	assert.Equal(t, 3, strings.Count(b, "shares its upstream with 2 other routes<"))
	assert.Contains(t, b, "of the last 100 s now (64 to 128 s, less for new targets)")
	assert.Contains(t, body(t, get(t, h, "GET", "/?q=a.test", "")), "<b>10.0</b> requests/s", "what other routes share counts as a whole")
}

func TestATargetShowsItsLastChangesOfHealth(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	h := status.Handler(func() status.Page {
		return status.Page{Time: now, Routes: []status.Route{{Pattern: "a.test", Targets: []status.Target{{Name: "a:1", State: "up", Changes: []status.Change{
			{Time: now.Add(-50 * time.Hour), State: "down", Reason: "connection refused"}, {Time: now.Add(-90 * time.Second), State: "up", Reason: "answers checks again"},
		}}}}}}
	}, nil)
	b := body(t, get(t, h, "GET", "/", ""))
	later, earlier := strings.Index(b, `1 min ago</span> <span class="up">up</span>: answers checks again`), strings.Index(b, `2 d ago</span> <span class="down">down</span>: connection refused`)
	assert.Positive(t, later)
	assert.Greater(t, earlier, later, "the latest comes first")
	assert.Contains(t, b, `title="2025-12-31 01:04:05Z"`)
}

func TestCertificatesShowTheDaysLeftOrWhyThereAreNone(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	days := func(n time.Duration) time.Time { return now.Add(n*24*time.Hour + time.Hour) }
	h := status.Handler(func() status.Page {
		return status.Page{Time: now, Certificates: []status.Certificate{
			{Host: "fine.test", State: "valid", NotAfter: days(61), Renewal: days(31)},
			{Host: "own.test", State: "static", NotAfter: days(5)},
			{Host: "gone.test", State: "valid", NotAfter: days(-1), Renewal: days(-30)},
			{Host: "new.test", State: "pending", Why: "no certificate yet: the handshake waits for it"},
		}, Uncertified: []status.Uncertified{{Host: "pass.test", Why: "none here: TLS ends at a:1"}}}
	}, nil)
	b := body(t, get(t, h, "GET", "/", ""))
	for _, want := range []string{
		`<td class="n">61<br>`, `<td class="n failed">5<br>`, `<td class="n failed">-1<br>`, `<td class="n">–</td>`,
		"no certificate yet: the handshake waits for it<br>", "<code>pass.test</code></td><td colspan=\"4\">none here: TLS ends at a:1",
	} {
		assert.Contains(t, b, want)
	}
}

func TestRepeatedFailuresAreShownOnce(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	of := func(seconds int, host string) status.Failure {
		return status.Failure{Time: now.Add(time.Duration(-seconds) * time.Second), Host: host, Path: "/", Status: 502, Cause: "refused"}
	}
	h := status.Handler(func() status.Page {
		return status.Page{Time: now, Failures: []status.Failure{of(1, "a.test"), of(2, "a.test"), of(3, "b.test"), of(4, "a.test")}}
	}, nil)
	b := body(t, get(t, h, "GET", "/", ""))
	assert.Equal(t, 2, strings.Count(b, "<code>a.test/</code>"))
	assert.Equal(t, 1, strings.Count(b, "2 times in a row"))
	assert.Contains(t, b, ">1 s ago</td>", "the latest of them")
	assert.NotContains(t, b, ">2 s ago</td>")
	assert.Equal(t, 4, strings.Count(body(t, get(t, h, "GET", "/?format=json", "")), `"cause": "refused"`))
}
