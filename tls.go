package hostproxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/hostname"
	"github.com/hostproxy/hostproxy/internal/routes"
	"github.com/hostproxy/hostproxy/internal/serve"
	"github.com/hostproxy/hostproxy/internal/service"
	"github.com/hostproxy/hostproxy/internal/status"
	"github.com/hostproxy/hostproxy/internal/yield"
)

// TLS holds the certificate settings of a Router. The zero value obtains
// certificates from Let's Encrypt for public names and from a LocalCA for
// internal names, and stores them in files. Using a CA means agreeing to its
// terms of service.
//
// By default each host of a route gets a certificate in the background. Only
// handshakes of a host without a certificate wait for the CA, up to 64 per
// host. These handshakes do not delay hosts that have a certificate. At most
// ten orders in ten seconds are placed per ACME account, or per issuer if it is
// not an ACME issuer. Due renewals go first, then hosts with waiting
// handshakes, then all others. A host that fails is retried with growing
// pauses, and does not delay other hosts. See [Router.Certificates].
type TLS struct {
	// Email is the contact of the ACME account. "" means none.
	Email string

	// CA is the URL of an ACME directory. "" means Let's Encrypt.
	CA string

	// Issuer replaces Email and CA: both must then be "". Nil means ACME with
	// Email, CA and DNS.
	//
	// A *certmagic.ACMEIssuer can be a struct literal: the Router completes a
	// copy of it, so certmagic.NewACMEIssuer is not needed. Set its fields for
	// external account binding, a profile or the roots of a private CA. The
	// issuer's field TestCA is the CA's staging directory; for Let's Encrypt it
	// is set by default. After a failed validation, the Router retries at
	// TestCA. When a validation succeeds there, the order goes to the CA again.
	// To choose the type of key, wrap the issuer in an [Issuer].
	Issuer certmagic.Issuer

	// Fallbacks are tried in order if Issuer fails. ACME issuers can be struct
	// literals, as for Issuer. Issuers for different CAs must have different
	// IssuerKeys.
	Fallbacks []certmagic.Issuer

	// Host returns the settings for one host pattern of a route, such as
	// example.com, *.example.com or *. Nil means that the other fields apply to
	// all hosts.
	//
	// Host is called when the pattern gets its first route, and again by
	// [Router.ReloadTLS]. Each pattern has its own settings: the settings of
	// *.example.com do not apply to a route for a.example.com. For a host with
	// an on-demand certificate (see HostPolicy), which has no route of its own,
	// the function is called with the name of the host. For these hosts only, a
	// field that is zero in the returned HostTLS is taken from the settings of
	// the wildcard pattern that matches the name. Settings for a Passthrough
	// have no effect, and are logged at level Error.
	//
	// Until the function has returned for a new host, handshakes for the host
	// wait, and requests for it on open connections get 421. If the function
	// returns an error, panics or takes longer than 10 s, the host keeps its
	// settings; a new host gets the state [CertFailed]. The call is retried, at
	// first within seconds, later every few minutes. The function may be called
	// concurrently for different patterns. It must not call a method of the
	// Router that waits, such as [Router.AwaitCertificates].
	Host func(pattern string) (HostTLS, error)

	// DNS proves control of names by DNS records (DNS-01), through a provider
	// of github.com/libdns. All ACME issuers without a DNS01Solver of their own
	// use it. It makes wildcard certificates possible, and the CA need not
	// reach this machine. Nil means HTTP-01 and TLS-ALPN-01.
	DNS certmagic.DNSProvider

	// DisableARI ignores the renewal times that CAs suggest (RFC 9773), and
	// renews after two thirds of a certificate's lifetime. False follows the
	// CA.
	DisableARI bool

	// Internal is the issuer for internal names, such as app.localhost; see
	// [LocalCA] for all of them. Nil means a LocalCA with Storage.
	Internal certmagic.Issuer

	// Storage holds certificates, keys, accounts and locks. Routers with the
	// same Storage share them. Once a day, certificates that expired more than
	// 30 days ago are deleted. Nil means files in $XDG_DATA_HOME/certmagic or
	// ~/.local/share/certmagic. A process without a home uses the subdirectory
	// certmagic of the first directory of $STATE_DIRECTORY, which systemd sets
	// for StateDirectory=.
	Storage certmagic.Storage

	// HostPolicy decides only about on-demand certificates. (In autocert, it
	// decides about every certificate.) If only a wildcard pattern, such as
	// *.example.com or *, matches a public host name, and no wildcard
	// certificate covers the name, the first handshake for the name orders an
	// on-demand certificate, if HostPolicy allows it. A nil HostPolicy allows
	// none; the first handshake that is refused for that reason is logged.
	//
	// HostPolicy is not called for internal names and private addresses, for
	// which the LocalCA makes certificates, for names that no Issuer can sign,
	// nor for IP addresses. A test without a CA therefore requires public names
	// and an Issuer of its own: see Example (OnDemand) of the package.
	//
	// Return nil to allow the certificate. Return [ErrHostNotAllowed] to refuse
	// it; the refusal is remembered for HostPolicyTTL. Return any other error
	// if the policy cannot decide, for instance because its database is down:
	// an existing certificate then stays in use, the handshake of a new host
	// fails, and a warning is logged once a minute. A call that takes longer
	// than 10 s counts as such an error.
	//
	// A renewal calls HostPolicy again. If the host had no handshake since the
	// last order, the renewal waits for a handshake. If no handshake comes
	// before the certificate expires, the host is forgotten. HostPolicy may be
	// called concurrently. If no route has a wildcard pattern, HostPolicy has
	// no effect, and a warning is logged.
	HostPolicy func(ctx context.Context, host string) error

	// HostPolicyTTL is how long a refusal of HostPolicy is remembered. Zero
	// means a minute. Negative remembers no refusal. Other errors are always
	// remembered for 5 s. See [Router.ForgetHostPolicy].
	HostPolicyTTL time.Duration

	// Lazy obtains the certificate of a host at its first handshake. False
	// obtains it when the route is added, or when the Router begins to listen:
	// five thousand new hosts then place five thousand orders. Certificates in
	// Storage are served and renewed in both cases.
	Lazy bool

	// Addresses are the addresses at which CAs reach this machine, for example
	// the addresses of its load balancer. Before an order at a known public CA,
	// the Router looks up the A and AAAA records of the host, unless DNS
	// records prove control (see TLS.DNS). The order waits if none of the
	// records is one of Addresses, or if there are no records. The look-up is
	// repeated after a minute, later after ten minutes.
	//
	// If Addresses is empty, the addresses of the network interfaces take their
	// place. If an interface address is private (the machine may be behind
	// NAT), the order waits only until the host has a record. If all interface
	// addresses are public, and none of them is in the records of the host, the
	// order waits for at most about 35 minutes. A handshake for the host ends
	// that wait, because it shows that clients reach this machine.
	//
	// The order does not wait if the host has a valid certificate, if the
	// look-up gets no answer, or if all records are private addresses.
	Addresses []netip.Addr

	// DisablePreflight disables the look-up before an order (see Addresses),
	// for a machine that does not use the DNS of the Internet.
	DisablePreflight bool

	// Files are your own certificates. The Router serves them for the names in
	// them, and obtains no certificates for these names. The files are read at
	// start, and within half a minute after a change. While a file cannot be
	// read, its old certificate stays.
	Files []CertFile

	// DefaultHost is the host for clients that send no server name (SNI): they
	// get its certificate and must pass its client authentication. "" means the
	// IP address that they connected to, if it has a route. While no route
	// serves DefaultHost, such clients are refused, and a warning is logged.
	DefaultHost string

	// ShareTickets stores the keys of session tickets in Storage, with a new
	// key every day. Clients can then resume a session after a restart, and on
	// any Router with the same Storage. It cannot be combined with
	// Config.SessionTicketsDisabled or Config.GetConfigForClient. False keeps
	// the keys in memory.
	ShareTickets bool

	// Config is the base of the TLS settings. The Router uses a copy. Fields
	// such as EncryptedClientHelloKeys work as in any server. For a host that
	// has a route, Config.GetCertificate is called first. If it returns nil and
	// no error, the Router serves a certificate from Config.Certificates that
	// covers the name, or else the one that the Router obtains. Nil means TLS
	// 1.2 and up, HTTP/2 and HTTP/1.1.
	Config *tls.Config

	// Hello is called with each ClientHello before a certificate is chosen, for
	// instance to take fingerprints or to refuse clients. It does not see the
	// ClientHello of an ACME challenge. An error ends the handshake and is
	// logged at level Debug. A panic counts as an error, and is also logged as
	// a warning. Hello may be called concurrently. Nil disables it.
	Hello func(*tls.ClientHelloInfo) error

	// Observe is called when the certificate of a host becomes ready, is
	// renewed or fails, and when a limit of the CA delays an order. Calls come
	// one at a time, in order. A panic is logged. While a call runs, up to
	// 10,000 reports wait. Beyond that, the oldest reports are dropped, and a
	// warning is logged. Nil disables reports.
	Observe func(CertStatus)
}

// A HostTLS holds the settings of one host pattern, as [TLS.Host] returns them.
// The zero value means the settings of TLS. Settings that exclude each other
// are an error.
type HostTLS struct {
	// Issuer replaces TLS.Issuer, TLS.Fallbacks and TLS.Internal. Nil means
	// that these apply. ACME issuers can be struct literals, as in TLS.Issuer.
	// Several issuers may use the same CA with different settings. They use
	// separate accounts if the e-mail, the account key or the external account
	// differs.
	//
	// A change of the issuer takes effect at the next renewal, or immediately
	// for a host without a valid certificate. ACME issuers are the same if
	// their fields are equal; DNS01Solver and TrustedRoots are compared with
	// ==. Issuers of other types, and ACME issuers with func fields that are
	// set, are the same only if the interface values are equal (==), for
	// instance the same pointer.
	//
	// Names that no public CA signs, such as nas.lan, require a private issuer,
	// and fail immediately without one. A *certmagic.ZeroSSLIssuer is public,
	// and so is a *certmagic.ACMEIssuer for a known public CA; every other
	// issuer is private. A LocalCA signs internal names only. Names that end in
	// .onion require an issuer with a method IssuesOnion() bool that returns
	// true.
	Issuer certmagic.Issuer

	// OwnCertificate obtains a separate certificate for a host even if a
	// wildcard certificate covers the host. It is not needed if the host and
	// the wildcard have different Issuers.
	OwnCertificate bool

	// ClientAuth requests certificates from the host's clients. Nil requests
	// none, unless TLS.Config does. Hosts with different settings never share a
	// connection: a request for one host on a connection to another gets 421.
	// After a change, requests on connections that do not meet the new settings
	// get 421 too. Upgraded connections stay open.
	ClientAuth *ClientAuth

	// Certificate is your own certificate. It must cover the pattern. Nil means
	// that the Router obtains a certificate.
	Certificate *tls.Certificate

	// Files are the files of your own certificate; set either Certificate or
	// Files. The files are read again within half a minute after a change.
	// While they cannot be read, the old certificate stays.
	Files CertFile

	// NoCertificate refuses handshakes for the host (unrecognized_name), even
	// if a wildcard certificate covers the host.
	NoCertificate bool
}

// ErrHostNotAllowed is returned by a [TLS.HostPolicy], possibly wrapped, to
// refuse a certificate.
var ErrHostNotAllowed = certs.ErrNotAllowed

// An Issuer is a certmagic.Issuer and the type of key for its certificates. Use
// it wherever TLS takes an issuer. An ACME issuer in it can be a struct
// literal; see [TLS.Issuer]. For example:
//
//	hostproxy.Issuer{Issuer: &certmagic.ACMEIssuer{CA: url}, KeyType: certmagic.RSA2048}
type Issuer struct {
	certmagic.Issuer

	// KeyType is the type of the certificates' keys. "" means certmagic.P256.
	KeyType certmagic.KeyType
}

// A CertFile names the PEM files of a certificate chain and its private key.
type CertFile struct{ CertFile, KeyFile string }

// A ClientAuth selects the clients that may use a host (mutual TLS). The host
// issues no session tickets, so that clients prove their identity in every
// handshake.
type ClientAuth struct {
	// CAs is the pool of CAs that sign client certificates. The PEM files in
	// CAFiles hold further CAs. The files are read again within half a minute
	// after a change. While they cannot be read, the old CAs stay.
	CAs     *x509.CertPool
	CAFiles []string

	// Mode says what clients must present. Zero means
	// tls.RequireAndVerifyClientCert.
	Mode tls.ClientAuthType
}

// SetClientCert sets the headers Client-Cert and Client-Cert-Chain (RFC 9440)
// in h to the client's verified certificate and its chain. Headers of these
// names that the client sent are removed, even if no certificate was verified.
// Call it in [Upstream.Rewrite]:
//
//	hostproxy.SetClientCert(p.Out.Header, p.In.TLS)
func SetClientCert(h http.Header, state *tls.ConnectionState) { certs.SetClientCert(h, state) }

// The states of a certificate. A host whose certificate is to come from a CA
// begins as CertPending and then changes between CertValid and CertFailed. A
// failed host without a certificate becomes CertPending again after
// [Router.RenewCertificate], and when its DNS records have been corrected.
const (
	// no valid certificate; an attempt is in progress, is due soon or is left
	// to a handshake
	CertPending = "pending"
	CertValid   = "valid" // a certificate is served
	// the last attempt failed, or no attempt can be made, or the order waits
	// for DNS records; an older certificate may still be served
	CertFailed = "failed"
	CertStatic = "static" // supplied by the program
)

// A CertStatus is the state of one host's certificate.
type CertStatus struct {
	Host   string // a host, or a wildcard
	State  string // CertPending, CertValid, CertFailed or CertStatic
	Issuer string // IssuerKey of the issuer that signed the certificate in use; "" if none

	Serial    *big.Int  // of the certificate in use; nil if none
	NotBefore time.Time // of the certificate in use; zero if none
	NotAfter  time.Time
	RenewAt   time.Time // when the renewal is due; zero if it is not renewed

	// Attempts counts the failures at an issuer since the last success.
	// Failures of storage, DNS or HostPolicy do not count.
	Attempts int

	// Err is the error of the last attempt, or the reason why no attempt was
	// made. Nil means that nothing is wrong.
	Err error

	// After a failure, or while a CA's limit applies, NextTry is the time of
	// the next attempt. Zero means that no attempt is planned. If NextTry is
	// zero in the state [CertFailed], no attempt is made until the
	// configuration changes.
	NextTry time.Time

	OnDemand bool // allowed by TLS.HostPolicy

	// Waiting counts the handshakes that wait for the certificate. It is 0 in
	// reports to TLS.Observe.
	Waiting int

	// Refused counts the handshakes that were refused because 64 were waiting
	// for the host, or 1,024 for all hosts. It returns to 0 a minute or two
	// after the last refusal. It is 0 in reports to TLS.Observe.
	Refused int
}

// A LocalCA is a certificate authority for internal names: localhost, test,
// internal, local, home.arpa, names below these, and private IP addresses. Its
// root certificate is limited to these names and to server certificates. A root
// that is already in Storage is used unchanged. A LocalCA implements
// certmagic.Issuer.
//
// Clients do not accept wildcard certificates directly below a top-level name,
// such as *.localhost or *.test. A LocalCA therefore issues no wildcards: an
// internal host that is matched only by a wildcard pattern, or by *, gets a
// certificate of its own during the handshake. Such certificates stay in memory
// only, and [Router.Certificates] does not list them.
//
// Values with the same Storage are the same authority. The zero LocalCA is the
// authority that a Router uses if its TLS field is not set. The methods may be
// called concurrently, and create the authority if it does not exist. The root
// is never installed in a trust store: install it yourself.
//
// If several processes share a Storage and it loses its contents, the running
// processes restore the contents within five minutes. A process that starts in
// between makes a new root, which clients do not trust. That process changes to
// the restored root within ten minutes.
type LocalCA struct {
	// Storage holds the root certificate and its private key. Nil means the
	// default files of [TLS.Storage].
	Storage certmagic.Storage

	once sync.Once
	ca   certs.LocalCA
}

// RootPEM returns the root certificate, for trust stores and test clients.
func (c *LocalCA) RootPEM(ctx context.Context) ([]byte, error) { return c.open().RootPEM(ctx) }

// RootFile returns the path of the root certificate, for curl --cacert. It
// returns an error if Storage does not store files.
func (c *LocalCA) RootFile(ctx context.Context) (string, error) { return c.open().RootFile(ctx) }

// IssuerKey implements certmagic.Issuer.
func (c *LocalCA) IssuerKey() string { return c.ca.IssuerKey() }

// Issue implements certmagic.Issuer. Certificates are valid for 12 hours.
func (c *LocalCA) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	return c.open().Issue(ctx, csr)
}

func (c *LocalCA) open() *certs.LocalCA {
	c.once.Do(func() { c.ca.Storage = c.Storage })
	return &c.ca
}

// A Passthrough is a route that forwards TLS connections to a target without
// decrypting them. The server name in the ClientHello selects the route. The
// target has the certificates, and answers the CA's TLS challenges for them.
// The pattern is a host, a wildcard or "*", without a path; other routes of the
// host cannot be reached over TLS. An HTTP request that reaches a Passthrough
// gets 421.
//
// It works with a [Server], [Router.Listen] and [Router.Wrap]. Its connections
// count in [Server.MaxConns]. They are closed immediately when the route is
// removed, and after [Server.DrainTimeout] when the Server shuts down.
type Passthrough struct {
	// Addr is the target, host:port. It must speak TLS. Required.
	Addr string

	// ProxyProtocol begins each connection to the target with a header of the
	// PROXY protocol, version 2, which carries the client's address.
	ProxyProtocol bool

	// Dial connects to the target, as [Upstream.Dial] does. Nil means a
	// net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

func (p *Passthrough) check() error {
	if p == nil {
		return errNil
	}
	return nil
}

// checkPattern returns why p cannot be the route of a pattern.
func (p *Passthrough) checkPattern(pattern routes.Pattern) error {
	if pattern.Path() != "" {
		return fmt.Errorf("hostproxy: pattern %q: a Passthrough cannot match paths: use the host alone, %q", pattern, pattern.Host())
	}
	host, port, err := net.SplitHostPort(p.Addr)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || bad != nil || n == 0 {
		return fmt.Errorf("hostproxy: pattern %q: Passthrough.Addr is %q: want host:port, without a scheme", pattern, p.Addr)
	}
	return nil
}

// checkPlace returns why h, which has no faults itself, cannot be the handler
// of p.
func checkPlace(spelling string, p routes.Pattern, h http.Handler) error {
	if pass, ok := h.(*Passthrough); ok {
		return pass.checkPattern(p)
	}
	return checkStrip(spelling, p, h)
}

// ServeHTTP answers 421 Misdirected Request.
func (*Passthrough) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	exchange.Reply(w, q, http.StatusMisdirectedRequest, "destination_not_found")
}

func (p *Passthrough) explain(e *status.Explanation, _ *http.Request, _ *exchange.Exchange) {
	e.RefuseBy("Passthrough", http.StatusMisdirectedRequest, "TLS for the host ends at %s; the Router refuses its HTTP requests", p.Addr)
}

// Listen opens a TLS listener with the certificates of r's hosts, for a server
// of your own. network and address are as for net.Listen. Connections of
// Passthrough routes are forwarded to their targets until r is closed.
//
// Your server must limit the time of the handshake. The wait for a certificate
// ends after 10 s, or after 30 s in the handshake that begins an on-demand
// order.
func (r *Router) Listen(network, address string) (net.Listener, error) {
	switch network {
	case "tcp", "tcp4", "tcp6", "unix":
	default:
		return nil, fmt.Errorf("hostproxy: Listen: network %q is not supported: want tcp, tcp4, tcp6 or unix", network)
	}
	if err := checkAddress(address); err != nil && network != "unix" {
		return nil, prefixed(err)
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("hostproxy: %w", err)
	}
	wrapped, err := r.Wrap(ln)
	if err != nil {
		ln.Close()
		return nil, err
	}
	return wrapped, nil
}

// Wrap is [Router.Listen] for a listener that is already open, for instance an
// inherited listener. Closing the result closes ln. On an error, ln stays open.
func (r *Router) Wrap(ln net.Listener) (net.Listener, error) {
	if ln == nil {
		return nil, errors.New("hostproxy: Wrap: nil listener: want one from net.Listen")
	}
	if serve.DoesTLS(ln) {
		return nil, errors.New("hostproxy: Wrap: the listener already uses TLS: want one from net.Listen")
	}
	if err := r.inForce(); err != nil {
		return nil, err
	}
	conf, err := r.certs.Listening(ln.Addr(), r.certOptions)
	if err != nil {
		return nil, fmt.Errorf("hostproxy: TLS: %w", err)
	}
	r.carries.Store(true)
	return tls.NewListener(r.certs.Pass(ln, r.passer), conf), nil
}

// inherit sets s.Sockets for Run, unless it is set or s serves r already. r may
// be nil.
func (r *Router) inherit(s *Server) (err error) {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, runs := r.running[s]; !runs && s.Sockets == nil {
		s.Sockets, err = Inherited()
	}
	return err
}

// open returns the inherited socket of e's name, or opens e's address.
func (s *Server) open(e *serve.Entrance) (net.Listener, error) {
	open := func() (net.Listener, error) { return listen(e.Addr) }
	path, unix := strings.CutPrefix(e.Addr, "unix:")
	if unix {
		open = func() (net.Listener, error) { return serve.ListenUnix(path, e.Mode) }
	}
	if s.Sockets == nil && !unix { // nothing has to be kept about it
		return open()
	}
	ln, err := s.Sockets.all().Listen(e.Socket, open)
	if err != nil {
		return nil, err
	}
	byDefault := e.Name == "Server.Addr" && s.Addr == "" || e.Name == "Server.HTTPAddr" && s.HTTPAddr == ""
	if why := e.Differs(ln); ln.Inherited() && !byDefault && why != "" {
		s.Router.logger().Warn("an inherited socket is not what its listener asks for", "listener", e.Name, "socket", e.Socket, "cause", why,
			"remedy", "change the listener, or restart the program without the socket; the names of sockets follow the order of Server.Listeners")
	}
	return ln, nil
}

// open opens the address as Sockets.Listen does.
func open(network, address string) (net.Listener, error) {
	switch network {
	case "tcp":
		return listen(address)
	case "tcp4", "tcp6", "unix":
		return net.Listen(network, address)
	}
	return nil, fmt.Errorf("Listen: network %q is not supported: want tcp, tcp4, tcp6 or unix", network)
}

// listen opens a TCP listener. Its error says what to do about a port that is
// forbidden or taken.
func listen(addr string) (net.Listener, error) {
	if err := checkAddress(addr); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("listen %q: %w: a port below 1024 requires the capability CAP_NET_BIND_SERVICE: "+
			"run setcap cap_net_bind_service=+ep on the binary, set AmbientCapabilities in the systemd unit, or choose another port", addr, err)
	case errors.Is(err, syscall.EADDRINUSE) && service.Announced():
		return nil, fmt.Errorf("listen %q: %w: the process has inherited sockets that it does not use: set Server.Sockets to the result of Inherited", addr, err)
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen %q: %w: stop the other server or choose another address", addr, err)
	case err != nil:
		return nil, fmt.Errorf("listen %q: %w", addr, err)
	}
	return ln, nil
}

// deaf returns the channel that is closed when s, which serves r, accepts no
// more connections; nil if s does not serve.
func (r *Router) deaf(s *Server) chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running[s].deaf
}

// A ProxyProtocol says which peers of a [Server] begin their connections with a
// header of the PROXY protocol. The header comes before everything else, also
// before TLS.
//
// For a connection with a header, the source in the header is the remote
// address, and the destination is the local address. This applies to all that
// depends on an address: the client address, X-Forwarded-For,
// [Router.TrustedProxies], rate limits, Allow and Deny,
// [Server.MaxConnsPerClient], and the header that a [Passthrough] sends. The
// connection has no remote address if the header is of the unix family. It
// keeps its own addresses if the header has none: with the command LOCAL, as
// for health checks of the load balancer, or the family UNKNOWN or UNSPEC.
//
// A connection without a valid header is closed, counted, and logged at most
// once a minute with the reason. A header is invalid if it is for UDP, if it is
// longer than 107 bytes (version 1) or 4 KiB (version 2), or if it has a wrong
// CRC32C checksum. Other extensions (TLVs) are ignored. A peer that disconnects
// before the end of the header is not counted.
//
// Until the header is read, a connection counts in [Server.MaxConns], and not
// yet in MaxConnsPerClient. It is closed if the Server shuts down meanwhile.
//
// [Router.Listen] and [Router.Wrap] read no headers. For Wrap, use a listener
// whose connections read the header themselves.
type ProxyProtocol struct {
	// From are the addresses of the peers, such as load balancers. Each
	// connection of these peers must begin with a header, and the peers can
	// claim any client address. Peers on a unix socket have no addresses: they
	// count as peers in From if From contains 127.0.0.1 or ::1. Connections of
	// other peers must not have a header. If one has a header, a plain request
	// gets 400, and a TLS handshake fails. Required.
	From []netip.Prefix

	// Timeout limits the wait for the header, from the start of the connection.
	// Zero means 5 s; negative disables the limit.
	Timeout time.Duration
}

// headers returns p for the engine, or nil if p is nil.
func (p *ProxyProtocol) headers() *serve.ProxyHeaders {
	if p == nil {
		return nil
	}
	return &serve.ProxyHeaders{From: p.From, Timeout: timeout(p.Timeout, 5*time.Second)}
}

// check returns the errors in the fields of p, which the field of that name
// holds, joined.
func (p *ProxyProtocol) check(name string) (err error) {
	if p == nil {
		return nil
	}
	if len(p.From) == 0 {
		err = fmt.Errorf("hostproxy: %s.From is empty: want the addresses of your load balancers, such as netip.MustParsePrefix(\"10.0.0.0/8\")", name)
	}
	for i, f := range p.From {
		if !f.IsValid() || f.Addr().Is4In6() {
			err = errors.Join(err, fmt.Errorf("hostproxy: %s.From[%d] is %q: want an IPv4 or IPv6 prefix, such as netip.MustParsePrefix(\"10.0.0.0/8\")", name, i, f))
		}
	}
	return err
}

// clone returns a copy of p, or nil if p is nil.
func (p *ProxyProtocol) clone() *ProxyProtocol {
	if p == nil {
		return nil
	}
	return &ProxyProtocol{slices.Clone(p.From), p.Timeout}
}

// checkAddress returns an error if address is a port alone.
func checkAddress(address string) error {
	if _, err := strconv.ParseUint(address, 10, 16); err == nil {
		return fmt.Errorf("listen %q: an address is host:port, or :port for all addresses: write %q", address, ":"+address)
	}
	return nil
}

// knows reports whether any route serves the canonical host.
func (r *Router) knows(host string) bool { return r.table.Load().Knows(host) }

// passer forwards the connections of Passthrough routes to their targets. The
// server above it handles TLS for the others.
func (r *Router) passer() *certs.Passer { return certs.NewPasser(r.passTarget, r.passes, r.logger()) }

func (r *Router) passTarget(host string) (certs.Target, bool) {
	rt, err := r.table.Load().Lookup(host, "/")
	if err != nil || rt == nil {
		return certs.Target{}, false
	}
	p, ok := rt.Value.handler.(*Passthrough)
	if !ok {
		return certs.Target{}, false
	}
	t := certs.Target{Pattern: rt.Pattern.String(), Addr: p.Addr, ProxyProtocol: p.ProxyProtocol, Life: &rt.Value.life}
	if p.Dial != nil {
		t.Dial = forward.Dialer(p.Dial, 0)
	}
	return t, true
}

// passes reports whether any route is a Passthrough.
func (r *Router) passes() bool { return r.passing.Load() > 0 }

// hosts yields the host patterns of all routes.
func (r *Router) hosts() iter.Seq[string] { return r.table.Load().Hosts() }

// An end is the place where TLS ends for a host pattern.
type end uint8

const (
	nowhere   end = iota // the pattern has no route
	here                 // in this process
	elsewhere            // at the target of a Passthrough
)

// endOf returns where TLS ends for a host pattern of a table.
func endOf(t *routes.Table[route], pattern string) end {
	o, ok := t.Host(pattern)
	switch {
	case !ok:
		return nowhere
	case o != nil && isPassthrough(o.Value.handler):
		return elsewhere
	}
	return here
}

// reportMoved notifies the certificate manager of host patterns whose TLS ends
// elsewhere after a change of tables. differ yields the patterns with changed
// routes, about n at most. r.mu is held.
func (r *Router) reportMoved(from, to *routes.Table[route], differ iter.Seq[string], n int) {
	if r.certs.Manager() == nil {
		return
	}
	if hosts := moved(from, to, differ, n); len(hosts) > 0 {
		r.certs.Changed(hosts...)
	}
}

// moved returns the host patterns of differ, about n at most, whose TLS ends in
// different places in the two tables.
func moved(from, to *routes.Table[route], differ iter.Seq[string], n int) []string {
	hosts := make([]string, 0, n)
	var turn yield.Turn
	for host := range differ {
		turn.Step()
		if endOf(from, host) != endOf(to, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// orders returns the host patterns for which c would load or order a
// certificate.
func (r *Router) orders(c *routes.Change[route]) (hosts []string) {
	m := r.certs.Manager()
	for host := range c.Hosts() {
		switch {
		case endOf(c.From, host) == here || endOf(c.To, host) != here || host == "*":
		case m != nil && !m.Orders(host), m == nil && r.TLS.Lazy && !strings.HasPrefix(host, "*."):
		default:
			hosts = append(hosts, host)
		}
	}
	slices.Sort(hosts)
	return hosts
}

// explainTLS adds to e the result of a handshake for a canonical host, and
// returns the status of the certificate.
func (r *Router) explainTLS(e *status.Explanation, host string) CertStatus {
	if t, ok := r.passTarget(host); ok {
		e.TLS = fmt.Sprintf("none here: TLS for %s ends at %s (Passthrough)", t.Pattern, t.Addr)
		return CertStatus{}
	}
	m := r.certs.Manager()
	if m == nil {
		e.TLS = "none: the Router does not listen with TLS"
		return CertStatus{}
	}
	o := m.Outlook(host)
	e.TLS = o.About
	s := CertStatus(o.Status)
	if s.Host != "" {
		c := r.certificate(s)
		e.Certificate = &c
	}
	return s
}

func isPassthrough(h http.Handler) bool {
	_, ok := h.(*Passthrough)
	return ok
}

// TLSConfig returns TLS settings for a listener of your own, with the
// certificates of r's hosts. The error joins all faults of r.TLS.
//
// A certificate is ordered at the first handshake for its host, or two seconds
// after the call, whichever comes first; with [TLS.Lazy], always at the
// handshake. Your server must limit the time of the handshake, as for
// [Router.Listen].
//
// A Passthrough needs the connection before decryption. A Passthrough route is
// therefore an error, unless r already has a Server, or a listener from Listen
// or Wrap. If a Passthrough route is added after the call, handshakes for it at
// your server fail. The failure is logged once per route.
func (r *Router) TLSConfig() (*tls.Config, error) {
	if !r.carries.Load() {
		if pattern := r.firstPassthrough(); pattern != "" {
			return nil, fmt.Errorf("hostproxy: TLSConfig: %w", certs.PassError{Pattern: pattern})
		}
	}
	if err := r.inForce(); err != nil {
		return nil, err
	}
	conf, err := r.certs.TLSConfig(r.certOptions)
	if err != nil {
		return nil, fmt.Errorf("hostproxy: TLS: %w", err)
	}
	return r.refusePassed(conf), nil
}

// refusePassed returns conf for a listener that carries no connections of a
// Passthrough: their handshakes fail.
func (r *Router) refusePassed(conf *tls.Config) *tls.Config {
	return certs.RefusePassed(conf, r.passTarget, func(err certs.PassError) {
		if !r.carries.Load() {
			r.logger().Error("handshake refused", "cause", err)
		}
	})
}

// firstPassthrough returns the first pattern of a Passthrough, or "".
func (r *Router) firstPassthrough() string {
	for o := range r.table.Load().All() {
		if isPassthrough(o.Value.handler) {
			return o.Pattern.String()
		}
	}
	return ""
}

// HTTPHandler returns a handler for port 80. It answers ACME challenges and
// passes all other requests to fallback. If fallback is nil, hosts with a route
// are redirected to HTTPS with 308, under their canonical name; other hosts get
// 404.
func (r *Router) HTTPHandler(fallback http.Handler) http.Handler {
	r.certs.AnswerHTTP()
	if fallback == nil {
		fallback = r.redirects(r.certs.Authority)
	}
	return r.challenges(fallback)
}

// challenges answers ACME challenges and passes all other requests to fallback.
func (r *Router) challenges(fallback http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		host, err := hostname.Canonical(q.Host)
		if err == nil && r.certs.Answer(w, q, host) {
			return
		}
		fallback.ServeHTTP(w, q)
	})
}

// redirects redirects hosts that have a route to HTTPS. authority returns the
// HTTPS host and port for a plain request that came to port, "" for 80.
func (r *Router) redirects(authority func(q *http.Request, host, port string) string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w = r.edited(w, q)
		host, port, err := hostname.Split(q.Host)
		switch {
		case err != nil:
			exchange.Reply(w, q, http.StatusBadRequest, "http_request_error")
			return
		case q.Method == http.MethodConnect:
			exchange.Reply(w, q, http.StatusNotImplemented, "http_request_denied")
			return
		case q.Method == http.MethodTrace:
			exchange.Reply(w, q, http.StatusMethodNotAllowed, "http_request_denied")
			return
		case !r.knows(host):
			exchange.Reply(w, q, http.StatusNotFound, "destination_not_found")
			return
		}
		uri := q.URL.RequestURI()
		if !strings.HasPrefix(uri, "/") { // OPTIONS *
			uri = "/"
		}
		w.Header().Set("Location", "https://"+authority(q, host, port)+uri)
		w.WriteHeader(http.StatusPermanentRedirect)
	})
}

// Certificates returns the current state of the certificates of r's hosts,
// sorted by host. There is one status for each host that has or needs a
// certificate, except hosts such as a.localhost for the pattern *.localhost:
// their certificates are made during the handshake (see [LocalCA]). There is no
// status while the Router does not listen.
func (r *Router) Certificates() iter.Seq[CertStatus] {
	return func(yield func(CertStatus) bool) {
		m := r.certs.Manager()
		if m == nil {
			return
		}
		for _, s := range m.Statuses() {
			if !yield(CertStatus(s)) {
				return
			}
		}
	}
}

// Certificate returns the status of the certificate that serves a host: its own
// or a wildcard certificate. host may also be a pattern such as *.example.com.
// It reports false if [Router.Certificates] has no such status.
func (r *Router) Certificate(host string) (CertStatus, bool) {
	m := r.certs.Manager()
	name, err := canonicalHost(host)
	if m == nil || err != nil {
		return CertStatus{}, false
	}
	s, ok := m.Status(name)
	return CertStatus(s), ok
}

// certificate returns what the status page shows of c.
func (r *Router) certificate(c CertStatus) status.Certificate {
	s := status.Certificate{Host: c.Host, State: c.State, Issuer: c.Issuer, NotAfter: c.NotAfter, Renewal: c.RenewAt,
		Attempts: c.Attempts, NextTry: c.NextTry, Waiting: c.Waiting, Refused: c.Refused}
	if c.Err != nil {
		s.Error = status.Sentence(c.Err.Error())
	}
	zone, wild := strings.CutPrefix(c.Host, "*.")
	switch {
	case c.State != CertFailed || c.NextTry.IsZero() || hostname.IsInternal(zone):
		// no CA will check the host
	case wild || r.TLS.DNS != nil:
		s.Check = status.RecordsCommand(c.Host)
	default:
		s.Check = status.ReachCommand(c.Host)
	}
	return s
}

// describeCertificates adds the certificates and, if r listens with TLS, the
// hosts of the table without one.
func (r *Router) describeCertificates(p *status.Page, table *routes.Table[route]) {
	told := make(map[string]bool)
	for c := range r.Certificates() {
		s := r.certificate(c)
		if c.NotAfter.IsZero() && c.Err == nil {
			s.Why = r.outlook(c.Host)
		}
		p.Certificates = append(p.Certificates, s)
		told[c.Host] = true
	}
	if r.certs.Manager() == nil {
		return
	}
	for o := range table.All() {
		host := o.Pattern.Host()
		if strings.HasPrefix(host, "*") || told[host] {
			continue
		}
		told[host] = true
		p.Uncertified = append(p.Uncertified, status.Uncertified{Host: host, Why: r.outlook(host)})
	}
}

// outlook returns the result of a handshake for a canonical host, in words.
func (r *Router) outlook(host string) string {
	var e status.Explanation
	r.explainTLS(&e, host)
	return e.TLS
}

// RenewCertificate orders a new certificate for a host now, even if no renewal
// is due: call it, for instance, after correcting DNS records. If only a
// wildcard pattern matches the host, it renews the wildcard certificate. If
// there is no wildcard certificate, it calls [TLS.HostPolicy], even if
// HostPolicy has just refused the host. It resets the host's backoff. The limit
// of ten orders in ten seconds (see [TLS]) and the CA's limits still apply. It
// does not wait; [TLS.Observe] reports the result. It returns an error if
//
//   - the Router does not listen
//   - no route serves the host
//   - only a wildcard pattern matches the host, and there is neither a wildcard
//     certificate nor a HostPolicy
//   - the route is a Passthrough: its target has the certificate
//   - the program supplied the certificate, or set HostTLS.NoCertificate
//   - a [LocalCA] makes the certificate during the handshake
//   - the certificate is impossible until the configuration changes
func (r *Router) RenewCertificate(host string) error {
	m := r.certs.Manager()
	name, err := canonicalHost(host)
	switch {
	case err != nil:
	case m == nil:
		err = errors.New("the Router does not listen: call Serve, Listen, Wrap or TLSConfig first")
	default:
		err = m.Renew(name)
	}
	if err != nil {
		return fmt.Errorf("hostproxy: %w", err)
	}
	return nil
}

// ForgetHostPolicy forgets the last decision of [TLS.HostPolicy] about a host.
// The next handshake for the host calls HostPolicy again.
func (r *Router) ForgetHostPolicy(host string) {
	m := r.certs.Manager()
	if name, err := canonicalHost(host); m != nil && err == nil {
		m.Forget(name)
	}
}

// ReloadTLS calls [TLS.Host] again for the given patterns. Without arguments,
// it does so for all patterns. It does not wait: hosts keep their settings
// until Host has returned without an error. ReloadTLS does nothing if TLS.Host
// is nil, or before the Router listens.
//
// Each pattern is the host pattern of a route, or a host with an on-demand
// certificate. For a host that [TLS.HostPolicy] has refused, ReloadTLS only
// forgets the refusal, as [Router.ForgetHostPolicy] does. Any other pattern is
// logged as a warning.
func (r *Router) ReloadTLS(patterns ...string) {
	m := r.certs.Manager()
	if m == nil {
		return
	}
	for _, err := range m.ReloadTLS(patterns...) {
		r.logger().Warn("TLS settings not reloaded", "cause", err)
	}
}

// canonicalHost returns the canonical form of a host or a wildcard.
func canonicalHost(host string) (string, error) {
	base, wild := strings.CutPrefix(host, "*.")
	name, err := hostname.Canonical(base)
	if wild {
		name = "*." + name
	}
	return name, err
}

// AwaitCertificates waits until the Router listens and each of the given hosts
// has a certificate. If no hosts are given, it waits for all hosts that need a
// certificate, except hosts that [TLS.Lazy] leaves to their first handshake. If
// such hosts are given explicitly, AwaitCertificates waits for them, but does
// not order their certificates: the first handshake or
// [Router.RenewCertificate] does. When ctx is done, the error names the hosts
// without a certificate and the reasons. An invalid host is an error
// immediately.
func (r *Router) AwaitCertificates(ctx context.Context, hosts ...string) error {
	names, err := canonicalHosts(hosts)
	if err != nil {
		return err
	}
	m := r.certs.Manager()
	for ; m == nil; m = r.certs.Manager() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("hostproxy: the Router does not listen: call Serve, Listen, Wrap or TLSConfig first: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := m.Await(ctx, names...); err != nil {
		return fmt.Errorf("hostproxy: %w", err)
	}
	return nil
}

// canonicalHosts returns the canonical forms of hosts and wildcards, or all
// errors joined.
func canonicalHosts(hosts []string) ([]string, error) {
	names := make([]string, len(hosts))
	var errs []error
	for i, h := range hosts {
		var err error
		if names[i], err = canonicalHost(h); err != nil {
			errs = append(errs, fmt.Errorf("hostproxy: %w", err))
		}
	}
	return names, errors.Join(errs...)
}

// Close ends the background work of the Router. Call it in programs that use
// [Router.Listen], [Router.Wrap], [Router.TLSConfig] or r as a handler. A
// Router that only Servers use needs no call: the last [Server] to end does the
// same. Close may be called more than once.
//
// Close stops the renewal of certificates, waits until the renewal has ended,
// and releases its locks in [TLS].Storage. Close waits at most 15 s for calls
// of issuers and storages that ignore their context, and logs these calls as
// errors. It also closes the idle connections to the targets of all routes, and
// ends health checks and discovery until the next request.
//
// If Close is called while Servers run, they serve the certificates in memory
// until these expire, and get no new certificates. The next Listen, Wrap,
// TLSConfig or Serve starts renewal again, but not for these Servers.
func (r *Router) Close() error {
	r.closeIdle()
	return closed(r.certs.Close())
}

// release ends a Server's share in the certificates.
func (r *Router) release(s *certs.Share) error { return closed(s.Release(r.closeIdle)) }

func closed(err error) error {
	if err != nil {
		return fmt.Errorf("hostproxy: certificates: %w", err)
	}
	return nil
}

// certOptions translates r.TLS. certs.New checks it.
func (r *Router) certOptions() certs.Options {
	t := &r.TLS
	give := certs.NewTemplates(t.DNS)
	o := certs.Options{
		Hosts:        r.hosts,
		Wants:        func(pattern string) bool { return endOf(r.table.Load(), pattern) == here },
		Passes:       func(pattern string) bool { return endOf(r.table.Load(), pattern) == elsewhere },
		Knows:        r.knows,
		Storage:      t.Storage,
		DisableARI:   t.DisableARI,
		Public:       t.issuers(give),
		Internal:     plainIssuer(t.Internal),
		Policy:       t.HostPolicy,
		PolicyTTL:    t.HostPolicyTTL,
		Lazy:         t.Lazy,
		Config:       t.Config,
		Hello:        t.Hello,
		DefaultHost:  t.DefaultHost,
		ShareTickets: t.ShareTickets,
		Logger:       r.logger(),

		Addresses:        t.Addresses,
		DisablePreflight: t.DisablePreflight,
	}
	for _, f := range t.Files {
		o.Files = append(o.Files, certs.KeyPair(f))
	}
	o.Fault = t.fault(give.Idle())
	if t.Host != nil {
		o.Choose = choose(t.Host, give)
	}
	if t.Observe != nil {
		o.Observe = func(s certs.Status) { t.Observe(CertStatus(s)) }
	}
	return o
}

// choose translates TLS.Host.
func choose(host func(string) (HostTLS, error), give *certs.Templates) func(string) (certs.Choice, error) {
	return func(pattern string) (certs.Choice, error) {
		h, err := host(pattern)
		if err != nil {
			return certs.Choice{}, err
		}
		c := certs.Choice{Certificate: h.Certificate, Files: certs.KeyPair(h.Files), None: h.NoCertificate, Own: h.OwnCertificate}
		if h.ClientAuth != nil {
			a := certs.ClientAuth(*h.ClientAuth)
			c.ClientAuth = &a
		}
		if h.Issuer != nil {
			c.Issuer = give.Solver(plainIssuer(h.Issuer))
		}
		return c, nil
	}
}

// fault checks the settings that package certs does not see. idle means that no
// issuer uses the DNS provider.
func (t *TLS) fault(idle bool) error {
	var errs []error
	if t.Email != "" && (!strings.Contains(t.Email, "@") || strings.Contains(t.Email, ":")) {
		errs = append(errs, fmt.Errorf("field Email is %q: want an address such as ops@example.com, without a scheme", t.Email))
	}
	if t.Issuer != nil && (t.CA != "" || t.Email != "") {
		errs = append(errs, fmt.Errorf("CA (%q) and Email (%q) must be empty when Issuer is set: set them in the issuer, or set Issuer to nil", t.CA, t.Email))
	}
	if idle && t.Host == nil { // Host may return an issuer that uses it
		errs = append(errs, errors.New("field DNS requires an ACME issuer without a DNS01Solver, and Issuer and Fallbacks have none: "+
			"set DNS to nil, or use such an issuer"))
	}
	return errors.Join(errs...)
}

// issuers returns the issuers for public names, in order.
func (t *TLS) issuers(give *certs.Templates) []certmagic.Issuer {
	first := t.Issuer
	if first == nil {
		first = &certmagic.ACMEIssuer{CA: t.CA, Email: t.Email}
	}
	all := []certmagic.Issuer{give.Solver(plainIssuer(first))}
	for _, issuer := range t.Fallbacks {
		all = append(all, give.Solver(plainIssuer(issuer)))
	}
	return all
}

// plainIssuer translates an issuer for package certs.
func plainIssuer(issuer certmagic.Issuer) certmagic.Issuer {
	switch i := issuer.(type) {
	case *Issuer:
		if i == nil {
			return (*certmagic.ACMEIssuer)(nil) // certs refuses it
		}
		return plainIssuer(*i)
	case Issuer:
		return certs.Issuer{Issuer: plainIssuer(i.Issuer), KeyType: i.KeyType}
	case *LocalCA:
		if i == nil {
			return (*certmagic.ACMEIssuer)(nil)
		}
		return i.open()
	}
	return issuer
}

// passOn leaves to the process that has taken over when targets sleep.
func (r *Router) passOn() {
	for _, u := range r.uses.All() {
		if f := u.compiled.InUse(); f != nil {
			f.PassOn()
		}
	}
}

// closeIdle closes the idle connections to the targets of all routes, and ends
// their background work.
func (r *Router) closeIdle() {
	for _, u := range r.uses.All() {
		u.closeIdle()
	}
}

// An HSTS is a Strict-Transport-Security policy (RFC 6797): clients then use
// only HTTPS. They obey the policy for MaxAge, even if the certificate is no
// longer valid: start with a short MaxAge. [Router.HSTS] applies to all
// responses, and [Upstream.HSTS] only to those of targets.
type HSTS struct {
	MaxAge            time.Duration // 0 makes clients forget the policy
	IncludeSubDomains bool          // applies the policy to subdomains too

	// Preload allows browsers to preload the policy. It requires
	// IncludeSubDomains and a MaxAge of a year or more.
	Preload bool
}

// value returns the value of the header, or "" if p is nil.
func (p *HSTS) value() (string, error) {
	switch {
	case p == nil:
		return "", nil
	case p.MaxAge > 0 && p.MaxAge < time.Second:
		return "", fmt.Errorf("HSTS.MaxAge is %v: want a second or more, such as 300*time.Second", p.MaxAge)
	case p.MaxAge < 0:
		return "", fmt.Errorf("HSTS.MaxAge is %v: want 0 or more", p.MaxAge)
	case p.Preload && (p.MaxAge < 365*24*time.Hour || !p.IncludeSubDomains):
		return "", fmt.Errorf("HSTS.Preload requires HSTS.IncludeSubDomains and an HSTS.MaxAge of a year (8760h) or more: they are %v and %v", p.IncludeSubDomains, p.MaxAge)
	}
	v := fmt.Sprintf("max-age=%d", int64(p.MaxAge/time.Second))
	if p.IncludeSubDomains {
		v += "; includeSubDomains"
	}
	if p.Preload {
		v += "; preload"
	}
	return v, nil
}

// heads compiles the edits of all final responses.
func (r *Router) heads() (*forward.Outers, error) {
	policy, err := r.HSTS.value()
	heads, err2 := forward.NewOuters(r.ResponseHeader.edit(), policy)
	if err := errors.Join(err, err2); err != nil {
		return nil, fmt.Errorf("hostproxy: %w", err)
	}
	return heads, nil
}

// edited returns a writer below w that edits the response to q, or w if there
// is nothing to edit. It is for responses that are no exchange.
func (r *Router) edited(w http.ResponseWriter, q *http.Request) http.ResponseWriter {
	rules, err := r.rules()
	if err != nil || rules.heads == nil {
		return w
	}
	x := exchange.Begin(q, r.trusted())
	rules.heads.Edit(x)
	return exchange.Watch(w, x)
}
