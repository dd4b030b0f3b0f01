package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// The target, the client and the record get the same over HTTP/1.1 and HTTP/2,
// except the version.
func TestARequestIsTheSameOverEachProtocol(t *testing.T) {
	proxytest.NoLeaks(t)
	var saw *http.Request
	var body []byte
	target := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ = io.ReadAll(q.Body)
		saw = q
		w.Header().Set("Set-Cookie", "a=b")
		w.Header().Add("Set-Cookie", "c=d")
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.Header().Set("Keep-Alive", "timeout=5")
		switch q.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("Content-Length", "7")
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(304)
		case "/chunked":
			w.(http.Flusher).Flush()
			io.WriteString(w, "answer")
		case "/500":
			http.Error(w, "no", 500)
		case "/hints":
			w.Header().Set("Link", "</a>; rel=preload")
			w.WriteHeader(103)
			io.WriteString(w, "answer")
		case "/redirect":
			http.Redirect(w, q, "/other", http.StatusFound)
		default:
			io.WriteString(w, "answer")
		}
	}))
	r := hostproxy.Router{Logger: silent()}
	var records []hostproxy.Exchange
	ended := make(chan struct{}, 10)
	r.Observe = func(x *hostproxy.Exchange) { records = append(records, *x); ended <- struct{}{} }
	r.Handle("fast.test", hostproxy.To(target.Addr()))
	odd := hostproxy.To(target.Addr())
	odd.ModifyResponse = func(*http.Response) error { return nil }
	r.Handle("odd.test", odd)
	config, roots := proxytest.TLS(t, "fast.test", "odd.test")
	r.TLS.Config = config
	server := proxytest.Start(t, &hostproxy.Server{Router: &r})
	clients := map[string]*http.Client{}
	for _, p := range []string{"h1", "h2"} {
		clients[p] = proxytest.HTTPClient(t, server.HTTPS, roots, p)
	}
	type request struct {
		method, path string
		fields       http.Header
		body         string
		unsized      bool
		trailer      http.Header
	}
	for _, tt := range []request{
		{method: "GET", path: "/"},
		{method: "HEAD", path: "/"},
		{method: "GET", path: "/a%2fb//c/../d?e=f&g;h"},
		{method: "GET", path: "/204"},
		{method: "GET", path: "/304"},
		{method: "GET", path: "/chunked"},
		{method: "HEAD", path: "/chunked"},
		{method: "GET", path: "/500"},
		{method: "GET", path: "/hints"},
		{method: "GET", path: "/redirect"},
		{method: "POST", path: "/", body: "text"},
		{method: "POST", path: "/", body: "text", unsized: true},
		{method: "POST", path: "/", body: "text", unsized: true, trailer: http.Header{"X-Sent": {"1"}}},
		{method: "POST", path: "/", body: strings.Repeat("text", 50_000)},
		{method: "POST", path: "/", body: strings.Repeat("text", 50_000), unsized: true},
		{method: "POST", path: "/"},
		{method: "PUT", path: "/"},
		{method: "DELETE", path: "/"},
		{method: "DELETE", path: "/", body: "x"},
		{method: "GET", path: "/", body: "x"},
		{method: "OPTIONS", path: "/"},
		{method: "PROPFIND", path: "/"},
		{method: "GET", path: "/", fields: http.Header{"Cookie": {"a=1; b=2"}, "X-Forwarded-For": {"1.2.3.4"}, "X-Forwarded-Proto": {"ftp"}, "Forwarded": {"for=x"}, "Te": {"trailers"},
			"X-Real-Ip": {"1.1.1.1"}, "Max-Forwards": {"5"}, "Referer": {"r"}, "Via": {"1.0 x"}, "Range": {"bytes=0-2"}, "X-Request-Id": {"mine"}, "Priority": {"u=1"}}},
		{method: "GET", path: "/", fields: http.Header{"Max-Forwards": {"0"}}},
		{method: "OPTIONS", path: "/", fields: http.Header{"Max-Forwards": {"0"}}},
		{method: "POST", path: "/", body: "text", fields: http.Header{"Expect": {"100-continue"}}},
		{method: "POST", path: "/", body: "text", fields: http.Header{"Expect": {"x"}}},
		{method: "GET", path: "/", fields: http.Header{"X-Multi": {"a", "b", ""}, "User-Agent": {""}}},
	} {
		for _, host := range []string{"fast.test", "odd.test", "none.test"} {
			t.Run(fmt.Sprint(host, tt.method, tt.path, len(tt.body), tt.unsized, tt.fields), func(t *testing.T) {
				got := map[string]string{}
				for protocol, client := range clients {
					saw, body, records = nil, nil, nil
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					defer cancel()
					var b io.Reader
					if tt.body != "" {
						b = strings.NewReader(tt.body)
						if tt.unsized {
							b = io.MultiReader(b)
						}
					}
					q, err := http.NewRequestWithContext(ctx, tt.method, "https://"+host+tt.path, b)
					require.NoError(t, err)
					q.Header.Set("User-Agent", "test")
					for k, v := range tt.fields {
						q.Header[k] = v
					}
					q.Trailer = tt.trailer.Clone()
					if host == "none.test" {
						q.URL.Host, q.Host = "fast.test", "none.test"
					}
					p, err := client.Do(q)
					require.NoError(t, err)
					answer, err := io.ReadAll(p.Body)
					require.NoError(t, err)
					p.Body.Close()
					<-ended
					var out bytes.Buffer
					if saw != nil {
						fmt.Fprintln(&out, "seen", saw.Method, saw.RequestURI, saw.Host, saw.ContentLength, saw.TransferEncoding, len(body), saw.Trailer)
						saw.Header.Write(&out)
					}
					fmt.Fprintln(&out, "got", p.StatusCode, p.ContentLength, string(answer), p.Trailer)
					p.Header.Del("Date")
					p.Header.Del("Connection")
					p.Header.Write(&out)
					for _, x := range records {
						for i := range x.Timeline {
							a := &x.Timeline[i]
							a.Start, a.Dial, a.FirstByte, a.Duration = time.Time{}, 0, 0, 0
							a.Whole = false // depends on when the body came
						}
						x.Start, x.Duration, x.FirstByte, x.Dial, x.Proto = time.Time{}, 0, 0, 0, ""
						if len(x.RequestID) > 10 {
							x.RequestID = "made"
						}
						fmt.Fprintf(&out, "record %+v", x)
					}
					got[protocol] = out.String()
				}
				norm := func(s string) []string {
					lines := strings.Split(s, "\n")
					for i, l := range lines {
						if strings.HasPrefix(l, "X-Request-Id: ") && len(l) > 30 {
							lines[i] = "X-Request-Id: made"
						}
						lines[i] = strings.ReplaceAll(strings.ReplaceAll(lines[i], "2.0 hostproxy", "1.1 hostproxy"), "\r", "")
					}
					slices.Sort(lines)
					return lines
				}
				assert.Equal(t, norm(got["h1"]), norm(got["h2"]))
			})
		}
	}
}
