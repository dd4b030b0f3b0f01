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
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

//go:embed page.html
var pageHTML string // read-only

//go:embed page.css
var pageCSS string // read-only

// maxRows is how many rows of a table the page shows; JSON has all.
const maxRows = 500

// Handler returns a handler that shows what now returns: as JSON to who asks for format=json or accepts nothing of HTML,
// else as a page. The parameter q leaves out routes, certificates and failures without that text in their host or
// pattern. With the parameter url, and method and client if they are there, it shows what explain returns for such a
// request: beside the rest as a page, and alone as JSON. It tells no cache, no frame and no other site.
func Handler(now func() Page, explain func(*http.Request) *Explanation) http.Handler {
	sum := sha256.Sum256([]byte(pageCSS))
	h := &handler{now: now, explain: explain, csp: "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; style-src 'sha256-" +
		base64.StdEncoding.EncodeToString(sum[:]) + "'"}
	h.page = template.Must(template.New("page").Funcs(template.FuncMap{"text": Text, "when": when, "ms": milliseconds}).Parse(pageHTML))
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
	head.Set("Content-Security-Policy", h.csp)
	head.Set("Cache-Control", "no-store")
	head.Set("Vary", "Accept")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Referrer-Policy", "no-referrer")
	head.Set("Cross-Origin-Resource-Policy", "same-origin")
	if q.Method == http.MethodGet {
		_, _ = b.WriteTo(w)
	}
}

// writePage writes the page that q asks for.
func (h *handler) writePage(b *bytes.Buffer, q *http.Request) error {
	filter := q.URL.Query().Get("q")
	p := h.now()
	p.keep(filter)
	v := h.view(&p, filter)
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

// A view is a Page cut to what fits, and what was left out.
type view struct {
	Page
	CSS                                            template.CSS
	Filter                                         string
	Question                                       question
	Answer                                         string // "" without a question
	MoreRoutes, MoreCertificates, Up, Targets, Bad int
}

func (h *handler) view(p *Page, filter string) *view {
	v := &view{Page: *p, Filter: filter, CSS: template.CSS(pageCSS)}
	for _, r := range p.Routes {
		v.Targets += len(r.Targets)
		for _, t := range r.Targets {
			if t.State == "up" {
				v.Up++
			}
		}
	}
	for _, c := range p.Certificates {
		if c.State == "failed" {
			v.Bad++
		}
	}
	v.Routes, v.MoreRoutes = firstRows(p.Routes)
	v.Certificates, v.MoreCertificates = firstRows(p.Certificates)
	return v
}

func firstRows[T any](all []T) (shown []T, more int) {
	n := min(len(all), maxRows)
	return all[:n], len(all) - n
}

// keep leaves out what does not have text.
func (p *Page) keep(text string) {
	if text == "" {
		return
	}
	p.Routes = with(p.Routes, func(r Route) bool { return strings.Contains(r.Pattern, text) })
	p.Certificates = with(p.Certificates, func(c Certificate) bool { return strings.Contains(c.Host, text) })
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

// Text returns s as it can be shown: characters that are not seen, or that turn the direction of others, show as their
// number.
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

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

func milliseconds(f float64) string {
	if f == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", f)
}
