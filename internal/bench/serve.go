package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"runtime/pprof"
	"sync"
	"syscall"
	"time"
)

const (
	serveCommand = "serve" // first argument that makes this program a server
	backendName  = "backend"
)

// A server has the arguments of the serve command.
type server struct {
	as, listen, backend, cert, key, profile string

	twoTargets bool // the backend under two names
	h2c        bool // HTTP/2 without TLS to the backend
}

// serve runs one in-tree server until SIGTERM.
func serve(args []string) error {
	var s server
	f := flag.NewFlagSet(serveCommand, flag.ContinueOnError)
	f.StringVar(&s.as, "as", "", "which server")
	f.StringVar(&s.listen, "listen", "", "address")
	f.StringVar(&s.backend, "backend", "", "address of the backend")
	f.StringVar(&s.cert, "cert", "", "certificate file; empty serves plain HTTP")
	f.StringVar(&s.key, "key", "", "key file")
	f.BoolVar(&s.twoTargets, "two-targets", false, "use the backend under two names")
	f.BoolVar(&s.h2c, "h2c", false, "use HTTP/2 without TLS to the backend")
	f.StringVar(&s.profile, "cpuprofile", "", "file for a CPU profile")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	end, err := s.startProfile()
	if err != nil {
		return err
	}
	defer end()
	l, err := net.Listen("tcp", s.listen)
	if err != nil {
		return err
	}
	switch s.as {
	case backendName:
		return s.serveHTTP(ctx, l, backendHandler())
	case "httputil":
		return s.serveHTTP(ctx, l, s.reverseProxy(nil))
	case pooledName:
		return s.serveHTTP(ctx, l, s.reverseProxy(newBuffers()))
	case fullLaneName, handlerName, fastLaneName, h3Name:
		return s.serveHostproxy(ctx, l)
	default:
		if featureOf(s.as) != nil {
			return s.serveHostproxy(ctx, l)
		}
		return fmt.Errorf("no such server: %q", s.as)
	}
}

// startProfile starts a CPU profile if one is requested. end ends it.
func (s *server) startProfile() (end func(), err error) {
	if s.profile == "" {
		return func() {}, nil
	}
	f, err := os.Create(s.profile)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		f.Close()
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}, nil
}

// certificates loads the certificate if the server must serve TLS.
func (s *server) certificates() ([]tls.Certificate, error) {
	if s.cert == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(s.cert, s.key)
	return []tls.Certificate{pair}, err
}

// serveHTTP serves h with net/http. If there is a certificate, it uses TLS and
// HTTP/2.
func (s *server) serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	certs, err := s.certificates()
	if err != nil {
		return err
	}
	served := new(http.Protocols)
	served.SetHTTP1(true)
	served.SetHTTP2(certs != nil)
	served.SetUnencryptedHTTP2(certs == nil) // for the backend
	hs := &http.Server{Handler: h, Protocols: served, ReadHeaderTimeout: time.Minute, IdleTimeout: time.Hour, TLSConfig: &tls.Config{Certificates: certs}}
	defer context.AfterFunc(ctx, func() { hs.Close() })()
	if certs == nil {
		err = hs.Serve(l)
	} else {
		err = hs.ServeTLS(l, "", "")
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// reverseProxy returns httputil's proxy with enough idle connections for the
// load. With the default of two per host, it would measure dialing.
func (s *server) reverseProxy(buffers httputil.BufferPool) http.Handler {
	target := &url.URL{Scheme: "http", Host: s.backend}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!s.h2c)
	protocols.SetUnencryptedHTTP2(s.h2c)
	return &httputil.ReverseProxy{
		Rewrite: func(q *httputil.ProxyRequest) {
			q.SetURL(target)
			q.SetXForwarded()
			q.Out.Host = q.In.Host
			if ip, _, err := net.SplitHostPort(q.In.RemoteAddr); err == nil {
				q.Out.Header.Set("X-Real-Ip", ip)
			}
			q.Out.Header.Set("Via", "1.1 httputil")
		},
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 2000,
			IdleConnTimeout:     time.Hour,
			DisableCompression:  true,
			Protocols:           protocols,
		},
		BufferPool: buffers,
	}
}

// buffers is an httputil.BufferPool as its documentation suggests it.
type buffers struct{ pool sync.Pool }

func newBuffers() *buffers {
	return &buffers{sync.Pool{New: func() any { return new([32 << 10]byte) }}}
}

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte { return b.pool.Get().(*[32 << 10]byte)[:] }

// Put implements httputil.BufferPool.
func (b *buffers) Put(p []byte) { b.pool.Put((*[32 << 10]byte)(p)) }
