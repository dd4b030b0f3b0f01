package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hostproxy/hostproxy"
)

// A row is an app's entry in the list.
type row struct {
	App         string   `json:"app"`
	Host        string   `json:"host"`
	Targets     []target `json:"targets"`
	Previous    []string `json:"previous,omitempty"`
	State       string   `json:"state"`
	InProgress  string   `json:"inProgress,omitempty"`
	Canary      *canary  `json:"canary,omitempty"`
	Certificate string   `json:"certificate,omitempty"`
}

// A target is a target of an app, with its health.
type target struct {
	Target   string `json:"target"`
	Health   string `json:"health"`
	InFlight int64  `json:"inFlight"`
}

// list returns all apps, as a table or as JSON. m.mu is held.
func (m *manager) list(q request) (string, error) {
	rows := []row{}
	for _, name := range slices.Sorted(maps.Keys(m.apps)) {
		rows = append(rows, m.row(m.apps[name]))
	}
	if q.JSON {
		text, err := json.MarshalIndent(rows, "", "  ")
		return string(text) + "\n", err
	}
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "APP\tHOST\tTARGETS\tSTATE\tBEFORE\tCERTIFICATE")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.App, r.Host, r.targets(), r.states(), dash(list(r.Previous)), dash(r.Certificate))
	}
	err := w.Flush()
	return b.String(), err
}

func (m *manager) row(a *app) row {
	r := row{App: a.name, Host: a.Host, Previous: a.Previous, State: a.Hold.words(), Canary: a.Canary}
	if a.op != nil {
		r.InProgress = fmt.Sprintf("%s (%s) since %s", a.op.what, a.op.phase, a.op.began.Format(time.TimeOnly))
	}
	if a.up == nil {
		r.State = "not deployed yet"
		return r
	}
	r.Targets = doing(a.up)
	host, _, _ := strings.Cut(a.host, "/")
	if c, ok := m.router.Certificate(host); ok {
		r.Certificate = c.State
		if c.Err != nil {
			r.Certificate += ": " + c.Err.Error()
		}
	}
	return r
}

func doing(u *hostproxy.Upstream) (all []target) {
	for t := range u.All() {
		all = append(all, target{t.String(), t.Health().State, t.InFlight()})
	}
	return all
}

// targets returns the targets. It adds the health of those that are not up.
func (r *row) targets() string {
	var words []string
	for _, t := range r.Targets {
		word := t.Target
		if t.Health != "up" {
			word += " (" + t.Health + ")"
		}
		words = append(words, word)
	}
	return dash(list(words))
}

// states returns everything that is in progress.
func (r *row) states() string {
	words := []string{r.State}
	if r.Canary != nil {
		words = append(words, fmt.Sprintf("canary %s for %s", list(r.Canary.Targets), r.Canary.clients()))
	}
	if r.InProgress != "" {
		words = append(words, r.InProgress)
	}
	return strings.Join(words, "; ")
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
