package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A report has the results of a run and describes the run.
type report struct {
	date    time.Time
	command string
	machine string
	tools   []string // names and versions
	peers   []string
	rows    []*rowResult
}

// median returns the median of f over the samples, or NaN without samples.
func median(samples []sample, f func(sample) float64) float64 {
	if len(samples) == 0 {
		return math.NaN()
	}
	all := make([]float64, len(samples))
	for i, s := range samples {
		all[i] = f(s)
	}
	slices.Sort(all)
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2
}

func value(s sample) float64 { return s.value }
func ratio(s sample) float64 { return s.ratio }

// peer returns the result of the peer with this name, or nil.
func (r *rowResult) peer(name string) *peerResult {
	for _, p := range r.peers {
		if p.name == name {
			return p
		}
	}
	return nil
}

// figure returns the value that the target limits: the median of the peer's
// values, or of their quotients with those of the other peer in the same round.
// It is NaN if one of them was not measured.
func (r *rowResult) figure(t target) float64 {
	p := r.peer(t.peer)
	if p == nil || p.failure != "" {
		return math.NaN()
	}
	if t.of == "" {
		return median(p.samples, value)
	}
	other := r.peer(t.of)
	if other == nil || other.failure != "" || len(other.samples) != len(p.samples) {
		return math.NaN()
	}
	quotients := make([]sample, len(p.samples))
	for i := range quotients {
		quotients[i].value = p.samples[i].value / other.samples[i].value
	}
	return median(quotients, value)
}

// verdict compares a figure with its target.
func (t target) verdict(figure float64) string {
	switch {
	case math.IsNaN(figure):
		return "not measured"
	case t.aim > 0 && figure <= t.aim:
		return "aim met"
	case figure <= t.must:
		return "met"
	default:
		return "**missed**"
	}
}

// markdown writes the whole report. It refers to the pictures in charts.
func (r *report) markdown(to io.Writer, charts []chart) error {
	w := new(strings.Builder)
	fmt.Fprintf(w, "# Results\n\n%s, `%s`, on %s.\n%s.\n\n", r.date.Format(time.DateOnly), r.command, r.machine, strings.Join(r.tools, ", "))
	w.WriteString(reportIntro)
	fmt.Fprintf(w, "Meanwhile other programs took %s of the proxy's core; the closer to none, the more the figures mean.\n\n", r.foreign())
	r.writeTargets(w)
	for _, c := range charts {
		fmt.Fprintf(w, "![%s](%s)\n\n", c.title, c.file)
	}
	for _, t := range tables() {
		r.writeTable(w, t)
	}
	r.writeRemarks(w)
	_, err := io.WriteString(to, w.String())
	return err
}

// foreign returns the share of the proxy's core that other processes used, over
// all rows.
func (r *report) foreign() string {
	var all []sample
	for _, row := range r.rows {
		for _, p := range row.peers {
			if row.row.cores < 2 && timed(row) {
				all = append(all, p.samples...)
			}
		}
	}
	return orDash(100*median(all, func(s sample) float64 { return s.foreign }), "%.0f %%")
}

const reportIntro = `CPU is user and system time of the whole proxy process (nginx: master and worker) divided by requests answered.
The proxy has the first core for itself, load generator and backend have the others. All peers set the same forwarding fields
(but nghttpx and h2o, on the rows of HTTP/2, which set neither X-Forwarded-Host nor X-Real-IP), keep connections open on both sides and write no log; all TLS is 1.3 with AES-128-GCM and P-256. Before a row is measured, every
peer has answered its request with the backend's status, type, length and bytes, and the backend has seen true forwarding fields.
Peers take turns, nginx first and last; a round in which nginx's two values differ by more than 10 % is thrown away and repeated.
A figure is the median of the rounds; a ratio is the median of the rounds' ratios.

`

// writeTargets lists the bounds of performance.md and the values reached.
func (r *report) writeTargets(w *strings.Builder) {
	w.WriteString("## Targets\n\n| workload | peer | figure | must | aim | |\n|---|---|---|---|---|---|\n")
	for _, row := range r.rows {
		for _, t := range row.row.targets {
			figure := row.figure(t)
			what := "of " + t.of
			if t.of == "" {
				what = row.row.unit()
			}
			fmt.Fprintf(w, "| %s | %s | %s %s | ≤ %.2f | %s | %s |\n", row.row.title, t.peer, orDash(figure, "%.2f"), what, t.must,
				orDash(cmp.Or(t.aim, math.NaN()), "≤ %.2f"), t.verdict(figure))
		}
	}
	w.WriteString("\n")
}

// A table shows one quantity of the rows that have it, with one column per
// peer.
type table struct {
	title string
	want  func(*rowResult) bool
	cell  func(*peerResult) string
}

// tables returns a report's tables in order.
func tables() []table {
	return []table{
		{"CPU, µs per request, and the ratio to nginx", onCPU, func(p *peerResult) string {
			return withRatio(decimals(median(p.samples, value)), median(p.samples, ratio))
		}},
		{"Latency, µs: p50 / p99 / p99.9", timed, func(p *peerResult) string {
			micro := func(f func(sample) time.Duration) float64 {
				return median(p.samples, func(s sample) float64 { return f(s).Seconds() * 1e6 })
			}
			return fmt.Sprintf("%.0f / %.0f / %.0f", micro(func(s sample) time.Duration { return s.p50 }),
				micro(func(s sample) time.Duration { return s.p99 }), micro(func(s sample) time.Duration { return s.p999 }))
		}},
		{"Requests per second, and how busy the proxy's core was", timed, func(p *peerResult) string {
			return fmt.Sprintf("%.0f, %.0f %%", median(p.samples, func(s sample) float64 { return s.rps }),
				100*median(p.samples, func(s sample) float64 { return s.busy }))
		}},
		{"Context switches per request", timed, func(p *peerResult) string {
			return fmt.Sprintf("%.2f", median(p.samples, func(s sample) float64 { return s.switches }))
		}},
		{"System calls per request", counted, func(p *peerResult) string { return fmt.Sprintf("%.1f", p.syscalls) }},
		{"Idle connection, KB of RSS", isIdle, func(p *peerResult) string { return fmt.Sprintf("%.1f", median(p.samples, value)) }},
		{"RSS after the row, MB (nginx: master and worker)", timed, func(p *peerResult) string {
			return fmt.Sprintf("%.0f", float64(p.rss)/(1<<20))
		}},
	}
}

// writeTable writes one table, unless no row has its quantity.
func (r *report) writeTable(w *strings.Builder, t table) {
	var rows []*rowResult
	for _, row := range r.rows {
		if t.want(row) {
			rows = append(rows, row)
		}
	}
	if rows == nil {
		return
	}
	fmt.Fprintf(w, "## %s\n\n| workload | %s |\n|---|%s\n", t.title, strings.Join(r.peers, " | "), strings.Repeat("---|", len(r.peers)))
	for _, row := range rows {
		fmt.Fprintf(w, "| %s |", row.row.title)
		for _, name := range r.peers {
			text := "–"
			if p := row.peer(name); p != nil && p.failure == "" && len(p.samples) > 0 {
				text = t.cell(p)
			}
			fmt.Fprintf(w, " %s |", text)
		}
		w.WriteString("\n")
	}
	w.WriteString("\n")
}

func onCPU(r *rowResult) bool  { return timed(r) && r.row.kind != latency }
func timed(r *rowResult) bool  { return r.row.kind != idle && r.row.feature == "" }
func isIdle(r *rowResult) bool { return r.row.kind == idle }
func counted(r *rowResult) bool {
	return slices.ContainsFunc(r.peers, func(p *peerResult) bool { return p.syscalls > 0 })
}

// writeRemarks lists discarded rounds and failed peers.
func (r *report) writeRemarks(w *strings.Builder) {
	var b strings.Builder
	for _, row := range r.rows {
		switch {
		case row.good == 0:
			fmt.Fprintf(&b, "* %s: %s never held still; the figures are of one noisy round.\n", row.row.title, cmp.Or(row.peers[0].name, nginxName))
		case row.discarded > 0:
			fmt.Fprintf(&b, "* %s: good rounds %d, thrown away %d.\n", row.row.title, row.good, row.discarded)
		}
		for _, p := range row.peers {
			if p.failure != "" {
				fmt.Fprintf(&b, "* %s: %s failed: %s\n", row.row.title, p.name, firstLine(p.failure))
			}
		}
	}
	if b.Len() > 0 {
		fmt.Fprintf(w, "## Remarks\n\n%s\n", b.String())
	}
}

// failed reports whether a peer failed on the row.
func (r *rowResult) failed() bool {
	for _, p := range r.peers {
		if p.failure != "" {
			return true
		}
	}
	return false
}

// failures returns an error with every peer that failed on a row, and why.
func (r *report) failures() error {
	var all []error
	for _, row := range r.rows {
		for _, p := range row.peers {
			if p.failure != "" {
				all = append(all, fmt.Errorf("%s: %s: %s", row.row.name, p.name, p.failure))
			}
		}
	}
	return errors.Join(all...)
}

// notesMark begins the part of a results file that is written by hand. A new
// report keeps that part.
const notesMark = "<!-- Written by hand from here on; kept by the tool. -->"

// save writes the report to the named file and its charts beside it.
func (r *report) save(name string) error {
	old, err := os.ReadFile(name)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	base := strings.TrimSuffix(name, filepath.Ext(name))
	charts := r.charts(filepath.Base(base))
	var b strings.Builder
	if err := r.markdown(&b, charts); err != nil {
		return err
	}
	b.WriteString(notesMark + "\n")
	if _, notes, ok := strings.Cut(string(old), notesMark+"\n"); ok {
		b.WriteString(notes)
	}
	for _, c := range charts {
		var svg strings.Builder
		c.write(&svg)
		if err := os.WriteFile(filepath.Join(filepath.Dir(name), c.file), []byte(svg.String()), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(name, []byte(b.String()), 0o644)
}

// decimals formats x with about three significant digits.
func decimals(x float64) string {
	switch {
	case x < 100:
		return fmt.Sprintf("%.1f", x)
	default:
		return fmt.Sprintf("%.0f", x)
	}
}

func withRatio(text string, ratio float64) string {
	if ratio == 0 {
		return text
	}
	return fmt.Sprintf("%s (%.2f)", text, ratio)
}

func orDash(x float64, format string) string {
	if math.IsNaN(x) {
		return "–"
	}
	return fmt.Sprintf(format, x)
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
