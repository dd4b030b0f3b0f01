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
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/hostname"
	"github.com/hostproxy/hostproxy/internal/routes"
	"github.com/hostproxy/hostproxy/internal/status"
	"github.com/hostproxy/hostproxy/internal/yield"
)

// TLS says where a Router's certificates come from and whom its listeners let
// in. The zero value obtains them from Let's Encrypt for public names and from
// a LocalCA for internal ones, and keeps them in files. To use a CA is to agree
// to its terms of service. Fields may be set until the Router is first used.
//
// Each host of a route gets a certificate, in the background: nothing waits for
// a CA but handshakes of a host that has none yet, up to 64 at a time, and those
// hold up no other host's. Each account, or issuer of another type than ACME,
// gets ten orders in ten seconds at most: renewals that are due first, then hosts
// that a handshake waits for. A host that fails is tried again, ever more rarely,
// and does not keep others from their turn; see [Router.Certificates].
type TLS struct {
	// Email is the contact of the ACME account. "" means none.
	Email string

	// CA is the URL of an ACME directory. "" means Let's Encrypt.
	CA string

	// Issuer replaces Email and CA, which must then be "". A *certmagic.ACMEIssuer is a template, a
	// literal will do: set its fields for external account binding, a profile,
	// roots of a private CA. Its TestCA is the CA's staging directory, asked after
	// a failed validation until it succeeds; Let's Encrypt's is known. An Issuer
	// adds a type of key. Nil means ACME with Email, CA and DNS.
	Issuer certmagic.Issuer

	// Fallbacks are asked in order for what Issuer refuses. Templates as there.
	// Two different CAs must not have the same IssuerKey.
	Fallbacks []certmagic.Issuer

	// Host says how TLS is done for one host pattern of a route, such as
	// example.com, *.example.com or *. It is consulted once when the pattern gets
	// its first route, and again by [Router.ReloadTLS]. Each pattern is consulted
	// about by itself: what Host says of *.example.com does not count for a route
	// of a.example.com. It does count for a host that comes on demand, which has
	// no route of its own: Host is consulted with the host, and what it leaves
	// zero is as for the pattern. It is consulted about the pattern of a
	// Passthrough too: settings for it, which cannot be in force, are logged at
	// level Error.
	//
	// Until it has answered, handshakes for the host wait, and requests on other
	// connections get 421. When it returns an error, panics or takes longer than
	// 10 s, a host that it has answered for keeps its settings. A new host has
	// the state CertFailed. Both are asked about again, after seconds, later
	// after minutes. It may be called concurrently, once at a time for one pattern,
	// and must not wait for the Router. Nil means that the other fields say all.
	Host func(pattern string) (HostTLS, error)

	// DNS is a provider of github.com/libdns that proves control of names by
	// DNS records. Then all names of ACME issuers without a DNS01Solver of
	// their own are proved so, wildcards become possible, and the CA need not
	// reach the listeners. Nil means HTTP-01 and TLS-ALPN-01.
	DNS certmagic.DNSProvider

	// DisableARI ignores when CAs want certificates renewed (RFC 9773): they are
	// renewed when two thirds of their life are over. False follows the CA.
	DisableARI bool

	// Internal issues for names no public CA signs: localhost, test, internal,
	// local and home.arpa with what is below them, and private IP addresses.
	// Nil means a LocalCA on Storage.
	Internal certmagic.Issuer

	// Storage keeps certificates, keys, accounts and locks. Routers that share
	// one share them. Certificates that expired 30 days ago and were not
	// renewed are deleted from it once a day. Nil means files in
	// $XDG_DATA_HOME/certmagic or ~/.local/share/certmagic; for a process without
	// a home, in certmagic below the first directory of $STATE_DIRECTORY, which
	// systemd sets for StateDirectory=.
	Storage certmagic.Storage

	// HostPolicy decides about certificates on demand: a handshake asks for a
	// public host that only a wildcard pattern matches and that has no
	// certificate. Return nil to allow issuance, and ErrHostNotAllowed to refuse
	// it, which is remembered for HostPolicyTTL. Any other error means that the
	// policy does not know, for instance because its database is down: an
	// existing certificate is kept, the handshake of a new host fails, and a
	// warning is logged, once a minute. The policy is consulted again before a
	// renewal, which waits until a client asks for the host: without one the
	// certificate is kept until it expires. The policy may be called
	// concurrently; a call that takes longer than 10 s counts as an error.
	// Without any wildcard pattern it decides about nothing, which is logged as a
	// warning. Nil allows none.
	HostPolicy func(ctx context.Context, host string) error

	// HostPolicyTTL is how long a refusal of HostPolicy is remembered. Zero means
	// a minute. Negative remembers no refusal. Other errors are remembered for 5 s
	// in any case. See [Router.ForgetHostPolicy].
	HostPolicyTTL time.Duration

	// Lazy obtains the certificate of a route's host at the first handshake that
	// asks for it, rather than when the route is added: five thousand new hosts
	// place no five thousand orders. Certificates in Storage are served and
	// renewed all the same.
	Lazy bool

	// Addresses are the addresses under which CAs reach this machine, for
	// example those of its load balancer. Before an order at a known public CA,
	// unless DNS proves control, the host is looked up. If it has no A or AAAA
	// record, or none with one of Addresses, nothing is ordered, and it is
	// looked up again after a minute, later after ten.
	//
	// Empty means the addresses of the interfaces if all of them are public;
	// the order is then placed regardless at the next look-up after a handshake
	// for the host, or after half an hour. If any interface has a private
	// address, only missing records count. Records with private addresses, DNS
	// that fails, and hosts with a valid certificate never delay an order.
	Addresses []netip.Addr

	// DisablePreflight turns off this look-up, for a machine whose DNS is not
	// that of the Internet.
	DisablePreflight bool

	// Files are certificates in files, served before any other for the names
	// they hold. They are read at start, and again within half a minute when
	// they change; while they cannot be read, the old ones stay.
	Files []CertFile

	// DefaultHost is the host whose certificate clients get that do not say
	// which host they want (no SNI), and whose client authentication they meet.
	// "" means the IP address they connected to, if it has a route. While no route
	// serves DefaultHost, such clients are refused, and a warning is logged.
	DefaultHost string

	// ShareTickets keeps the keys of session tickets in Storage, with a new one
	// every day: a client resumes its session after a restart, and on any
	// Router with the same storage. It excludes Config.SessionTicketsDisabled and
	// Config.GetConfigForClient. False keeps them in memory.
	ShareTickets bool

	// Config is the base settings, cloned. EncryptedClientHelloKeys and the like
	// work as in any server. Its Certificates are served first,
	// for the names they hold; its GetCertificate is asked next. Nil means
	// TLS 1.2 and up, HTTP/2 and HTTP/1.1.
	Config *tls.Config

	// Hello is shown each ClientHello before a certificate is chosen, for
	// fingerprints and refusals: an error or a panic ends the handshake, and is
	// logged at level Debug. It may be called concurrently. Nil looks at none.
	Hello func(*tls.ClientHelloInfo) error

	// Observe is called when a host's certificate becomes ready, is renewed, or
	// fails, and when a limit of the CA holds its order back: one call at a time,
	// in order. A panic in it is logged. While a call lasts, up to 10,000 reports
	// wait; then the oldest are dropped, and a warning is logged. Nil disables the
	// reports.
	Observe func(CertStatus)
}

// A HostTLS says how TLS is done for the host of one pattern. The zero value is
// what TLS says for all. A setting that excludes another is an error.
type HostTLS struct {
	// Issuer replaces TLS.Issuer, Fallbacks and Internal. Templates as there;
	// several of one CA may differ in anything, and have accounts of their own
	// where the e-mail, the account key or the external account differs. ACME
	// templates that are equal in all settings are one issuer; other issuers, and
	// solvers and functions in templates, are compared by identity, so return the
	// same ones each time. A change counts at the next renewal, or immediately for
	// a host without a valid certificate.
	//
	// Names that no public CA signs, such as nas.lan, fail immediately unless
	// their issuer is a private one: a *certmagic.ACMEIssuer with a directory
	// that belongs to no known public CA, or any other type. Names below onion
	// need an issuer with a method IssuesOnion() bool that returns true.
	Issuer certmagic.Issuer

	// OwnCertificate obtains a certificate of its own for a host below a wildcard
	// whose certificate would do. A host with another Issuer than the wildcard has
	// one in any case.
	OwnCertificate bool

	// ClientAuth asks the host's clients for certificates. A connection for hosts
	// with one setting never serves those with another: 421. After a change,
	// requests on a connection that has not proved what is asked for now get 421
	// too; upgraded connections stay. Nil asks for none, unless TLS.Config does.
	ClientAuth *ClientAuth

	// Certificate is served instead of a managed one. It must cover the pattern.
	Certificate *tls.Certificate

	// Files hold such a certificate. They are read again within half a minute
	// when they change; while they cannot be read, the old one stays.
	Files CertFile

	// NoCertificate refuses handshakes for the host (unrecognized_name), even
	// where a wildcard's certificate would do.
	NoCertificate bool
}

// ErrHostNotAllowed is the error by which a TLS.HostPolicy refuses a certificate
// to a host, itself or wrapped.
var ErrHostNotAllowed = certs.ErrNotAllowed

// An Issuer is a certmagic.Issuer, or a template of one, with what certmagic has no
// place for in an issuer. It can be wherever TLS takes an issuer:
//
//	hostproxy.Issuer{Issuer: &certmagic.ACMEIssuer{CA: url}, KeyType: certmagic.RSA2048}
type Issuer struct {
	certmagic.Issuer

	// KeyType is that of the certificates' keys. "" means certmagic.P256.
	KeyType certmagic.KeyType
}

// A CertFile names the PEM files of a certificate chain and its private key.
type CertFile struct{ CertFile, KeyFile string }

// A ClientAuth says which clients may talk to a host (mutual TLS). They prove
// it in every handshake: such hosts have no session tickets.
type ClientAuth struct {
	// CAs sign the clients' certificates, with those in CAFiles, PEM files. These
	// are read again within half a minute when they change; while they cannot be
	// read, the old CAs stay.
	CAs     *x509.CertPool
	CAFiles []string

	// Mode is how much is asked. Zero means tls.RequireAndVerifyClientCert.
	Mode tls.ClientAuthType
}

// SetClientCert sets Client-Cert and Client-Cert-Chain (RFC 9440) in h from the
// certificate that the client proved on a connection, and removes what the
// client wrote there itself. In an Upstream's Rewrite:
//
//	hostproxy.SetClientCert(p.Out.Header, p.In.TLS)
func SetClientCert(h http.Header, state *tls.ConnectionState) { certs.SetClientCert(h, state) }

// The states of a certificate. A host begins as CertPending and becomes CertValid
// or CertFailed, and changes between those. One that failed is CertPending again
// after RenewCertificate, and when its DNS records have appeared.
const (
	CertPending = "pending" // none yet; the first attempt is under way or to come
	CertValid   = "valid"   // one is served
	CertFailed  = "failed"  // the last attempt failed; an older one may still be served
	CertStatic  = "static"  // the program brought it
)

// A CertStatus is how one host's certificate is doing.
type CertStatus struct {
	Host   string // a host, or a wildcard
	State  string // CertPending, CertValid, CertFailed or CertStatic
	Issuer string // key of who issued the certificate in use; "" if none

	Serial    *big.Int  // of the certificate in use; nil if none
	NotBefore time.Time // of the certificate in use; zero if none
	NotAfter  time.Time
	RenewAt   time.Time // when its renewal is due; zero if it is not renewed

	Attempts int       // failed since the last success, at an issuer; failures of storage, DNS or HostPolicy do not count
	Err      error     // of the last attempt, or why there was none; nil if nothing is wrong
	NextTry  time.Time // after a failure, or while a CA's limit is in force; zero if retrying cannot succeed without a change of the program
	OnDemand bool      // HostPolicy allowed it

	Waiting int // handshakes that wait for the certificate; 0 in Observe
	Refused int // handshakes refused because 64 were waiting, or 1,024 of all hosts; 0 a minute or two after the last one, and in Observe
}

// A LocalCA is a certificate authority for internal names: localhost, test,
// internal, local and home.arpa with what is below them, and private IP
// addresses. Its root certificate is good for no other names, and a new one for
// servers only, whoever trusts it. It implements certmagic.Issuer.
//
// A LocalCA is its storage: two values over the same storage are the same
// authority. The zero value is the one that a Router with a zero TLS uses. Its
// methods may be called concurrently, and create the authority if there is
// none. Nothing ever puts the root into a trust store; that is the user's to do.
//
// If the storage of a cluster loses its contents, the members write them back
// within five minutes. A member that starts in between makes a new root, which
// clients do not trust: it uses that for ten minutes at most, and then the older
// root again.
type LocalCA struct {
	// Storage keeps the root and its key. Nil means the files that are the
	// default of TLS.Storage.
	Storage certmagic.Storage

	once sync.Once
	ca   certs.LocalCA
}

// RootPEM returns the root certificate, for trust stores and test clients.
func (c *LocalCA) RootPEM(ctx context.Context) ([]byte, error) { return c.open().RootPEM(ctx) }

// RootFile returns the path of the root certificate, for curl --cacert. It
// fails if Storage does not keep files.
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

// A Passthrough is a handler for hosts whose TLS ends elsewhere: their
// connections are carried to Addr as they are, chosen by the server name in the
// ClientHello, challenges for certificates included. The target has the
// certificates. Give it the pattern of a host, a wildcard or "*", without a
// path; other routes of that host are out of reach over TLS. A request that
// reaches it is answered with 421. It works behind a Server, Router.Listen and
// Router.Wrap. The connections of a Server count in its MaxConns until they end;
// when it shuts down, they have until DrainTimeout to end by themselves.
type Passthrough struct {
	// Addr is the target, host:port. It speaks TLS.
	Addr string

	// ProxyProtocol says to begin each connection with a header of the PROXY
	// protocol, version 2, which tells the target who the client is.
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

// checkPattern reports why p cannot be the route of a pattern.
func (p *Passthrough) checkPattern(pattern routes.Pattern) error {
	if pattern.Path() != "" {
		return fmt.Errorf("hostproxy: pattern %q: a Passthrough does not see paths: give it the host alone, %q", pattern, pattern.Host())
	}
	host, port, err := net.SplitHostPort(p.Addr)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || bad != nil || n == 0 {
		return fmt.Errorf("hostproxy: pattern %q: Passthrough.Addr is %q: want host:port, without a scheme", pattern, p.Addr)
	}
	return nil
}

// ServeHTTP implements http.Handler.
func (*Passthrough) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	forward.Reply(w, q, http.StatusMisdirectedRequest, "destination_not_found")
}

func (p *Passthrough) explain(e *status.Explanation, _ *http.Request, _ *forward.Exchange) {
	e.RefuseBy("Passthrough", http.StatusMisdirectedRequest, "TLS for the host ends at %s: a request that reaches the Router is refused", p.Addr)
}

// Listen opens a listener whose connections are TLS with the certificates of
// r's hosts, for a server of your own; connections of Passthrough routes are
// carried to their targets until r is closed. The server limits the time of the
// handshake; the wait for a certificate ends after 10 s in any case, after 30 s
// in the handshake that begins an on-demand order. network and address are those
// of net.Listen.
func (r *Router) Listen(network, address string) (net.Listener, error) {
	switch network {
	case "tcp", "tcp4", "tcp6", "unix":
	default:
		return nil, fmt.Errorf("hostproxy: Listen: network %q carries no TLS connections: want tcp, tcp4, tcp6 or unix", network)
	}
	if err := checkAddress(address); err != nil && network != "unix" {
		return nil, err
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

// Wrap is Listen on a listener that is open already, for instance an inherited
// one. Closing the result closes ln; an error leaves it open.
func (r *Router) Wrap(ln net.Listener) (net.Listener, error) {
	if ln == nil {
		return nil, errors.New("hostproxy: Wrap: the listener is nil")
	}
	if doesTLS(ln) {
		return nil, errors.New("hostproxy: Wrap: the listener does TLS already: want one of net.Listen")
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

// listen opens a TCP listener, and says what to do when that is not allowed.
func listen(addr string) (net.Listener, error) {
	if err := checkAddress(addr); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("hostproxy: listen %s: %w: a port below 1024 needs the capability CAP_NET_BIND_SERVICE "+
			"(setcap cap_net_bind_service=+ep on the binary, or AmbientCapabilities in the systemd unit), or choose another address", addr, err)
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("hostproxy: listen %s: %w: stop the other server or choose another address", addr, err)
	case err != nil:
		return nil, fmt.Errorf("hostproxy: listen %s: %w", addr, err)
	}
	return ln, nil
}

// checkAddress returns an error for a port that stands alone.
func checkAddress(address string) error {
	if _, err := strconv.ParseUint(address, 10, 16); err == nil {
		return fmt.Errorf("hostproxy: listen %q: an address is host:port, or :port for all addresses: write %q", address, ":"+address)
	}
	return nil
}

// doesTLS reports whether a listener's connections are TLS already: one by Listen,
// Wrap or tls.Listen.
func doesTLS(ln net.Listener) bool {
	return reflect.TypeOf(ln) == reflect.TypeOf(tls.NewListener(nil, nil))
}

// passer carries the connections of Passthrough routes to their targets. The
// server above it does the TLS of the others.
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

// An end says where the TLS of a host pattern's route ends.
type end uint8

const (
	nowhere   end = iota // it has no route
	here                 // in this process
	elsewhere            // at the target of a Passthrough
)

// endOf returns where the TLS of a host pattern ends by a table.
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

// tell tells the certificates which of some host patterns, whose routes differ
// between two tables, have their TLS end elsewhere than before. r.mu is held.
func (r *Router) tell(from, to *routes.Table[route], differ iter.Seq[string], n int) {
	if r.certs.Manager() == nil {
		return
	}
	if hosts := moved(from, to, differ, n); len(hosts) > 0 {
		r.certs.Changed(hosts...)
	}
}

// moved returns those of some host patterns, about n at most, whose TLS ends
// elsewhere in one of two tables than in the other.
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

// orders returns the host patterns for which a certificate would be loaded or
// ordered because of c.
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

// explainTLS adds to e what a handshake for a canonical host would get, and
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

// TLSConfig returns the settings for a listener of your own, with the
// certificates of r's hosts. The error says all that is wrong with r.TLS.
//
// A Passthrough needs the connection as it is before TLS. Unless r already has a
// Server or a listener by Listen or Wrap, a Passthrough route is an error.
// Handshakes for one that is set later fail, which is logged once a route.
//
// Certificates are ordered at the first handshake, or two seconds after the call
// if none comes. The server limits the time of the handshake, as for Listen.
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
	return certs.RefusePassed(conf, r.passTarget, func(err certs.PassError) {
		if !r.carries.Load() {
			r.logger().Error("handshake refused", "cause", err)
		}
	}), nil
}

// firstPassthrough returns the first pattern of a Passthrough, "" if there is
// none.
func (r *Router) firstPassthrough() string {
	for o := range r.table.Load().All() {
		if isPassthrough(o.Value.handler) {
			return o.Pattern.String()
		}
	}
	return ""
}

// HTTPHandler returns a handler for port 80: it answers ACME challenges and
// leaves the rest to fallback. A nil fallback redirects hosts of a route to
// HTTPS with 308, under their canonical name, and answers 404 to others.
func (r *Router) HTTPHandler(fallback http.Handler) http.Handler {
	r.certs.AnswerHTTP()
	if fallback == nil {
		fallback = r.redirects(r.certs.Authority)
	}
	return r.challenges(fallback)
}

// challenges answers ACME challenges and leaves the rest to fallback.
func (r *Router) challenges(fallback http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		host, err := hostname.Canonical(q.Host)
		if err == nil && r.certs.Answer(w, q, host) {
			return
		}
		fallback.ServeHTTP(w, q)
	})
}

// redirects redirects hosts of a route to HTTPS. authority says where a host
// is reached by a client of a plain request that came to port, "" for 80.
func (r *Router) redirects(authority func(q *http.Request, host, port string) string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		host, port, err := hostname.Split(q.Host)
		switch {
		case err != nil:
			forward.Reply(w, q, http.StatusBadRequest, "http_request_error")
			return
		case q.Method == http.MethodConnect:
			forward.Reply(w, q, http.StatusNotImplemented, "http_request_denied")
			return
		case !r.knows(host):
			forward.Reply(w, q, http.StatusNotFound, "destination_not_found")
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

// Certificates returns how the certificates of r's hosts are doing now, sorted
// by host: one for each host that has or wants one. There are none while the
// Router does not listen, and none for hosts for which the local CA makes a
// certificate in the handshake.
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

// Certificate returns the status of the certificate that serves a host, which
// may be a wildcard's, and whether there is one or one is on its way, as in
// [Router.Certificates]. A pattern such as *.example.com is a host here too.
func (r *Router) Certificate(host string) (CertStatus, bool) {
	m := r.certs.Manager()
	name, err := canonicalHost(host)
	if m == nil || err != nil {
		return CertStatus{}, false
	}
	s, ok := m.Status(name)
	return CertStatus(s), ok
}

// RenewCertificate orders a new certificate for a host as soon as the pace of its
// issuer allows, due or not, and forgets its backoff and what HostPolicy said of
// it: the function to call when DNS has been corrected. It does not wait:
// [TLS.Observe] tells when it is done. The limits of a CA still count. The error
// says why nothing can be done: the Router does not listen, no route of its own
// serves the host, a Passthrough leaves the certificate to its target, the
// certificate is the program's own, or the local CA makes one in each handshake
// that needs it.
func (r *Router) RenewCertificate(host string) error {
	m := r.certs.Manager()
	name, err := canonicalHost(host)
	switch {
	case err != nil:
	case m == nil:
		err = errors.New("the Router does not listen: no certificates")
	default:
		err = m.Renew(name)
	}
	if err != nil {
		return fmt.Errorf("hostproxy: %w", err)
	}
	return nil
}

// ForgetHostPolicy makes the next handshake for a host consult TLS.HostPolicy
// anew, whatever it has said before.
func (r *Router) ForgetHostPolicy(host string) {
	m := r.certs.Manager()
	if name, err := canonicalHost(host); m != nil && err == nil {
		m.Forget(name)
	}
}

// ReloadTLS consults TLS.Host again for some patterns, or for all if there are
// none. It does not wait: until the answer comes, and when there is none, the
// hosts keep their settings. A host on demand that is named and was refused is
// decided about again at its next handshake. A pattern that no route serves is
// logged as a warning. Without TLS.Host, or before the Router listens, it does
// nothing.
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

// AwaitCertificates waits until the Router listens and each of the hosts has a
// certificate; with no hosts, each host of a route that wants one, except those
// that [TLS.Lazy] keeps until a handshake asks for them. A Lazy host that is named
// is waited for too, but not ordered: a handshake or [Router.RenewCertificate] does
// that. When ctx is done, the error says which have none and why. A name that is no
// host is an error immediately.
func (r *Router) AwaitCertificates(ctx context.Context, hosts ...string) error {
	names, err := canonicalHosts(hosts)
	if err != nil {
		return err
	}
	m := r.certs.Manager()
	for ; m == nil; m = r.certs.Manager() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("hostproxy: the Router does not listen: no certificates: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := m.Await(ctx, names...); err != nil {
		return fmt.Errorf("hostproxy: %w", err)
	}
	return nil
}

// canonicalHosts returns the canonical forms of hosts and wildcards, or all that is
// wrong with them.
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

// Close stops the upkeep of certificates, waits for it to end, and frees its
// locks. Calls of issuers and storages that ignore their context are left behind
// after 15 seconds at most, and logged as errors. It closes the kept connections to the targets of all routes and ends
// their background work, which the next request begins anew. It may be called
// more than once.
//
// Servers on r do that by themselves when the last of them ends, so Close is
// for programs that use Listen, TLSConfig or r as a handler. It may be called
// while Servers run: they serve the certificates that are in memory until those
// expire, and get no new ones. The next Listen, TLSConfig or Serve begins the
// upkeep anew, for itself.
func (r *Router) Close() error {
	r.closeIdle()
	return closed(r.certs.Close())
}

// release ends the share of a Server that has ended.
func (r *Router) release(s *certs.Share) error { return closed(s.Release(r.closeIdle)) }

func closed(err error) error {
	if err != nil {
		return fmt.Errorf("hostproxy: certificates: %w", err)
	}
	return nil
}

// certOptions translates r.TLS. What is wrong with it certs.New says.
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

// choose translates what the program says of a pattern.
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

// fault returns what is wrong with settings that package certs does not see. idle
// means that no issuer has taken the DNS provider.
func (t *TLS) fault(idle bool) error {
	var errs []error
	if t.Email != "" && (!strings.Contains(t.Email, "@") || strings.Contains(t.Email, ":")) {
		errs = append(errs, fmt.Errorf("field Email is %q: want an address such as ops@example.com, without a scheme", t.Email))
	}
	if t.Issuer != nil && (t.CA != "" || t.Email != "") {
		errs = append(errs, fmt.Errorf("Issuer excludes CA (%q) and Email (%q): set them in the issuer, or leave Issuer nil", t.CA, t.Email))
	}
	if idle && t.Host == nil { // which may return one that takes it
		errs = append(errs, errors.New("field DNS is for ACME issuers without a DNS01Solver, and Issuer and Fallbacks have none: "+
			"leave DNS nil, or use such an issuer"))
	}
	return errors.Join(errs...)
}

// issuers returns who issues for public names.
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

// plainIssuer returns an issuer as package certs knows it.
func plainIssuer(issuer certmagic.Issuer) certmagic.Issuer {
	switch i := issuer.(type) {
	case *Issuer:
		if i == nil {
			return (*certmagic.ACMEIssuer)(nil) // which certs refuses
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
