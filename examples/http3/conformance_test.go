package http3_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

var protocols = []string{"h1", "h2", "h3"}

// A result is a response as a client sees it.
type result struct {
	Status  int
	Interim []int
	Header  http.Header // without Date, Alt-Svc and Connection
	Body    string
	Trailer http.Header
	Cut     bool   // the response, or its body, ended with an error
	Proto   string // not set by ask
}

// ask returns the result of q.
func ask(t *testing.T, c *http.Client, q *http.Request) (r result) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), proxytest.Patience)
	defer cancel()
	q = q.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
		// whether 100 is sent depends on the timing of client and server
		if code != http.StatusContinue {
			r.Interim = append(r.Interim, code)
		}
		return nil
	}}))
	res, err := c.Do(q)
	if err != nil {
		return result{Cut: true, Body: err.Error()}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	r.Status, r.Body, r.Cut, r.Header = res.StatusCode, string(b), err != nil, res.Header.Clone()
	for _, name := range []string{"Date", "Alt-Svc", "Connection"} {
		r.Header.Del(name)
	}
	if len(res.Trailer) > 0 {
		r.Trailer = res.Trailer
	}
	return r
}

// echo answers with the request that it received.
func echo(w http.ResponseWriter, q *http.Request) {
	b, _ := io.ReadAll(q.Body)
	if len(b) > 100 {
		b = fmt.Appendf(nil, "%d bytes", len(b))
	}
	w.Header()["X-Two"] = []string{"a", "b"}
	if !strings.HasPrefix(q.URL.Path, "/own") {
		w.Header().Set("X-Framing", fmt.Sprint(q.ContentLength, q.TransferEncoding))
	}
	fmt.Fprintf(w, "%s %s %s body=%q for=%q proto=%q host=%q cookie=%q te=%q expect=%q trailer=%q", q.Method, q.Host, q.RequestURI, b,
		q.Header["X-Forwarded-For"], q.Header["X-Forwarded-Proto"], q.Header["X-Forwarded-Host"], q.Header["Cookie"], q.Header["Te"],
		q.Header["Expect"], q.Trailer)
}

// target answers depending on the path.
func target(w http.ResponseWriter, q *http.Request) {
	switch path := strings.TrimPrefix(q.URL.Path, "/own"); path {
	case "/204":
		w.WriteHeader(204)
	case "/304":
		w.Header().Set("Etag", `"x"`)
		w.WriteHeader(304)
	case "/hints":
		w.Header().Set("Link", "</a>")
		w.WriteHeader(103)
		fmt.Fprint(w, "late")
	case "/trailers":
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprint(w, "sum")
		w.(http.Flusher).Flush()
		w.Header().Set("X-Sum", "3")
		w.Header().Set(http.TrailerPrefix+"X-Undeclared", "u")
	case "/cut":
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "ten bytes.")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	case "/cutchunks":
		fmt.Fprint(w, "ten bytes.")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	case "/early":
		w.WriteHeader(409)
		fmt.Fprint(w, "no need for the body")
	case "/length":
		w.Header().Set("Content-Length", "5")
		fmt.Fprint(w, "12345")
	case "/503":
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(503)
	default:
		echo(w, q)
	}
}

// A shape is a request and the response that every protocol must give.
type shape struct {
	name   string
	method string // "" means GET
	url    string
	host   string // "" means the host of url
	header http.Header
	body   string
	chunks bool // the length is not announced
	trail  http.Header
	want   int    // 0 means the response is cut off at any point
	text   string // part of the body
}

func shapes() []shape {
	large := strings.Repeat("x", 1<<20)
	// over HTTP/1.1, the server must read some of this for the answer to
	// arrive: 256 KiB at most
	refused := strings.Repeat("x", 128<<10)
	all := []shape{
		{name: "get", url: "/?a=b;c", want: 200, text: `GET a.test /?a=b;c body="" for=["127.0.0.1"] proto=["https"] host=["a.test"]`},
		{name: "forged X-Forwarded-For", url: "/", header: http.Header{"X-Forwarded-For": {"203.0.113.9"}}, want: 200, text: `for=["127.0.0.1"]`},
		{name: "cookies", url: "/", header: http.Header{"Cookie": {"a=1; b=2"}}, want: 200, text: `cookie=["a=1; b=2"]`},
		{name: "post", method: "POST", url: "/", body: "some", want: 200, text: `body="some"`},
		{name: "post without a length", method: "POST", url: "/", body: "some", chunks: true, want: 200, text: `body="some"`},
		{name: "large post", method: "PUT", url: "/", body: large, want: 200, text: `body="1048576 bytes"`},
		{name: "request trailers", method: "POST", url: "/", body: "some", chunks: true, trail: http.Header{"X-Check": {"7"}}, want: 200, text: `trailer=map["X-Check":["7"]]`},
		{name: "own method", method: "PURGE", url: "/x", want: 200, text: "PURGE a.test /x"},
		{name: "options", method: "OPTIONS", url: "/x", want: 200, text: "OPTIONS a.test /x"},
		{name: "head", method: "HEAD", url: "/length", want: 200},
		{name: "length", url: "/length", want: 200, text: "12345"},
		{name: "204", url: "/204", want: 204},
		{name: "304", url: "/304", want: 304},
		{name: "503", url: "/503", want: 503},
		{name: "hints", url: "/hints", want: 200, text: "late"},
		{name: "trailers", url: "/trailers", want: 200, text: "sum"},
		{name: "cut off", url: "/cut"},
		{name: "cut off chunks", url: "/cutchunks"},
		{name: "early answer", method: "POST", url: "/early", body: refused, want: 409, text: "no need"},
		{name: "expect", method: "POST", url: "/", body: "some", header: http.Header{"Expect": {"100-continue"}}, want: 200, text: `body="some"`},
		{name: "expect, refused", method: "POST", url: "/early", body: refused, header: http.Header{"Expect": {"100-continue"}}, want: 409, text: "no need"},
	}
	for _, s := range all { // the same requests, answered by a handler instead of a target
		s.name, s.url = "own "+s.name, "/own"+s.url
		if s.text = strings.NewReplacer(" /?", " /own/?", " /x", " /own/x").Replace(s.text); strings.Contains(s.text, "=") && !strings.Contains(s.text, "body=") {
			continue // only targets get this
		}
		if s.name == "own get" {
			s.text = `GET a.test /own/?a=b;c body=""`
		}
		all = append(all, s)
	}
	return append(all,
		shape{name: "redirect", url: "/redirect?x", want: 308},
		shape{name: "down", url: "/down", want: 502},
		shape{name: "no path", url: "https://b.test/", want: 404},
		shape{name: "no host", url: "/", host: "nowhere.test", want: 421},
		shape{name: "other realm", url: "/", host: "b.test", want: 404},
		shape{name: "too large", method: "POST", url: "/small", body: refused, want: 413},
		shape{name: "too large, without a length", method: "POST", url: "/small", body: refused, chunks: true, want: 413},
		shape{name: "denied", url: "/denied", want: 403},
		shape{name: "no password", url: "/password", want: 401},
		shape{name: "ambiguous path", url: "/x/..%2fdenied", want: 400},
		shape{name: "hook panics", url: "/panics", want: 500},
	)
}

// conforming returns a site with the routes that shapes need.
func conforming(t *testing.T) *site {
	t.Helper()
	s := newSite(t, "a.test", "b.test")
	backend := proxytest.NewServer(t, http.HandlerFunc(target)).Addr()
	small, denied, panics := hostproxy.To(backend), hostproxy.To(backend), hostproxy.To(backend)
	small.MaxRequestBody = 1000
	denied.Deny = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	panics.ModifyResponse = func(*http.Response) error { panic("oh") }
	r := s.router
	r.Observe = func(*hostproxy.Exchange) {}
	r.Handle("a.test", hostproxy.To(backend))
	r.Handle("a.test/own", http.HandlerFunc(target))
	r.Handle("a.test/small", small)
	r.Handle("a.test/denied", denied)
	r.Handle("a.test/panics", panics)
	r.Handle("a.test/down", hostproxy.To(proxytest.Refused(t)))
	r.Handle("a.test/redirect", hostproxy.Redirect("www.example.com"))
	r.Handle("a.test/password", &hostproxy.BasicAuth{Users: map[string]string{"u": "$2a$04$zzzzzzzzzzzzzzzzzzzzzuzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"}, Next: http.NotFoundHandler()})
	r.Handle("b.test/only", hello("b"))
	return s.start(t)
}

func (s *shape) request(t *testing.T) *http.Request {
	t.Helper()
	var body io.Reader
	if s.body != "" {
		body = strings.NewReader(s.body)
	}
	if s.chunks {
		body = io.MultiReader(body, &bytes.Buffer{})
	}
	u, err := url.Parse("https://a.test")
	require.NoError(t, err)
	u, err = u.Parse(s.url)
	require.NoError(t, err)
	q, err := http.NewRequest(s.method, u.String(), body)
	require.NoError(t, err)
	q.Host = s.host
	for k, vs := range s.header {
		q.Header[k] = vs
	}
	q.Trailer = s.trail
	return q
}

// Each request is sent twice over each protocol, on one connection.
func TestResultsAreEqualOverAllProtocols(t *testing.T) {
	proxytest.NoLeaks(t)
	s := conforming(t)
	clients := map[string]*http.Client{}
	for _, p := range protocols {
		clients[p] = s.client(t, p)
	}
	for _, c := range shapes() {
		t.Run(c.name, func(t *testing.T) {
			var first result
			for i, p := range protocols {
				for range 2 {
					got := ask(t, clients[p], c.request(t))
					if c.want == 0 {
						assert.True(t, got.Cut, "%s: %+v", p, got)
						continue
					}
					assert.Equal(t, c.want, got.Status, p)
					assert.Contains(t, got.Body, c.text, p)
					if i == 0 {
						first = got
						continue
					}
					assert.Equal(t, first, got, p)
				}
			}
		})
	}
}
