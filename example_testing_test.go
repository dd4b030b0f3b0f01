package hostproxy_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/caddyserver/certmagic"

	"github.com/hostproxy/hostproxy"
)

// newRouter is the program that is tested.
func newRouter(target string) *hostproxy.Router {
	r := &hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	api := hostproxy.To(target)
	api.StripPrefix = "/api"
	r.Handle("app.test", hostproxy.To(target))
	r.Handle("app.test/api/", api)
	return r
}

// trusting returns a client that trusts root and connects to addr, whatever the
// host.
func trusting(root []byte, addr string) *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}}
}

// A proxy is tested in three steps of growing size: its routes by
// Router.Handler, which needs no port; its behavior by an httptest.Server in
// place of a target; TLS by a LocalCA in a directory of the test. In a test,
// use t.TempDir and t.Cleanup.
func Example_testing() {
	fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprintln(w, q.Host, q.URL, q.Header.Get("X-Forwarded-Proto"))
	}))
	defer fake.Close()
	r := newRouter(fake.URL)
	fmt.Println("settings:", r.Check())
	_, pattern := r.Handler(httptest.NewRequest("GET", "https://app.test/api/users", nil))
	fmt.Println("route:", pattern)
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest("GET", "https://app.test/api/users?a=b", nil))
	fmt.Print("behavior: ", w.Body)

	dir, _ := os.MkdirTemp("", "")
	defer os.RemoveAll(dir)
	r = newRouter(fake.URL)
	r.TLS.Storage = &certmagic.FileStorage{Path: dir}
	root, err := (&hostproxy.LocalCA{Storage: r.TLS.Storage}).RootPEM(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- (&hostproxy.Server{Router: r}).Serve(ctx, ln, nil) }()
	client := trusting(root, ln.Addr().String())
	res, err := client.Get("https://app.test/")
	if err == nil {
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		fmt.Print("over TLS: ", string(body))
	}
	client.CloseIdleConnections()
	stop()
	fmt.Println(err, <-done)
	// Output:
	// settings: <nil>
	// route: app.test/api/
	// behavior: app.test /users?a=b https
	// over TLS: app.test / https
	// <nil> <nil>
}
