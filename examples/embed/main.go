// Command embed adds a Router to a server that exists already. The program
// keeps its own pages and its own http.Server. One host and one path go to
// services of their own:
//
//	go run ./examples/embed -api localhost:4000 -docs localhost:4002
//	curl http://localhost:8080/ http://localhost:8080/docs/ http://api.localhost:8080/
//
// The Router is in front of the program's ServeMux, not behind it: a ServeMux
// redirects paths such as /a//b, which an upstream may need unchanged.
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
	if flag.NArg() > 0 {
		log.Fatalf("%q: want flags only", flag.Args())
	}

	h, err := handler(pages(), *api, *docs)
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Addr: *addr, Handler: h, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}

// pages returns the handler of the program's own pages.
func pages() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "the program's own page") })
	return mux
}

// handler sends one host, and one path of all hosts, to services. Everything
// else goes to own.
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
