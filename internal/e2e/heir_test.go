package e2e_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"os"

	"github.com/caddyserver/certmagic"

	"github.com/hostproxy/hostproxy"
)

// heirEnv is the environment variable of a process that takes over from a test.
// Its value is the target, or "nothing".
const heirEnv = "HOSTPROXY_TEST_HEIR"

// heir serves a.test on the inherited sockets until standard input ends. With
// the target "nothing" it serves no socket.
func heir(target string) {
	sockets, err := hostproxy.Inherited()
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	if target == "nothing" {
		<-ctx.Done()
		return
	}
	r := hostproxy.Router{TLS: hostproxy.TLS{Storage: &certmagic.FileStorage{Path: os.Getenv("HOSTPROXY_TEST_STORAGE")}}}
	r.Handle("a.test", hostproxy.To(target))
	if os.Getenv("HOSTPROXY_TEST_ADDR") != "" {
		s := &hostproxy.Server{Router: &r, Sockets: sockets, HTTPAddr: os.Getenv("HOSTPROXY_TEST_ADDR"), Addr: os.Getenv("HOSTPROXY_TEST_ADDR"), DrainTimeout: -1,
			Listeners: []hostproxy.Listener{{Addr: os.Getenv("HOSTPROXY_TEST_ADDR"), Role: hostproxy.RolePlain}}}
		if err := s.ListenAndServe(ctx); err != nil {
			log.Fatal(err)
		}
		return
	}
	var https net.Listener
	if dir, ok := os.LookupEnv("HOSTPROXY_TEST_PAIR"); ok {
		pair, err := tls.LoadX509KeyPair(dir+"/cert.pem", dir+"/key.pem")
		if err != nil {
			log.Fatal(err)
		}
		r.TLS.Config = &tls.Config{Certificates: []tls.Certificate{pair}}
		if https, err = sockets.Listener("https"); err != nil {
			log.Fatal(err)
		}
	}
	plain, err := sockets.Listener(cmp.Or(os.Getenv("HOSTPROXY_TEST_SOCKET"), "http"))
	if err != nil {
		log.Fatal(err)
	}
	if err := sockets.Close(); err != nil {
		log.Fatal(err)
	}
	if err := (&hostproxy.Server{Router: &r, DrainTimeout: -1}).Serve(ctx, https, plain); err != nil {
		log.Fatal(err)
	}
}
