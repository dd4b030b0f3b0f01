package status

import (
	"cmp"
	"html/template"
	"math"
	"slices"
	"strconv"
	"time"
)

// Limits of the page; JSON has all data.
const (
	maxRows    = 200 // each of routes, certificates, and hosts without one
	maxTargets = 20  // targets of one route
	maxShown   = 400 // targets of all routes; each route shows at least one
)

// soon is the number of days before its end at which a certificate without
// renewal is highlighted.
const soon = 14

// A view is a Page cut to the limits, with the numbers of rows left out.
type view struct {
	Page
	CSS      template.CSS
	JS       template.JS
	Filter   string
	Question question
	Answer   string // "" without a question

	Routes                                        []routeView
	Certificates                                  []certificateView
	Failures                                      []failureView
	MoreRoutes, MoreCertificates, MoreUncertified int
	All                                           int // number of routes that match

	// The summary is about everything that matches.
	Up, Targets, Bad, Valid int
	Total                   figures
	Grid                    string
	Width, Height           int
}

// figures are rates and shares over the last one to two minutes.
type figures struct {
	Rate   float64 // attempts per second
	Share  float64 // share of failed attempts
	Known  bool    // there were attempts
	Chart  string
	Window int // seconds
}

type routeView struct {
	Route
	figures
	Targets     []targetView
	MoreTargets int
}

type targetView struct {
	Target
	figures
	Changes []Change // the latest first
}

// A failureView is a failure, or several equal ones in a row.
type failureView struct {
	Failure
	Times int
}

type certificateView struct {
	Certificate
	Left string // whole days until NotAfter; "" without one
	Soon bool
}

// newView returns the view of p with filter.
func newView(p *Page, filter string) *view {
	p.keep(filter)
	v := &view{Page: *p, Filter: filter, CSS: template.CSS(pageCSS), JS: template.JS(pageJS), Grid: grid, Width: chartWidth, Height: barHeight, All: len(p.Routes)}
	v.summarize(p)
	v.Failures = folded(p.Failures)
	var routes []Route
	routes, v.MoreRoutes = firstRows(p.Routes, Route.troubled)
	room := maxShown
	for _, r := range routes {
		shown := newRouteView(&r, max(min(maxTargets, room), 1))
		room -= len(shown.Targets)
		v.Routes = append(v.Routes, shown)
	}
	var certificates []Certificate
	certificates, v.MoreCertificates = firstRows(p.Certificates, Certificate.troubled)
	for _, c := range certificates {
		v.Certificates = append(v.Certificates, newCertificateView(c, p.Time))
	}
	v.Uncertified, v.MoreUncertified = firstRows(p.Uncertified, func(Uncertified) bool { return false })
	return v
}

// folded returns each run of equal failures as one, with the time of the
// latest.
func folded(all []Failure) []failureView {
	var views []failureView
	for _, f := range all {
		if n := len(views) - 1; n >= 0 {
			last := views[n].Failure
			last.Time = f.Time
			if last == f {
				views[n].Times++
				continue
			}
		}
		views = append(views, failureView{f, 1})
	}
	return views
}

func newCertificateView(c Certificate, now time.Time) certificateView {
	if c.NotAfter.IsZero() {
		return certificateView{Certificate: c}
	}
	days := int(math.Floor(c.NotAfter.Sub(now).Hours() / 24))
	left := strconv.Itoa(days)
	if days == 0 {
		left = "<1"
	}
	return certificateView{c, left, days < 0 || days < soon && c.Renewal.IsZero()}
}

// summarize counts everything that matches. Attempts at an upstream of several
// routes count once.
func (v *view) summarize(p *Page) {
	attempts, errors := 0.0, 0.0
	counted := make(map[any]bool)
	for _, r := range p.Routes {
		for _, t := range r.Targets {
			if t.Of != nil && counted[t.Of] {
				continue
			}
			counted[t.Of] = true
			v.Targets++
			if t.State == "up" {
				v.Up++
			}
			seconds := max(t.Recent.Seconds, 1)
			attempts += float64(t.Recent.Attempts) / seconds
			errors += float64(t.Recent.Errors) / seconds
			v.Total.Window = max(v.Total.Window, int(t.Recent.Seconds))
		}
	}
	v.Total.Rate, v.Total.Known = attempts, attempts > 0
	if attempts > 0 {
		v.Total.Share = errors / attempts
	}
	for _, c := range p.Certificates {
		switch c.State {
		case "failed":
			v.Bad++
		case "valid", "static":
			v.Valid++
		}
	}
}

func newRouteView(r *Route, most int) routeView {
	v := routeView{Route: *r}
	var sum Recent
	for _, t := range r.Targets {
		v.Rate += newFigures(&t.Recent).Rate
		sum.Seconds = max(sum.Seconds, t.Recent.Seconds)
		sum.Attempts += t.Recent.Attempts
		sum.Errors += t.Recent.Errors
		sum.Spread = added(sum.Spread, t.Recent.Spread)
	}
	all := v.Rate
	v.figures = newFigures(&sum)
	v.Rate = all
	targets := r.Targets
	if len(targets) > most {
		targets = slices.Clone(targets)
		slices.SortStableFunc(targets, first(Target.troubled))
		targets, v.MoreTargets = targets[:most], len(targets)-most
	}
	for _, t := range targets {
		changes := slices.Clone(t.Changes)
		slices.Reverse(changes)
		v.Targets = append(v.Targets, targetView{t, newFigures(&t.Recent), changes})
	}
	return v
}

func newFigures(r *Recent) figures {
	f := figures{Rate: float64(r.Attempts) / max(r.Seconds, 1), Known: r.Attempts > 0, Chart: bars(r.Spread), Window: int(r.Seconds)}
	if f.Known {
		f.Share = float64(r.Errors) / float64(r.Attempts)
	}
	return f
}

// Bad reports whether the share of errors is highlighted.
func (f figures) Bad() bool { return f.Share >= 0.01 }

// added returns the sums of two spreads.
func added(a, b []uint64) []uint64 {
	sum := make([]uint64, max(len(a), len(b)))
	copy(sum, a)
	for i, n := range b {
		sum[i] += n
	}
	return sum
}

func (r Route) troubled() bool {
	return r.Error != "" || r.Paused || slices.ContainsFunc(r.Targets, Target.troubled)
}
func (t Target) troubled() bool { return t.State != "up" }

func (c Certificate) troubled() bool { return c.State != "valid" && c.State != "static" }

// firstRows returns the rows to show. If there are too many, troubled ones come
// first.
func firstRows[T any](all []T, troubled func(T) bool) (shown []T, more int) {
	if len(all) <= maxRows {
		return all, 0
	}
	all = slices.Clone(all)
	slices.SortStableFunc(all, first(troubled))
	return all[:maxRows], len(all) - maxRows
}

// first returns a comparison that puts troubled ones first.
func first[T any](troubled func(T) bool) func(T, T) int {
	rank := func(x T) int {
		if troubled(x) {
			return 0
		}
		return 1
	}
	return func(a, b T) int { return cmp.Compare(rank(a), rank(b)) }
}

// Ago returns the time between t and the page, in one unit.
func (v *view) Ago(t time.Time) string { return ago(v.Time.Sub(t)) }

func ago(d time.Duration) string {
	for _, u := range [...]struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}} {
		if d >= u.unit {
			return number(uint64(d/u.unit)) + " " + u.name + " ago"
		}
	}
	return number(uint64(max(d, 0)/time.Second)) + " s ago"
}
