// Command middleware puts third-party middleware around one route: a rate
// limiter and basic authentication, made for any net/http server. The other
// route stays as fast as without it.
//
//	go run -C examples/middleware . -target localhost:3840
//	curl -u admin:secret http://admin.localhost:8080/
//
// Any func(http.Handler) http.Handler fits around a route, around the Router,
// or around both. Code that must see every exchange, aborted ones included,
// belongs in Router.Observe, like the access log here.
package main

import (
	"context"
	"flag"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5/middleware"
	"github.com/go-chi/httprate"

	"github.com/hostproxy/hostproxy"
)

func main() {
	addr := flag.String("addr", ":8080", "address to serve on, in plain HTTP")
	target := flag.String("target", "localhost:3840", "where both sites are served")
	password := flag.String("password", "secret", "of admin at admin.localhost")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("%q: want flags only", flag.Args())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	r, err := router(slog.New(slog.NewJSONHandler(os.Stdout, nil)), *target, *password)
	if err != nil {
		log.Fatal(err)
	}
	ln, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatalf("%v (a port below 1024 needs: sudo setcap cap_net_bind_service=+ep on this binary)", err)
	}
	if err := (&hostproxy.Server{Router: r}).Serve(ctx, nil, ln); err != nil {
		log.Fatal(err)
	}
}

// router protects admin.localhost with a password and a limit of 20 requests a
// minute per client. It logs every exchange.
func router(l *slog.Logger, target, password string) (*hostproxy.Router, error) {
	site, err := hostproxy.NewUpstream(target)
	if err != nil {
		return nil, err
	}
	limit := httprate.LimitBy(20, time.Minute, peer)
	r := &hostproxy.Router{Observe: hostproxy.AccessLog(l)}
	r.Handle("admin.localhost", limit(middleware.BasicAuth("admin", map[string]string{"admin": password})(site)))
	r.Handle("www.localhost", site)
	return r, nil
}

// peer returns the key for the limit: the address that connects. No other proxy
// is in front of this one, so that is the client.
func peer(q *http.Request) (string, error) {
	host, _, err := net.SplitHostPort(q.RemoteAddr)
	return httprate.CanonicalizeIP(host), err
}
