package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"

	"github.com/hostproxy/hostproxy"
)

// serveHostproxy serves one route for all hosts: by the library's own server,
// with or without middleware, or by its Router in a net/http server.
func (s *server) serveHostproxy(ctx context.Context, l net.Listener) error {
	certs, err := s.certificates()
	if err != nil {
		return err
	}
	var r hostproxy.Router
	defer r.Close()
	u := hostproxy.To(s.backend)
	if s.twoTargets {
		_, port, _ := net.SplitHostPort(s.backend)
		u = hostproxy.To(s.backend, net.JoinHostPort("localhost", port))
	}
	if s.h2c {
		u.Targets[0].Scheme = "h2c"
	}
	if f := featureOf(s.as); f != nil {
		if err := f.use(&r, u, s.backend); err != nil {
			return err
		}
	}
	r.Handle("*", u)
	if s.as == fullLaneName {
		return s.serveHTTP(ctx, l, &r)
	}
	front := &hostproxy.Server{Router: &r}
	if s.as == handlerName {
		// any middleware leads to the handler lane
		front.Handler = http.HandlerFunc(r.ServeHTTP)
	}
	if s.as == h3Name {
		front.Companions = []hostproxy.Companion{companionAt(s.listen)}
	}
	if s.as == withPrefix+proxyProtocol {
		l = behindBalancer(front, l)
	}
	if certs == nil {
		return front.Serve(ctx, nil, l)
	}
	if f := featureOf(s.as); f != nil && serverFeatures()[f.name] != nil {
		serverFeatures()[f.name](front)
	}
	r.TLS.Config = &tls.Config{Certificates: certs}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	return front.Serve(ctx, l, plain)
}
