package caddyfile_test

import (
	"fmt"

	"github.com/hostproxy/hostproxy/examples/caddyfile"
)

// The errors of a refused file say where, why, and what to write instead.
func ExampleParse() {
	_, err := caddyfile.Parse("Caddyfile", []byte(`
example.com {
	reverse_proxy localhost:9000 {
		lb_polcy first
	}
	tls {
		dns cloudflare {$TOKEN:none}
	}
}
`), caddyfile.Options{})
	fmt.Println(err)
	// Output:
	// Caddyfile:4:3: lb_polcy: this is not an option of reverse_proxy
	// Caddyfile:7:3: dns: not supported: DNS providers are Go modules: set Router.TLS.DNS in the program that -go prints, for instance to &cloudflare.Provider{APIToken: os.Getenv("TOKEN")}
}

// Prints the Go program that does the same.
func ExampleConfig_Go() {
	c, err := caddyfile.Parse("Caddyfile", []byte(`
blog.example.com {
	reverse_proxy localhost:4006
}
www.example.com {
	redir https://example.com{uri} permanent
}
`), caddyfile.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s", c.Go())
	// Output:
	// // Command proxy was made from a Caddyfile, and is yours to change.
	// package main
	//
	// import (
	// 	"context"
	// 	"log"
	//
	// 	"github.com/hostproxy/hostproxy"
	// 	"github.com/hostproxy/hostproxy/examples/caddyfile/site"
	// )
	//
	// func main() {
	// 	if err := hostproxy.ListenAndServe(context.Background(), router()); err != nil {
	// 		log.Fatal(err)
	// 	}
	// }
	//
	// // router returns the routes.
	// func router() *hostproxy.Router {
	// 	var r hostproxy.Router
	// 	r.Handle("blog.example.com", site.To("localhost:4006"))
	// 	r.Handle("www.example.com", &site.Redirect{To: "https://example.com{uri}", Status: 301})
	// 	return &r
	// }
}
