package caddyfile_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"

	"github.com/hostproxy/hostproxy"
)

// A question is a request in a form that can be sent to another process.
type question struct {
	Method, URL, Body string
	Header            http.Header
}

// An answer is the response to a question.
type answer struct {
	Status int
	Header http.Header
	Body   string
}

// ask sends a question to the server that listens on the port of the URL.
func ask(servers []*hostproxy.Server, k question) (a answer) {
	q := httptest.NewRequest(k.Method, k.URL, strings.NewReader(k.Body))
	if k.Body == "" {
		q = httptest.NewRequest(k.Method, k.URL, nil)
	}
	if q.URL.Scheme == "https" {
		q.TLS.ServerName = q.URL.Hostname()
	}
	for name, values := range k.Header {
		q.Header[name] = values
	}
	q.RequestURI = q.URL.RequestURI()
	h := listening(servers, q.URL)
	if h == nil {
		return answer{Body: "no listener"}
	}
	w := httptest.NewRecorder()
	defer func() {
		if p := recover(); p != nil {
			a = answer{Body: "aborted"}
		}
	}()
	h.ServeHTTP(w, q)
	res := w.Result()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{Body: err.Error()}
	}
	return answer{res.StatusCode, res.Header, string(body)}
}

// listening returns the handler on the port of a URL.
func listening(servers []*hostproxy.Server, u *url.URL) http.Handler {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	for _, s := range servers {
		ls := s.Listeners
		if ls == nil { // hostproxy.ListenAndServe
			ls = []hostproxy.Listener{{Addr: ":443"}, {Addr: ":80", Role: hostproxy.RoleRedirects}}
		}
		for _, l := range ls {
			switch {
			case !strings.HasSuffix(l.Addr, ":"+port):
			case l.Role == hostproxy.RoleRedirects:
				return s.Router.HTTPHandler(nil)
			case s.Handler != nil:
				return s.Handler
			default:
				return s.Router
			}
		}
	}
	return nil
}
