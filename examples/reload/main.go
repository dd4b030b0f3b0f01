// Command reload reads its routes from a JSON file and again at each SIGHUP, without dropping a connection.
//
//	echo '{"blog.localhost": ["localhost:4006"], "app.localhost": ["localhost:4000", "localhost:4001"]}' > routes.json
//	go run ./examples/reload -routes routes.json &
//	curl http://blog.localhost:8080/
//
// A file with a mistake changes nothing: the old routes stay, and the log says what is wrong. A route that is the same
// in both files keeps its Upstream, and with it connections, counters and WebSockets; also when its users change, which
// may be given with {"targets": ["localhost:4000"], "users": {"ann": "bcrypt hash"}}.
package main

import (
	"context"
	"flag"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/hostproxy/hostproxy"
)

func main() {
	addr := flag.String("addr", ":8080", "address to serve on, in plain HTTP")
	file := flag.String("routes", "routes.json", "JSON file: each host pattern with its targets")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)

	routes := routes{file: *file, upstreams: map[string]http.Handler{}}
	if err := routes.load(); err != nil {
		log.Fatal(err)
	}
	go routes.reload(hup)
	ln, err := listen(*addr)
	if err != nil {
		log.Fatal(err)
	}
	if err := (&hostproxy.Server{Router: &routes.router}).Serve(ctx, nil, ln); err != nil {
		log.Fatal(err)
	}
}
