// Command embed puts a Router into a server that was there before it: the
// program keeps its own pages and its own http.Server, and hands one host and
// one path to services of their own.
//
//	go run ./examples/embed -api localhost:4000 -docs localhost:4002
//	curl http://localhost:8080/ http://localhost:8080/docs/ http://api.localhost:8080/
//
// The Router stands in front of the program's ServeMux and not behind it: a
// ServeMux redirects paths such as /a//b, which an upstream may want to see as
// they are.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/hostproxy/hostproxy"
)

func main() {
	addr := flag.String("addr", ":8080", "address to serve on")
	api := flag.String("api", "localhost:4000", "where api.localhost is served")
	docs := flag.String("docs", "localhost:4002", "where /docs/ is served")
	flag.Parse()

	h, err := handler(pages(), *api, *docs)
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Addr: *addr, Handler: h, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}

// pages is what the program serves itself.
func pages() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "the program's own page") })
	return mux
}

// handler sends one host and one path of any host elsewhere, and leaves the
// rest to own.
func handler(own http.Handler, api, docs string) (http.Handler, error) {
	apiUpstream, err := hostproxy.NewUpstream(api)
	if err != nil {
		return nil, err
	}
	docsUpstream, err := hostproxy.NewUpstream(docs)
	if err != nil {
		return nil, err
	}
	var r hostproxy.Router
	r.Handle("api.localhost", apiUpstream)
	r.Handle("*/docs/", docsUpstream)
	r.Handle("*", own)
	return &r, nil
}
