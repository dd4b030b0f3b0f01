// Package http3 serves the routes of a hostproxy.Router over HTTP/3, by
// quic-go. A Server is a companion of a hostproxy.Server:
//
//	s := &hostproxy.Server{Router: &r, Companions: []hostproxy.Companion{&http3.Server{}}}
//
// It uses the certificates, the routes and the limits of the Router. 0-RTT is
// disabled, because its requests can be replayed.
package http3

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	h3 "github.com/quic-go/quic-go/http3"
)

// A Server is a hostproxy.Companion for HTTP/3. The zero value listens on :443.
// Set the fields before the hostproxy.Server serves. A Server serves once at a
// time, but may serve again.
type Server struct {
	// Addr is the UDP address. "" means ":443".
	Addr string

	// AltSvcPort is the port announced to clients (Alt-Svc), if it differs from
	// the port of Addr. Zero means the port of Addr.
	AltSvcPort int

	// AltSvcAge is how long clients remember the announcement. Zero means a
	// day. Negative disables it.
	AltSvcAge time.Duration

	// MaxStreams limits the requests in flight of each connection. Zero means
	// 100; negative is an error.
	MaxStreams int

	// MaxHeaderBytes limits the head of a request. A larger one gets 431. Zero
	// means 16 KiB, as for hostproxy.Server; negative is an error.
	MaxHeaderBytes int

	// MaxConns limits the open connections, and MaxConnsPerClient those of each
	// client (an IPv4 address or an IPv6 /64). They count separately from the
	// fields of hostproxy.Server with these names. Further connections are
	// refused. Zero means no limit; negative is an error.
	MaxConns, MaxConnsPerClient int

	// IdleTimeout limits the wait for the next complete request head on a
	// connection. Zero means 2 minutes; negative disables the limit. A client
	// that has disappeared is noticed after 30 s.
	IdleTimeout time.Duration

	// HandshakeTimeout limits the handshake, including the wait for a
	// certificate. Zero means 10 s; negative is an error.
	HandshakeTimeout time.Duration

	// BindTimeout limits the wait for Addr while another process uses it. Zero
	// means that Listen fails at once. Programs that use
	// hostproxy.Server.HandOver should set it to a little more than
	// DrainTimeout: the old process keeps the UDP socket until its connections
	// have ended. Meanwhile, clients use HTTP/2.
	BindTimeout time.Duration

	stall time.Duration // for tests; 0 means writeStall

	mu  sync.Mutex
	now *session // nil unless Listen has succeeded
}

// Defaults, and fixed limits.
const (
	defaultHeaderBytes = 16 << 10
	uniStreams         = 8                // a client opens three: one for control, two for QPACK
	deadAfter          = 30 * time.Second // time without a packet from the client
	keepAlive          = 15 * time.Second // so that a quiet WebSocket stays open
)

// Listen checks the settings and opens the socket. It implements an optional
// method of hostproxy.Companion.
func (s *Server) Listen(conf *tls.Config) error {
	if err := s.check(conf); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now.serves() {
		return errors.New("http3: Server is in use: a Server serves once at a time, give each hostproxy.Server one of its own")
	}
	n := &session{server: s, tls: h3.ConfigureTLSConfig(conf), conns: newConns(s), cut: make(chan struct{}), ended: make(chan struct{})}
	if err := n.bind(); err != nil && !(busy(err) && s.BindTimeout > 0) {
		return err
	}
	s.now = n
	return nil
}

// AltSvc returns the value of Alt-Svc. It implements an optional method of
// hostproxy.Companion.
func (s *Server) AltSvc() string {
	if s.AltSvcAge < 0 {
		return ""
	}
	port := s.AltSvcPort
	if port == 0 {
		port = s.session().port()
	}
	return fmt.Sprintf(`h3=":%d"; ma=%d`, port, int(cmp.Or(s.AltSvcAge, 24*time.Hour)/time.Second))
}

// Serve serves requests by h until ctx is done. Then clients get GOAWAY: they
// finish their requests here and send further ones elsewhere. A connection
// without requests is closed after two seconds. It implements
// hostproxy.Companion.
func (s *Server) Serve(ctx context.Context, h http.Handler) error {
	n := s.session()
	if n == nil {
		return errors.New("http3: Serve without Listen: put the Server into hostproxy.Server.Companions")
	}
	return n.serve(ctx, h)
}

// Close closes the socket and all connections immediately. It implements an
// optional method of hostproxy.Companion.
func (s *Server) Close() error {
	s.session().close()
	return nil
}

// LocalAddr returns the address of the socket, nil before it is open.
func (s *Server) LocalAddr() net.Addr { return s.session().addr() }

func (s *Server) session() *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// check returns the errors in the settings, joined.
func (s *Server) check(conf *tls.Config) error {
	var errs []error
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf("http3: "+format, args...))
		}
	}
	_, port, err := net.SplitHostPort(s.address())
	bad(err != nil, "Server.Addr is %q: want host:port, such as \":443\"", s.Addr)
	if err == nil {
		_, err = net.LookupPort("udp", port)
		bad(err != nil, "Server.Addr is %q: want a port from 0 to 65535", s.Addr)
	}
	bad(s.AltSvcPort < 0 || s.AltSvcPort > 65535, "Server.AltSvcPort is %d: want a port, or 0 for that of Addr", s.AltSvcPort)
	bad(port == "0" && s.BindTimeout > 0, "Server.BindTimeout is set, but Addr is %q, which is never in use: set a port", s.Addr)
	for _, f := range []struct {
		name string
		n    int64
	}{
		{"MaxStreams", int64(s.MaxStreams)}, {"MaxHeaderBytes", int64(s.MaxHeaderBytes)}, {"MaxConns", int64(s.MaxConns)},
		{"MaxConnsPerClient", int64(s.MaxConnsPerClient)}, {"HandshakeTimeout", int64(s.HandshakeTimeout)}, {"BindTimeout", int64(s.BindTimeout)},
	} {
		bad(f.n < 0, "Server.%s is negative: want 0 for the default, or a limit", f.name)
	}
	bad(conf.MaxVersion != 0 && conf.MaxVersion < tls.VersionTLS13,
		"Router.TLS.Config.MaxVersion is %s: HTTP/3 needs TLS 1.3", tls.VersionName(conf.MaxVersion))
	return errors.Join(errs...)
}

func (s *Server) address() string { return cmp.Or(s.Addr, ":443") }

// idleTimeout returns IdleTimeout with its default; 0 means no limit.
func (s *Server) idleTimeout() time.Duration {
	return max(cmp.Or(s.IdleTimeout, 2*time.Minute), 0)
}

// sweeps returns a channel that yields when it is time to look for idle
// connections. It is nil if there is no limit.
func (s *Server) sweeps() (c <-chan time.Time, stop func()) {
	idle := s.idleTimeout()
	if idle == 0 {
		return nil, func() {}
	}
	t := time.NewTicker(max(idle/8, time.Millisecond))
	return t.C, t.Stop
}

// config returns the QUIC settings.
func (s *Server) config() *quic.Config {
	return &quic.Config{
		Allow0RTT: false,
		// quic-go allows twice this time for the whole handshake
		HandshakeIdleTimeout: cmp.Or(s.HandshakeTimeout, 10*time.Second) / 2,
		MaxIdleTimeout:       deadAfter,
		KeepAlivePeriod:      keepAlive,
		MaxIncomingStreams:   int64(cmp.Or(s.MaxStreams, 100)),

		// Heads count against the connection's window too, so stalled uploads
		// must leave room for them.
		InitialStreamReceiveWindow:     64 << 10,
		MaxStreamReceiveWindow:         1 << 20,
		InitialConnectionReceiveWindow: 2 << 20,
		MaxIncomingUniStreams:          uniStreams,
	}
}
