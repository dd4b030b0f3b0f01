package status

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
)

// An Explanation says what a proxy would do with a request, and why.
type Explanation struct {
	Method     string   `json:"method"`
	Host       string   `json:"host"`
	Path       string   `json:"path"`
	Client     string   `json:"client,omitempty"`
	Candidates []Choice `json:"candidates"`
	Pattern    string   `json:"pattern"`
	Handlers   []string `json:"handlers"`
	Rules      []Rule   `json:"rules"`
	Targets    []Choice `json:"targets"`
	Target     string   `json:"target,omitempty"`
	Selection  string   `json:"selection,omitempty"`
	Wait       string   `json:"wait,omitempty"`
	Status     int      `json:"status,omitempty"`
	Reason     string   `json:"reason,omitempty"`
	TLS        string   `json:"tls"`

	Certificate *Certificate `json:"certificate,omitempty"`
}

// A Rule is a setting that may refuse a request, or make it wait.
type Rule struct {
	Name    string `json:"name"`
	Outcome string `json:"outcome"`
	Detail  string `json:"detail"`
}

// The outcomes of a Rule.
const (
	Passes  = "passes"
	Waits   = "waits"
	Refuses = "refuses"
	Unknown = "unknown" // Explain cannot tell
)

// A Choice is a pattern or a target that may be chosen.
type Choice struct {
	Name string `json:"name"`
	Why  string `json:"why,omitempty"` // why it is not chosen, or cannot be; "" if it is, or can be
}

// Refuse notes why the request is refused, unless another refusal was noted.
func (e *Explanation) Refuse(status int, reason string) {
	if e.Status == 0 {
		e.Status, e.Reason = status, reason
	}
}

// Rule adds a rule.
func (e *Explanation) Rule(name, outcome, format string, args ...any) {
	e.Rules = append(e.Rules, Rule{name, outcome, fmt.Sprintf(format, args...)})
}

// RefuseBy adds a rule that refuses the request.
func (e *Explanation) RefuseBy(name string, status int, format string, args ...any) {
	e.Rule(name, Refuses, format, args...)
	e.Refuse(status, e.last())
}

// DeferBy adds a rule that makes the request wait.
func (e *Explanation) DeferBy(name, format string, args ...any) {
	e.Rule(name, Waits, format, args...)
	if e.Status == 0 && e.Wait == "" {
		e.Wait = e.last()
	}
}

// last returns the last rule as a reason.
func (e *Explanation) last() string {
	r := e.Rules[len(e.Rules)-1]
	return r.Name + ": " + r.Detail
}

// maxLines limits the candidates and the targets in a text; the fields have
// all.
const maxLines = 20

// Text returns the explanation as lines. It makes invisible characters in them
// visible.
func (e *Explanation) Text() string {
	var b strings.Builder
	line := func(format string, args ...any) {
		b.WriteString(Text(fmt.Sprintf(format, args...)))
		b.WriteByte('\n')
	}
	from := ""
	if e.Client != "" {
		from = " from " + e.Client
	}
	line("%s %s%s%s", e.Method, bracketed(e.Host), e.Path, from)
	line("response: %s", e.answer())
	line("route: %s", cmp.Or(e.Pattern, "none"))
	lines(e.Candidates, func(c Choice) { line("  %s: %s", c.Name, cmp.Or(c.Why, "serves")) }, line)
	if len(e.Handlers) > 0 {
		line("handlers: %s", strings.Join(e.Handlers, ", then "))
	}
	if len(e.Rules) > 0 {
		line("rules:")
	}
	for _, r := range e.Rules {
		line("  %s %s: %s", r.Name, r.Outcome, r.Detail)
	}
	if len(e.Targets) > 0 {
		line("targets: %s", e.Selection)
	}
	lines(e.Targets, func(t Choice) { line("  %s: %s", t.Name, cmp.Or(t.Why, "eligible")) }, line)
	line("certificate: %s", e.certificate())
	return b.String()
}

// answer returns the outcome of the request in one line.
func (e *Explanation) answer() string {
	wait := ""
	if e.Wait != "" {
		wait = ", after waiting: " + e.Wait
	}
	eligible := 0
	for _, t := range e.Targets {
		if t.Why == "" {
			eligible++
		}
	}
	switch {
	case e.Status != 0:
		return fmt.Sprintf("%d, %s%s", e.Status, e.Reason, wait)
	case e.Target != "":
		return "from target " + e.Target + wait
	case eligible > 0:
		return fmt.Sprintf("from one of %d targets%s", eligible, wait)
	case len(e.Handlers) > 0:
		return "from " + e.Handlers[len(e.Handlers)-1] + wait
	}
	return "unknown" + wait
}

// certificate returns how TLS is served, in one line.
func (e *Explanation) certificate() string {
	c := e.Certificate
	if c == nil {
		return e.TLS
	}
	s := e.TLS + ": " + c.State
	if c.Issuer != "" {
		s += ", issued by " + c.Issuer
	}
	if !c.NotAfter.IsZero() {
		s += ", valid until " + when(c.NotAfter)
	}
	if c.Error != "" {
		s += ", " + c.Error
	}
	return s
}

// lines calls each for the first maxLines of all, and writes how many more
// there are.
func lines[T any](all []T, each func(T), line func(string, ...any)) {
	for i, x := range all {
		if i == maxLines {
			line("  and %d more", len(all)-i)
			return
		}
		each(x)
	}
}

// bracketed returns a host as it is written in a URL.
func bracketed(host string) string {
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		return "[" + host + "]"
	}
	return host
}

// Titled returns a line of names after a title, or "" if there are none.
func Titled(title string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	return title + ": " + strings.Join(names, ", ") + "\n"
}
