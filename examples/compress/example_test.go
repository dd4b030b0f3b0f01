package compress_test

import (
	"log"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/compress"
)

func Example() {
	var r hostproxy.Router
	blog, err := compress.New(hostproxy.To("localhost:4006"), compress.Options{})
	if err != nil {
		log.Fatal(err)
	}
	r.Handle("blog.example.com", blog)
}

// Compresses the responses of all routes.
func Example_server() {
	var r hostproxy.Router
	r.Handle("blog.example.com", hostproxy.To("localhost:4006"))
	all, err := compress.New(&r, compress.Options{})
	if err != nil {
		log.Fatal(err)
	}
	_ = &hostproxy.Server{Router: &r, Handler: all}
}
