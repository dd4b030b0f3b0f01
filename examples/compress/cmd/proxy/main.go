// Command proxy compresses the responses of one target.
package main

import (
	"flag"
	"log"
	"net/http"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/compress"
)

func main() {
	to := flag.String("to", "localhost:4006", "the target")
	addr := flag.String("addr", "localhost:8080", "address for HTTP")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("%q: want flags only", flag.Args())
	}
	r, err := router(*to)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe(*addr, r))
}

// router returns a Router that serves all hosts from the target, with
// compression.
func router(to string) (*hostproxy.Router, error) {
	u, err := hostproxy.NewUpstream(to)
	if err != nil {
		return nil, err
	}
	h, err := compress.New(u, compress.Options{})
	if err != nil {
		return nil, err
	}
	r := new(hostproxy.Router)
	return r, r.Set("*", h)
}
