package hostproxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

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
	// Output: level=INFO msg=exchange client=192.0.2.1 method=GET scheme=https host=www.example.com path=/about proto=HTTP/1.1 status=308 bytes=0 pattern=*.example.com upstream=""
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
