package hostproxy_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/hostproxy/hostproxy"
)

// greeter starts a service and returns its address.
func greeter(text string) (addr string, stop func()) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprintf(w, "%s, %s", text, strings.Join(q.Header.Values("X-Env"), ""))
	}))
	return s.Listener.Addr().String(), s.Close
}

// visit asks h without a network.
func visit(h http.Handler, url string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", url, nil))
	return w
}

func ExampleServer() {
	var r hostproxy.Router
	r.Handle("blog.localhost", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "a post")
	}))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	done := make(chan error)
	go func() { done <- (&hostproxy.Server{Router: &r}).Serve(ctx, nil, ln) }()

	q, _ := http.NewRequest("GET", "http://"+ln.Addr().String(), nil)
	q.Host = "blog.localhost"
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		fmt.Println(err)
		return
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	stop()
	fmt.Println(string(body), <-done)
	// Output: a post <nil>
}

func ExampleHostTLS() {
	dir, _ := os.MkdirTemp("", "")
	defer os.RemoveAll(dir)
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	r.TLS.Storage = &certmagic.FileStorage{Path: dir}
	hosts := map[string]hostproxy.HostTLS{
		"old.localhost": {Issuer: hostproxy.Issuer{Issuer: &hostproxy.LocalCA{Storage: r.TLS.Storage}, KeyType: certmagic.RSA2048}},
		"*.localhost":   {ClientAuth: &hostproxy.ClientAuth{Mode: tls.RequestClientCert}},
	}
	r.TLS.Host = func(pattern string) (hostproxy.HostTLS, error) { return hosts[pattern], nil }
	for _, pattern := range []string{"app.localhost", "old.localhost", "*.localhost"} {
		r.Handle(pattern, http.NotFoundHandler())
	}
	ln, err := r.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := &http.Server{Handler: &r}
	go srv.Serve(ln)
	defer r.Close()
	defer srv.Close()

	for _, host := range []string{"app.localhost", "old.localhost", "any.localhost"} {
		asked := false
		c, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{
			ServerName: host, InsecureSkipVerify: true,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				asked = true
				return new(tls.Certificate), nil
			},
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(host, c.ConnectionState().PeerCertificates[0].PublicKeyAlgorithm, asked)
		c.Close()
	}
	// Output:
	// app.localhost ECDSA false
	// old.localhost RSA false
	// any.localhost ECDSA true
}

func ExampleHeaderEdit() {
	addr, stop := greeter("hello")
	defer stop()
	u := hostproxy.To(addr)
	u.RequestHeader = hostproxy.HeaderEdit{Remove: []string{"Cookie"}, Set: http.Header{"X-Env": {"production"}}}
	u.ResponseHeader = hostproxy.HeaderEdit{Add: http.Header{"Strict-Transport-Security": {"max-age=31536000"}}}
	defer u.Drain(context.Background())

	w := visit(u, "https://blog.example.com/")
	fmt.Println(w.Body)
	fmt.Println(w.Header().Get("Strict-Transport-Security"))
	// Output:
	// hello, production
	// max-age=31536000
}

func ExampleError() {
	u := hostproxy.To("unix:/nonexistent/app.sock")
	u.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
		var e *hostproxy.Error
		if errors.As(err, &e) {
			fmt.Println(e.Op, e.Side)
		}
		http.Error(w, "back soon", http.StatusBadGateway)
	}
	fmt.Print(visit(u, "https://app.example.com/").Body)
	// Output:
	// dial upstream
	// back soon
}

func ExampleTarget() {
	addr, stop := greeter("from the first")
	defer stop()
	u := hostproxy.To(addr, "127.0.0.1:1")
	u.Pick = func(_ *http.Request, left []*hostproxy.Target) *hostproxy.Target {
		for _, t := range left {
			if t.String() == addr && t.InFlight() < 100 {
				return t
			}
		}
		return nil
	}
	defer u.Drain(context.Background())
	fmt.Println(visit(u, "http://app.example.com/").Body)
	// Output: from the first,
}

func ExampleAccessLog() {
	clock := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "duration" {
			return slog.Attr{} // so that the output can be compared
		}
		return a
	}
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: clock}))
	r := hostproxy.Router{Observe: hostproxy.AccessLog(log)}
	r.Handle("*.example.com", hostproxy.Redirect("example.com"))
	visit(&r, "https://www.example.com/about?from=mail")
	// Output: level=INFO msg=exchange client=192.0.2.1 method=GET scheme=https host=www.example.com path=/about query="from=mail" proto=HTTP/1.1 status=308 request_bytes=0 response_bytes=0 pattern=*.example.com target="" attempts=0 tls="TLS 1.2" server_name=www.example.com
}

func ExampleExchange() {
	slow := 0
	r := hostproxy.Router{Observe: func(x *hostproxy.Exchange) {
		if x.Duration > 1e9 {
			slow++
		}
		fmt.Println(x.Client, x.Method, x.Host, x.Status)
	}}
	visit(&r, "http://nobody.example.com/")
	// Output: 192.0.2.1 GET nobody.example.com 404
}

func ExampleRateLimit() {
	r := hostproxy.Router{RateLimit: &hostproxy.RateLimit{Rate: 0.1, Burst: 2}}
	r.Handle("example.com", hostproxy.Redirect("www.example.com"))
	for range 3 {
		w := visit(&r, "http://example.com/")
		fmt.Println(w.Code, w.Header()["Retry-After"])
	}
	// Output:
	// 308 []
	// 308 []
	// 429 [10]
}

func ExampleGuard() {
	r := hostproxy.Router{RateLimit: &hostproxy.RateLimit{Rate: 10}} // by client
	r.Handle("files.example.com", &hostproxy.Guard{
		Deny:      []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")},
		RateLimit: &hostproxy.RateLimit{Rate: 0.1, Burst: 1, By: hostproxy.LimitKey{Header: "X-Api-Key"}},
		Next:      http.NotFoundHandler(), // or http.FileServer
	})
	for _, key := range []string{"a", "a", "b"} {
		q := httptest.NewRequest("GET", "http://files.example.com/", nil)
		q.Header.Set("X-Api-Key", key)
		w := httptest.NewRecorder()
		r.ServeHTTP(w, q)
		fmt.Println(key, w.Code, w.Header()["Retry-After"])
	}
	// Output:
	// a 404 []
	// a 429 [10]
	// b 404 []
}

func ExampleBasicAuth() {
	addr, stop := greeter("backstage")
	defer stop()
	h := &hostproxy.BasicAuth{
		// The password is "open sesame"; htpasswd -nB makes such lines.
		Users: map[string]string{"ali": "$2a$04$r.H.IwusjCYoQM/2jE2t1ex2PJE9s8XUMzwU8yUGnPrQeuF57GLjS"},
		Next:  hostproxy.To(addr),
	}
	fmt.Println(visit(h, "http://admin.localhost/").Code)

	q := httptest.NewRequest("GET", "http://admin.localhost/", nil)
	q.SetBasicAuth("ali", "open sesame")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, q)
	fmt.Println(w.Code)
	// Output:
	// 401
	// 200
}

func ExampleForwardAuth() {
	app, stopApp := greeter("app")
	defer stopApp()
	login := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("X-Forwarded-Uri") == "/secret" {
			http.Redirect(w, q, "https://login.example.com/", http.StatusFound)
		}
	}))
	defer login.Close()
	h := &hostproxy.ForwardAuth{
		Auth:   hostproxy.To(login.URL),
		Path:   "/verify",
		Fields: []string{"Remote-User"},
		Next:   hostproxy.To(app),
	}
	fmt.Println(visit(h, "http://app.localhost/public").Code)
	w := visit(h, "http://app.localhost/secret")
	fmt.Println(w.Code, w.Header().Get("Location"))
	// Output:
	// 200
	// 302 https://login.example.com/
}

// A deploy: the new target gets requests once it serves. The old one finishes
// those that it has.
func ExampleUpstream_Replace() {
	blue, stopBlue := greeter("blue")
	green, stopGreen := greeter("green")
	defer stopGreen()
	app := hostproxy.To(blue)
	fmt.Printf("%.4s\n", visit(app, "http://app.localhost/").Body)

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := app.Replace(ctx, green); err != nil {
		fmt.Println(err) // blue still serves
	}
	stopBlue()
	fmt.Printf("%.5s\n", visit(app, "http://app.localhost/").Body)
	// Output:
	// blue
	// green
}

func ExampleUpstream_Maintain() {
	addr, stop := greeter("app")
	defer stop()
	app := hostproxy.To(addr)
	if err := app.Maintain(hostproxy.Page{Body: []byte("back at noon"), RetryAfter: time.Hour}); err != nil {
		fmt.Println(err)
	}
	w := visit(app, "http://app.localhost/")
	fmt.Println(w.Code, w.Body, w.Header().Get("Retry-After"))
	if err := app.Resume(); err != nil {
		fmt.Println(err)
	}
	fmt.Println(visit(app, "http://app.localhost/").Code)
	// Output:
	// 503 back at noon 3600
	// 200
}

// A target that fails gets no requests for a while.
func ExampleBreaker() {
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
	defer broken.Close()
	app := hostproxy.To(broken.URL)
	app.Breaker = &hostproxy.Breaker{Failures: 3, Statuses: []int{500}}
	app.FailClosed = true
	app.TargetChanged = func(_ *hostproxy.Target, h hostproxy.Health) { fmt.Println(h.State, h.Reason) }
	for range 4 {
		fmt.Println(visit(app, "http://app.localhost/").Code)
	}
	// Output:
	// 500
	// 500
	// open 3 failures in a row, the last: answered with status 500
	// 500
	// 503
}

// Shows why a request goes where it goes. Use it in a test or at a prompt.
func ExampleRouter_Explain() {
	app := hostproxy.To("10.0.0.1:4000", "10.0.0.2:4000")
	app.Policy = hostproxy.FirstAvailable
	app.Deny = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	var r hostproxy.Router
	r.Handle("app.example.com", app)
	r.Handle("*.example.com", hostproxy.To("10.0.0.3:4000"))

	e := r.Explain(httptest.NewRequest("GET", "https://app.example.com/users", nil))
	fmt.Println(e.Pattern, e.Target)
	fmt.Println(e)
	// Output:
	// app.example.com 10.0.0.1:4000
	// GET app.example.com/users from 192.0.2.1
	// response: from target 10.0.0.1:4000
	// route: app.example.com
	//   app.example.com: serves
	//   *.example.com: app.example.com wins: an exact host beats a wildcard and *
	// handlers: *hostproxy.Upstream
	// rules:
	//   Upstream.Deny passes: the client's address is not on the list
	// targets: the first available one of Targets
	//   10.0.0.1:4000: eligible
	//   10.0.0.2:4000: eligible
	// certificate: none: the Router does not listen with TLS
}

// A field that is set after first use has no effect, and Check reports it.
func ExampleRouter_Check() {
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	r.Handle("example.com", hostproxy.Redirect("www.example.com"))
	fmt.Println(r.Check())
	visit(&r, "http://example.com/")
	r.RateLimit = &hostproxy.RateLimit{Rate: 10}
	fmt.Println(r.Check())
	// Output:
	// <nil>
	// hostproxy: Router.RateLimit was changed after first use and has no effect: change it back, and set it before the first use
}

// Checks new routes without putting them in force.
func ExampleRouter_CheckReplace() {
	app := hostproxy.To("localhost:4000")
	var r hostproxy.Router
	r.Handle("app.example.com", app)
	r.Handle("old.example.com", app)

	changes, err := r.CheckReplace(map[string]http.Handler{"app.example.com": app, "new.example.com": app})
	fmt.Println(changes, err)
	_, err = r.CheckReplace(map[string]http.Handler{"app.example.com:443": app})
	fmt.Println(err)
	// Output:
	// added: new.example.com
	// removed: old.example.com
	// certificates: new.example.com <nil>
	// hostproxy: pattern "app.example.com:443": a pattern has no port: it matches its host on every port
}
