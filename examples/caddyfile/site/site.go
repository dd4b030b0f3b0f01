// Package site has handlers that a Caddyfile needs and that package hostproxy
// lacks. Each handler is a struct of plain data, so a Go program that builds
// the same one can be printed. In the order in which a request meets them:
//
//   - site.go: choosing a handler, and fixed responses
//   - match.go: selecting requests
//   - placeholder.go: placeholders such as {host}
//   - rewrite.go: changes to the path and query of a request
//   - header.go: changes to headers
//   - errors.go: handling failures
//   - files.go: files of a directory
//   - proxy.go: upstreams with Caddy's defaults, and changes on the way to a
//     target
//   - log.go: access logs
//   - ask.go: which hosts may have an on-demand certificate
//   - serve.go: several servers in one program
//
// Handlers are ready to use as literals and may be called concurrently. They
// must not be changed while they serve. A value may have placeholders if its
// field says so.
package site

import (
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// A First serves a request by the first of its cases that matches. If none
// matches, the response is 200 without a body, as for a site without a handler.
// Use a pointer as the handler of a route: then a Router can tell whether it
// has changed.
type First []Case

// A Case is a handler and the requests that it serves.
type Case struct {
	Match *Match // nil matches all requests
	Next  http.Handler
}

// ServeHTTP serves q by the first case that matches.
func (f *First) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	for _, c := range *f {
		if c.Match == nil {
			c.Next.ServeHTTP(w, q)
			return
		}
		if matched := c.Match.match(q); matched != nil {
			c.Next.ServeHTTP(w, matched)
			return
		}
	}
}

// Empty answers 200 without a body. It ends a site whose handlers did not
// answer.
type Empty struct{}

// ServeHTTP answers 200 without a body.
func (Empty) ServeHTTP(http.ResponseWriter, *http.Request) {}

// A Respond is a fixed response.
type Respond struct {
	Status int    // 0 means 200, or the status of the failure that an Errors handles
	Body   string // may have placeholders
	Close  bool   // closes the connection afterwards
}

// ServeHTTP answers with the status and the body. If no handler has set a
// Content-Type, a body that is a JSON object or array gets application/json,
// and any other body text/plain.
func (s *Respond) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	h := w.Header()
	if s.Close {
		h.Set("Connection", "close")
	}
	body := Expand(s.Body, q)
	if h.Get("Content-Type") == "" {
		switch {
		case body == "":
			h["Content-Type"] = nil // prevents a guess
		case isJSON(body):
			h.Set("Content-Type", "application/json")
		default:
			h.Set("Content-Type", "text/plain; charset=utf-8")
		}
	}
	status := cmp.Or(s.Status, stateOf(q).status, http.StatusOK)
	w.WriteHeader(status)
	if body != "" && q.Method != http.MethodHead {
		_, _ = io.WriteString(w, body) // fails if the client has disconnected
	}
}

// isJSON reports whether a body is an object or an array.
func isJSON(body string) bool {
	body = strings.TrimSpace(body)
	return len(body) > 2 && (body[0] == '{' || body[0] == '[') && json.Valid([]byte(body))
}

// A Redirect answers with a Location.
type Redirect struct {
	To     string // may have placeholders
	Status int    // 0 means 302
}

// ServeHTTP redirects to To.
func (s *Redirect) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	w.Header().Set("Location", Expand(s.To, q))
	w.Header()["Content-Type"] = nil
	status := s.Status
	if status == 0 {
		status = http.StatusFound
	}
	w.WriteHeader(status)
}

// Abort closes the connection without a response.
type Abort struct{}

// ServeHTTP closes the connection.
func (Abort) ServeHTTP(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// A MaxBody limits the body of a request. A larger body gets 413, provided that
// the response has not begun when Next reads beyond the limit.
type MaxBody struct {
	Bytes int64
	Next  http.Handler
}

// ServeHTTP passes q to Next with a body of limited length.
func (s *MaxBody) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if q.ContentLength > s.Bytes {
		fail(w, q, http.StatusRequestEntityTooLarge)
		return
	}
	limited := q.WithContext(q.Context())
	limited.Body = http.MaxBytesReader(w, q.Body, s.Bytes)
	s.Next.ServeHTTP(w, limited)
}

// Unwrap returns Next.
func (s *MaxBody) Unwrap() http.Handler { return s.Next }

// ToHTTPS redirects to the same URL over HTTPS, on Port. 0 means 443.
type ToHTTPS struct{ Port int }

// ServeHTTP redirects to HTTPS with 308.
func (s *ToHTTPS) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	host := hostname(q)
	if strings.Contains(host, ":") && host[0] != '[' {
		host = "[" + host + "]"
	}
	to := "https://" + host
	if s.Port != 0 && s.Port != 443 {
		to += ":" + strconv.Itoa(s.Port)
	}
	w.Header().Set("Connection", "close")
	w.Header().Set("Location", to+q.URL.RequestURI())
	w.WriteHeader(http.StatusPermanentRedirect)
}
