package hostproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing/fstest"
	"time"

	"github.com/caddyserver/certmagic"
	"golang.org/x/crypto/bcrypt"

	"github.com/hostproxy/hostproxy"
)

// Internal names, such as app.localhost, get certificates from a LocalCA.
// Browsers and other clients accept them once they trust its root. RootFile
// says where the root is; the README has the commands for each operating
// system. Go clients take RootPEM.
func Example_trustLocalCA() {
	dir, _ := os.MkdirTemp("", "") // your program: nothing, or r.TLS.Storage as it is
	defer os.RemoveAll(dir)
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	r.TLS.Storage = &certmagic.FileStorage{Path: dir}
	r.Handle("app.localhost", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "trusted") }))
	ca := &hostproxy.LocalCA{Storage: r.TLS.Storage} // &hostproxy.LocalCA{} for the default storage
	file, err := ca.RootFile(context.Background())
	fmt.Println(strings.TrimPrefix(file, dir), err)
	root, err := ca.RootPEM(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)

	ln, err := r.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	server := &http.Server{Handler: &r}
	go server.Serve(ln)
	defer r.Close()
	defer server.Close()

	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		// instead of DNS
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, ln.Addr().String())
		},
	}}
	defer client.CloseIdleConnections()
	res, err := client.Get("https://app.localhost/")
	if err != nil {
		fmt.Println(err)
		return
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	fmt.Println(string(body))
	// Output:
	// /localca/root.crt <nil>
	// trusted
}

// The headers of a Router are on all responses, those of handlers and errors
// included, and replace what the target sent. A route can change them. HSTS is
// sent over TLS only. Start with a short MaxAge: browsers keep it.
func Example_securityHeaders() {
	addr, stop := greeter("hello")
	defer stop()
	r := hostproxy.Router{
		ResponseHeader: hostproxy.HeaderEdit{
			Set: http.Header{
				"Content-Security-Policy": {"default-src 'self'"},
				"Referrer-Policy":         {"strict-origin-when-cross-origin"},
				"X-Content-Type-Options":  {"nosniff"},
				"X-Frame-Options":         {"DENY"},
			},
			Remove: []string{"Server", "X-Powered-By"},
		},
		HSTS: &hostproxy.HSTS{MaxAge: 24 * time.Hour},
	}
	framed := hostproxy.To(addr)
	framed.ResponseHeader.Set = http.Header{"X-Frame-Options": {"SAMEORIGIN"}}
	r.Handle("app.example.com", hostproxy.To(addr))
	r.Handle("app.example.com/framed", framed)
	r.Handle("www.example.com", http.FileServerFS(fstest.MapFS{"index.html": {Data: []byte("home")}}))
	for _, url := range []string{"https://app.example.com/", "http://app.example.com/", "https://app.example.com/framed",
		"https://www.example.com/", "https://www.example.com/missing", "https://unknown.example.com/"} {
		w := visit(&r, url)
		h := w.Header()
		fmt.Printf("%d %s: %s %q\n", w.Code, url, h.Get("X-Frame-Options"), h.Get("Strict-Transport-Security"))
	}
	// Output:
	// 200 https://app.example.com/: DENY "max-age=86400"
	// 200 http://app.example.com/: DENY ""
	// 200 https://app.example.com/framed: SAMEORIGIN "max-age=86400"
	// 200 https://www.example.com/: DENY "max-age=86400"
	// 404 https://www.example.com/missing: DENY "max-age=86400"
	// 421 https://unknown.example.com/: DENY "max-age=86400"
}

// Make the hash once, by this or by "htpasswd -nB ali", and keep it instead of
// the password. The target gets the name in X-User, and not the password.
func Example_basicAuth() {
	// your program: bcrypt.DefaultCost or more
	hash, err := bcrypt.GenerateFromPassword([]byte("open sesame"), bcrypt.MinCost)
	if err != nil {
		fmt.Println(err)
		return
	}
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprintf(w, "%s %q", q.Header.Get("X-User"), q.Header.Get("Authorization"))
	}))
	defer target.Close()
	admin := hostproxy.To(target.URL)
	admin.RequestHeader.Remove = []string{"Authorization"}
	var r hostproxy.Router
	r.RateLimit = &hostproxy.RateLimit{Rate: 10, Burst: 20} // slows down guessing
	r.Handle("admin.example.com", &hostproxy.BasicAuth{
		Users: map[string]string{"ali": string(hash)}, UserHeader: "X-User", Next: admin,
	})
	for _, password := range []string{"", "open sesame"} {
		q := httptest.NewRequest("GET", "https://admin.example.com/", nil)
		q.SetBasicAuth("ali", password)
		w := httptest.NewRecorder()
		r.ServeHTTP(w, q)
		fmt.Println(w.Code, strings.TrimSpace(w.Body.String()))
	}
	// Output:
	// 401 401 Unauthorized: http_request_denied
	// 200 ali ""
}

// Pages take the place of the bodies of errors: those of the target, and the
// proxy's own, such as 502 for a target that cannot be reached. The status
// stays. NotFound serves hosts and paths without a route; there the handler
// writes the status.
func Example_errorPages() {
	page := template.Must(template.New("").Parse("<h1>{{.Title}}</h1> request {{.ID}}\n"))
	write := func(title string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			page.Execute(w, struct{ Title, ID string }{title, hostproxy.RequestID(q)})
		})
	}
	target := httptest.NewServer(http.NotFoundHandler())
	app := hostproxy.To(target.URL)
	app.Pages = map[int]http.Handler{404: write("Not here"), 502: write("Back soon"), 503: write("Back soon")}
	r := hostproxy.Router{
		Logger:    slog.New(slog.DiscardHandler),
		RequestID: hostproxy.RequestIDHeader{Name: "X-Request-Id"},
		NotFound: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, "no such host\n")
		}),
	}
	r.Handle("app.example.com", app)
	show := func(url string) {
		w := visit(&r, url)
		title, _, _ := strings.Cut(w.Body.String(), " request ")
		fmt.Println(w.Code, strings.TrimSpace(title))
	}
	show("https://app.example.com/nothing")
	target.Close()
	show("https://app.example.com/")
	show("https://other.example.com/")
	// Output:
	// 404 <h1>Not here</h1>
	// 502 <h1>Back soon</h1>
	// 404 no such host
}

// Responses are passed on as they come, with no buffer to switch off. A stream
// or an upload may take hours as long as bytes move. These limits can cut it
// off:
//
//   - Upstream.ResponseHeaderTimeout, 60 s: the wait for the head of the
//     response, once the request is sent. A model that thinks for minutes
//     before its first byte needs more.
//   - Upstream.IdleTimeout, 5 minutes: a pause in a body. Raise it, or let the
//     target send a comment line of an event stream now and then.
//   - Uploads get 408 after a minute without a byte, and below 240 B/s once
//     waited for 10 s, until the response begins. These two are fixed.
//   - Upstream.MaxRequestBody: no limit unless you set one.
//   - A deploy or a shutdown cuts event streams off after 10 s.
//     Upstream.StreamGrace lets them continue for longer when a target or a
//     route is replaced; Server.HandOver lets them continue until
//     Server.HandOverTimeout.
//
// A Server has no limit for a whole request. In an http.Server of your own, set
// no ReadTimeout and no WriteTimeout: these do limit it.
func Example_streamsAndUploads() {
	next := make(chan bool) // the client has read a token
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		n, _ := io.Copy(io.Discard, q.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		for _, token := range []string{fmt.Sprint(n), "bytes", "read"} {
			fmt.Fprintf(w, "data: %s\n\n", token)
			w.(http.Flusher).Flush()
			<-next
		}
	}))
	defer model.Close()
	app := hostproxy.To(model.URL)
	app.ResponseHeaderTimeout = 10 * time.Minute // to the first byte of an answer
	app.IdleTimeout = 30 * time.Minute           // between two tokens, or two parts of an upload
	app.StreamGrace = time.Hour                  // for streams of the old version after a deploy
	front := httptest.NewServer(app)             // your program: a Router and a Server
	defer front.Close()

	res, err := http.Post(front.URL, "application/octet-stream", bytes.NewReader(make([]byte, 3<<20)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if token, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			fmt.Println(token)
			next <- true
		}
	}
	// Output:
	// 3145728
	// bytes
	// read
}
