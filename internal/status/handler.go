package status

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

//go:embed page.html
var pageHTML string // read-only

//go:embed page.css
var pageCSS string // read-only

//go:embed page.js
var pageJS string // read-only

// Handler returns a handler that shows the Page of now: as JSON for requests
// with format=json or an Accept with JSON and without HTML, otherwise as an
// HTML page. The parameter q is a filter: routes, certificates and failures
// must have that text in their pattern or host; for a route a target's name
// counts too. With the parameter url, and optionally method and client, it
// shows the result of explain for such a request: JSON has only that, the page
// has it too. Responses are not cached, not shown in frames and not readable by
// other sites.
func Handler(now func() Page, explain func(*http.Request) *Explanation) http.Handler {
	h := &handler{now: now, explain: explain, csp: "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; connect-src 'self'; " +
		"style-src " + hash(pageCSS) + "; script-src " + hash(pageJS)}
	h.page = template.Must(template.New("page").Funcs(template.FuncMap{"text": Text, "when": when, "day": day, "ms": milliseconds,
		"number": number, "rate": rate, "percent": percent}).Parse(pageHTML))
	return h
}

type handler struct {
	now     func() Page
	explain func(*http.Request) *Explanation
	page    *template.Template
	csp     string
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if q.Method != http.MethodGet && q.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "405 Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	var b bytes.Buffer
	contentType := "text/html; charset=utf-8"
	write := h.writePage
	if wantsJSON(q) {
		contentType, write = "application/json", h.writeJSON
	}
	err := write(&b, q)
	if err != nil {
		http.Error(w, "500 Internal Server Error", http.StatusInternalServerError)
		return
	}
	head := w.Header()
	head.Set("Content-Type", contentType)
	head.Set("Content-Length", fmt.Sprint(b.Len()))
	head.Set("Vary", "Accept")
	secure(head, h.csp)
	if q.Method == http.MethodGet {
		_, _ = b.WriteTo(w)
	}
}

// secure sets the headers against caches, frames and other sites.
func secure(head http.Header, csp string) {
	for _, f := range [...][2]string{
		{"Content-Security-Policy", csp}, {"Cache-Control", "no-store"}, {"X-Content-Type-Options", "nosniff"}, {"X-Frame-Options", "DENY"},
		{"Referrer-Policy", "no-referrer"}, {"Cross-Origin-Resource-Policy", "same-origin"}, {"Cross-Origin-Opener-Policy", "same-origin"},
	} {
		head.Set(f[0], f[1])
	}
}

// hash returns the source by which a Content-Security-Policy allows a text.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// writePage writes the HTML page for q.
func (h *handler) writePage(b *bytes.Buffer, q *http.Request) error {
	filter := q.URL.Query().Get("q")
	p := h.now()
	v := newView(&p, filter)
	v.Question = questionOf(q)
	if v.Question.URL != "" {
		v.Answer = h.answer(v.Question).Text
	}
	return h.page.Execute(b, v)
}

// writeJSON is writePage for JSON.
func (h *handler) writeJSON(b *bytes.Buffer, q *http.Request) error {
	e := json.NewEncoder(b)
	e.SetIndent("", "  ")
	if asked := questionOf(q); asked.URL != "" {
		return e.Encode(h.answer(asked))
	}
	p := h.now()
	p.keep(q.URL.Query().Get("q"))
	return e.Encode(p)
}

func wantsJSON(q *http.Request) bool {
	if f := q.URL.Query().Get("format"); f != "" {
		return f == "json"
	}
	accept := q.Header.Get("Accept")
	return strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html")
}

// keep leaves out what does not have text.
func (p *Page) keep(text string) {
	if text == "" {
		return
	}
	p.Routes = with(p.Routes, func(r Route) bool {
		return strings.Contains(r.Pattern, text) || slices.ContainsFunc(r.Targets, func(t Target) bool { return strings.Contains(t.Name, text) })
	})
	p.Certificates = with(p.Certificates, func(c Certificate) bool { return strings.Contains(c.Host, text) })
	p.Uncertified = with(p.Uncertified, func(c Uncertified) bool { return strings.Contains(c.Host, text) })
	p.Failures = with(p.Failures, func(f Failure) bool { return strings.Contains(f.Host, text) })
}

func with[T any](all []T, has func(T) bool) []T {
	kept := make([]T, 0, len(all))
	for _, x := range all {
		if has(x) {
			kept = append(kept, x)
		}
	}
	return kept
}

// Text returns s as it can be shown: characters that are not seen, or that turn
// the direction of others, show as their number.
func Text(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == utf8.RuneError, unicode.IsControl(r), unicode.Is(unicode.Cf, r), unicode.Is(unicode.Zl, r), unicode.Is(unicode.Zp, r):
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
