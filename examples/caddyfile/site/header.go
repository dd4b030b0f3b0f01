package site

import (
	"maps"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Edits are changes to headers, in this order: Add, Set, Remove, Replace.
// Values may have placeholders.
type Edits struct {
	Add, Set http.Header
	Remove   []string // a star at either end matches any text; "*" acts before Add
	Replace  []ReplaceValue
}

// A ReplaceValue replaces text in the values of a header.
type ReplaceValue struct {
	Field string
	Find  *regexp.Regexp
	With  string // may have placeholders, and groups such as $1
}

// apply changes h.
func (e *Edits) apply(h http.Header, expand func(string) string) {
	if slices.Contains(e.Remove, "*") {
		clear(h)
	}
	for field, values := range e.Add {
		for _, v := range values {
			h.Add(field, expand(v))
		}
	}
	for field, values := range e.Set {
		for _, v := range values {
			h.Set(field, expand(v))
		}
	}
	for _, name := range e.Remove {
		if name != "*" {
			maps.DeleteFunc(h, func(field string, _ []string) bool {
				return valueMatches(strings.ToLower(name), strings.ToLower(field))
			})
		}
	}
	for _, r := range e.Replace {
		values := h[textproto.CanonicalMIMEHeaderKey(r.Field)]
		for i := range values {
			values[i] = r.Find.ReplaceAllString(values[i], expand(r.With))
		}
	}
}

// A Header changes the headers of responses.
type Header struct {
	Edits   Edits
	Default http.Header // set if the response lacks the header; may have placeholders

	// Deferred changes the headers of Next's response. If it is false, headers
	// are set before Next is called. Next may then replace them or, if it is an
	// Upstream, add the target's values. Default is always deferred.
	Deferred bool
	Next     http.Handler
}

// ServeHTTP serves q by Next, and changes the headers of the response.
func (s *Header) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	expand := func(v string) string { return Expand(v, q) }
	if !s.Deferred {
		s.Edits.apply(w.Header(), expand)
	}
	if !s.Deferred && s.Default == nil {
		s.Next.ServeHTTP(w, q)
		return
	}
	e := &editor{ResponseWriter: w, change: func(h http.Header) {
		if s.Deferred {
			s.Edits.apply(h, expand)
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(s.Default)), func(field string) bool { return h[field] != nil }) {
			for field, values := range s.Default {
				h.Set(field, expand(strings.Join(values, ",")))
			}
		}
	}}
	s.Next.ServeHTTP(e, q)
	e.edit(http.StatusOK)
}

// Unwrap returns Next.
func (s *Header) Unwrap() http.Handler { return s.Next }

// An editor changes the header of a response just before it is sent.
type editor struct {
	http.ResponseWriter
	change func(http.Header)
	edited bool
}

// edit changes the header once. It leaves interim responses as they are.
func (e *editor) edit(status int) {
	if e.edited || status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	e.edited = true
	e.change(e.Header())
}

func (e *editor) WriteHeader(status int) {
	e.edit(status)
	e.ResponseWriter.WriteHeader(status)
}

func (e *editor) Write(b []byte) (int, error) {
	e.edit(http.StatusOK)
	return e.ResponseWriter.Write(b)
}

// FlushError sends the header, if that was not sent yet, and everything
// written.
func (e *editor) FlushError() error {
	e.edit(http.StatusOK)
	return http.NewResponseController(e.ResponseWriter).Flush()
}

// Flush is FlushError for callers that only know http.Flusher.
func (e *editor) Flush() { _ = e.FlushError() }

func (e *editor) Unwrap() http.ResponseWriter { return e.ResponseWriter }

// A RequestHeader changes the headers of requests before Next serves them.
type RequestHeader struct {
	Edits Edits
	Next  http.Handler
}

// ServeHTTP passes a changed copy of q to Next.
func (s *RequestHeader) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	out := q.Clone(q.Context())
	s.Edits.apply(out.Header, func(v string) string { return Expand(v, q) })
	s.Next.ServeHTTP(w, out)
}

// Unwrap returns Next.
func (s *RequestHeader) Unwrap() http.Handler { return s.Next }

// A HeaderUp changes the headers of requests to a target. Its method Rewrite is
// for Upstream.Rewrite.
type HeaderUp struct {
	Edits Edits
	Host  string // Host header; may have placeholders; "" keeps it

	// Question means that the target is the authentication server of a
	// hostproxy.ForwardAuth. Placeholders such as {uri} and {method} then have
	// the values of the client's request, not of the request to that server.
	Question bool
}

// Rewrite changes the outgoing request.
func (s HeaderUp) Rewrite(p *httputil.ProxyRequest) {
	in := p.In
	if s.Question {
		in = asked(in)
	}
	expand := func(v string) string { return Expand(v, in) }
	s.Edits.apply(p.Out.Header, expand)
	if s.Host != "" {
		p.Out.Host = expand(s.Host)
	}
}

// asked returns the client's request that a ForwardAuth's request q is about,
// as far as placeholders need it. The ForwardAuth has set both headers.
func asked(q *http.Request) *http.Request {
	uri := q.Header.Get("X-Forwarded-Uri")
	u, err := url.ParseRequestURI(uri)
	if err != nil {
		return q
	}
	c := q.WithContext(q.Context())
	c.Method, c.URL, c.RequestURI = q.Header.Get("X-Forwarded-Method"), u, uri
	return c
}

// A HeaderDown changes the headers of responses from a target. Its method
// ModifyResponse is for Upstream.ModifyResponse.
type HeaderDown struct{ Edits Edits }

// ModifyResponse changes the response.
func (s HeaderDown) ModifyResponse(res *http.Response) error {
	s.Edits.apply(res.Header, func(v string) string { return Expand(v, res.Request) })
	return nil
}
