package site

import (
	"net/http"
	"net/url"
	"strings"
)

// A Rewrite changes the path and query of a request.
type Rewrite struct {
	// To is the new path, the new query, or both, such as /index.html, ?a=b or
	// /api{uri}. A part that is missing here is not changed. To may have
	// placeholders.
	To string

	StripPrefix, StripSuffix string    // removed from the start or the end of the path
	Replace                  []Replace // changes to the path and query
	Next                     http.Handler
}

// A Replace replaces text in the path and query.
type Replace struct {
	Find, With string // With may have placeholders
	Limit      int    // number of replacements; 0 means all
}

// ServeHTTP passes a changed copy of q to Next.
func (s *Rewrite) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	u := *q.URL
	if s.To != "" {
		s.set(&u, q)
	}
	if s.StripPrefix != "" {
		strip(&u, s.StripPrefix, cutPrefix)
	}
	if s.StripSuffix != "" {
		strip(&u, s.StripSuffix, cutSuffix)
	}
	for _, r := range s.Replace {
		r.apply(&u, q)
	}
	s.Next.ServeHTTP(w, withURL(q, &u))
}

// Unwrap returns Next.
func (s *Rewrite) Unwrap() http.Handler { return s.Next }

// withURL returns a copy of q with a new path and query.
func withURL(q *http.Request, u *url.URL) *http.Request {
	out := with(q, func(s *state) {
		if s.original == nil {
			s.original = q.URL
		}
	})
	out.URL, out.RequestURI = u, u.RequestURI()
	return out
}

// set replaces the path and query by those of To. It escapes placeholders as
// their place requires.
func (s *Rewrite) set(u *url.URL, q *http.Request) {
	to, query, hasQuery := strings.Cut(s.To, "?")
	if strings.HasSuffix(to, "{") { // the "?" belongs to {?query}
		to, query, hasQuery = s.To, "", false
	}
	if to != "" {
		p := Expand(strings.NewReplacer("{path}", "{%path}", "{http.request.uri.path}", "{%path}").Replace(to), q)
		p, injected, ok := strings.Cut(p, "?") // the query comes from {uri}
		if ok && !hasQuery {
			u.RawQuery = injected
		}
		if path, err := url.PathUnescape(p); err == nil {
			p = path
		}
		if !strings.HasPrefix(p, "/") {
			p = "/" + p
		}
		u.Path, u.RawPath = p, ""
	}
	if hasQuery {
		u.RawQuery = rewriteQuery(query, q)
	}
}

// rewriteQuery replaces placeholders. It escapes their values, except for
// {query}.
func rewriteQuery(query string, q *http.Request) string {
	var parts []string
	for part := range strings.SplitSeq(query, "&") {
		if part == "{query}" || part == "{http.request.uri.query}" {
			part = q.URL.RawQuery
		} else {
			part = expand(part, q, url.QueryEscape)
		}
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "&")
}

// strip removes a prefix or suffix from the escaped path.
func strip(u *url.URL, text string, cut func(path, text string) string) {
	clean := cleanPath(u.EscapedPath(), !strings.Contains(text, "//"))
	escaped := cut(clean, text)
	if !strings.HasPrefix(escaped, "/") {
		escaped = "/" + escaped
	}
	path, err := url.PathUnescape(escaped)
	if err != nil {
		return
	}
	u.Path, u.RawPath = path, escaped
}

// cutPrefix removes a prefix from an escaped path. An escape in the path is
// equal to its character, unless the prefix has an escape there too.
func cutPrefix(path, prefix string) string {
	i := 0
	for j := 0; j < len(prefix); i, j = i+1, j+1 {
		if i >= len(path) {
			return path
		}
		c := path[i]
		if c == '%' && prefix[j] != '%' && i+2 < len(path) {
			if s, err := url.PathUnescape(path[i : i+3]); err == nil {
				c = s[0]
				i += 2
			}
		}
		if lower(c) != lower(prefix[j]) {
			return path
		}
	}
	return path[i:]
}

func cutSuffix(path, suffix string) string {
	if len(path) >= len(suffix) && strings.EqualFold(path[len(path)-len(suffix):], suffix) {
		return path[:len(path)-len(suffix)]
	}
	return path
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// apply replaces text in path and query.
func (r Replace) apply(u *url.URL, q *http.Request) {
	n := r.Limit
	if n == 0 {
		n = -1
	}
	with := Expand(r.With, q)
	escaped := strings.Replace(cleanPath(u.EscapedPath(), !strings.Contains(r.Find, "//")), r.Find, with, n)
	path, err := url.PathUnescape(escaped)
	if err != nil || !strings.HasPrefix(path, "/") {
		return
	}
	u.Path, u.RawPath = path, escaped
	u.RawQuery = strings.Replace(u.RawQuery, r.Find, with, n)
}
