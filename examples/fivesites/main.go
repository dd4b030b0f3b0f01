// Command fivesites serves five services behind one address: HTTPS with
// certificates of a local authority, HTTP/2, and redirects from plain HTTP. It
// starts five small services itself and prints how to request them. With
// -upstream it serves your services instead.
//
//	go run ./examples/fivesites
//	go run ./examples/fivesites -upstream blog.localhost=localhost:4006 -upstream api.localhost=localhost:4000
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/hostproxy/hostproxy"
)

func main() {
	https := flag.String("https", ":8443", "`address` for HTTPS")
	plain := flag.String("http", ":8080", "`address` for redirects to HTTPS")
	var upstreams pairs
	flag.Var(&upstreams, "upstream", "`host=target` to serve instead of the five sites; may be given again")
	flag.Parse()
	flagsOnly()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *https, *plain, upstreams); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx is done. It writes to out how to request the sites.
func run(ctx context.Context, out io.Writer, https, plain string, upstreams pairs) error {
	if len(upstreams) == 0 {
		sites, stop, err := startSites("blog.localhost", "chat.localhost", "admin.localhost", "skymaxx.localhost", "localhost")
		if err != nil {
			return err
		}
		defer stop()
		upstreams = sites
	}
	var r hostproxy.Router
	for _, p := range upstreams {
		u, err := hostproxy.NewUpstream(p.target)
		if err == nil {
			err = r.Set(p.host, u)
		}
		if err != nil {
			return err
		}
	}
	secure, err := listen(https)
	if err != nil {
		return err
	}
	open, err := listen(plain)
	if err != nil {
		return errors.Join(err, secure.Close())
	}
	printHelp(ctx, out, upstreams, secure.Addr(), open.Addr())
	return (&hostproxy.Server{Router: &r}).Serve(ctx, secure, open)
}
