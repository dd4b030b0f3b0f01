package caddyfile

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/caddyfile/site"
)

// A plan is the meaning of a file. Its handlers are those that serve. Settings
// that cannot be read back from a handler, such as funcs, are also kept as
// data, for the Go program.
type plan struct {
	servers []*server
	debug   bool
	encoded map[http.Handler]encoded
	hooks   map[*hostproxy.Upstream]*hooks
}

// hooks has the funcs of an Upstream as data.
type hooks struct {
	at       place // of the directive that is named by word
	word     string
	targets  []string
	up       *site.HeaderUp
	down     *site.HeaderDown
	redial   *site.Redial
	discover string        // target whose host is looked up; "" disables it
	refresh  time.Duration // interval of the look-up
	rootCAs  []string      // files with the CAs of https targets
	failed   bool          // failures go to site.UpstreamFailed
	keys     [2]string     // certificate and key for https targets
}

// A server is one port, or one address and port.
type server struct {
	host      string // address to listen on; "" means all
	port      int
	tls       bool
	redirects bool // also redirects on the standard HTTP port, by the Server itself
	routes    []route
	logs      []*site.AccessLog
	challenge []*server // servers whose ACME challenges this one answers

	// Settings of the Router and the Server. Funcs are kept as data.
	trustedProxies []netip.Prefix
	trusted        bool          // trustedProxies is decided, perhaps as none
	tlsConf        hostproxy.TLS // without funcs and Storage
	hosts          map[string]hostproxy.HostTLS
	storage        string    // directory for certificates; "" means the default
	ask            *site.Ask // decides on on-demand certificates; nil means none
	httpAt         int       // port of redirects
	limits         limits
}

// limits are the settings of a Server.
type limits struct {
	DrainTimeout, ReadHeaderTimeout, IdleTimeout time.Duration
	MaxHeaderBytes                               int
}

// addr returns the address to listen on.
func (s *server) addr(port int) string { return net.JoinHostPort(s.host, strconv.Itoa(port)) }

// ports returns the ports to listen on.
func (s *server) ports() []int {
	if s.redirects {
		return []int{s.port, s.httpAt}
	}
	return []int{s.port}
}

// listeners returns the listeners of the Server.
func (s *server) listeners() []hostproxy.Listener {
	if !s.tls {
		return []hostproxy.Listener{{Addr: s.addr(s.port), Role: hostproxy.RolePlain}}
	}
	ls := []hostproxy.Listener{{Addr: s.addr(s.port)}}
	if s.redirects {
		ls = append(ls, hostproxy.Listener{Addr: s.addr(s.httpAt), Role: hostproxy.RoleRedirects})
	}
	return ls
}

// A route is one pattern of a server.
type route struct {
	at      place
	pattern string
	handler http.Handler
}
