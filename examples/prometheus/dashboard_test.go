package prometheus_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	prom "github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/prometheus"
)

// These match the names in a prom.Desc and in a query. Read-only.
var (
	described = regexp.MustCompile(`fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`)
	metric    = regexp.MustCompile(`(hostproxy_\w+)(?:\{([^}]*)\})?`)
	matcher   = regexp.MustCompile(`(\w+)\s*[!=]~?"`)
	grouped   = regexp.MustCompile(`by \(([^)]*)\) \((?:\w+\()*(hostproxy_\w+)`)
	legend    = regexp.MustCompile(`\{\{(\w+)\}\}`)
)

// labelsOf returns the labels of all metrics, by metric name.
func labelsOf(t *testing.T) map[string][]string {
	m, err := prometheus.New(new(hostproxy.Router), prometheus.Options{})
	require.NoError(t, err)
	ch := make(chan *prom.Desc, 1000)
	m.Describe(ch)
	close(ch)
	all := map[string][]string{}
	for d := range ch {
		found := described.FindStringSubmatch(d.String())
		require.NotNil(t, found, d)
		all[found[1]] = strings.Split(found[2], ",")
	}
	return all
}

func TestTheDashboardShowsEveryMetric(t *testing.T) {
	type box struct{ H, W, X, Y int }
	var d struct {
		Panels []struct {
			ID      int
			Type    string
			Title   string
			GridPos box
			Targets []struct{ Expr, LegendFormat string }
		}
		Templating struct {
			List []struct {
				Query any
			}
		}
	}
	raw, err := os.ReadFile("dashboard.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &d))

	labels, shown := labelsOf(t), map[string]bool{}
	ids, cells := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		assert.False(t, ids[p.ID], "%s has an id of its own", p.Title)
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				assert.Empty(t, cells[at], "%s overlaps it", p.Title)
				cells[at] = p.Title
				assert.Less(t, at[0], 24)
			}
		}
		assert.Equal(t, p.Type == "row", len(p.Targets) == 0, p.Title)
		for _, q := range p.Targets {
			var known []string
			for _, found := range metric.FindAllStringSubmatch(q.Expr, -1) {
				require.Contains(t, labels, found[1], "a metric of %q", q.Expr)
				shown[found[1]] = true
				known = labels[found[1]]
				for _, l := range matcher.FindAllStringSubmatch(found[2], -1) {
					assert.Contains(t, known, l[1], "a label of %q", q.Expr)
				}
			}
			for _, found := range grouped.FindAllStringSubmatch(q.Expr, -1) {
				known = strings.Split(found[1], ", ")
				for _, l := range known {
					assert.Contains(t, labels[found[2]], l, "a label of %q", q.Expr)
				}
			}
			for _, l := range legend.FindAllStringSubmatch(q.LegendFormat, -1) {
				assert.Contains(t, known, l[1], "the legend of %q", q.Expr)
			}
		}
	}
	for name := range labels {
		assert.True(t, shown[name], "%s is on the dashboard", name)
	}
	variables, err := json.Marshal(d.Templating)
	require.NoError(t, err)
	for _, found := range metric.FindAllStringSubmatch(string(variables), -1) {
		assert.Contains(t, labels, found[1])
	}
}
