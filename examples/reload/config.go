package reload

import (
	"io/fs"
	"net/netip"
	"time"
)

// A Config is the configuration in a file. A key of the file is a field's name
// in lower case, with underscores: ReadHeaderTimeout is read_header_timeout.
// The type of the field decides how its value is read:
//
//   - Durations and sizes have a unit: 30s, 5m, 90d, 64KiB, 10MB. 0 needs none.
//   - "off" disables a number or duration that can be disabled. If 0 would mean
//     hostproxy's default, 0 is refused: leave the key out.
//   - A list with one value may be written as that value.
//   - A File is a file name, relative to the directory of the Config's file.
//
// Fields named like a field in package hostproxy have the same meaning and the
// same default.
type Config struct {
	Log       Log        // changes at once
	Server    Server     // timeouts and limits change at once
	Listeners []Listener // nil means HTTPS on :443, and redirects on :80

	TrustedProxies []netip.Prefix
	RequestID      RequestID
	ResponseHeader *HeaderEdit
	HSTS           *HSTS
	RateLimit      *RateLimit
	NotFound       *Page // answers requests that match no route

	TLS       TLS
	Upstreams map[string]*Upstream // named upstreams, for Route.Upstream and similar keys
	Routes    map[string]*Route    // by pattern; required
}

// A File is a file name. Relative names start at the directory of the
// configuration file.
type File string

// A Size is a number of bytes.
type Size int64

// Log says what is logged, and where. All its changes are in force at once.
type Log struct {
	Level  string `one:"info debug warn error"` // lowest level that is logged
	Format string `one:"text json"`

	// Output is the file that lines are appended to. Each reload opens it
	// again, so SIGHUP works after a rotation. "" means the standard error
	// stream.
	Output File

	// Access logs each exchange. Nil logs only failed ones, except failures
	// caused by the client.
	Access *Access
}

// Access says what to leave out of the access log.
type Access struct {
	OmitQuery, OmitReferer bool // may contain secrets
}

// Server has the settings of hostproxy.Server.
type Server struct {
	ReadHeaderTimeout time.Duration `is:"limit"`
	IdleTimeout       time.Duration `is:"limit"`
	DrainTimeout      time.Duration `is:"limit"`
	HandshakeTimeout  time.Duration `is:"limit"`
	MaxHeaderBytes    Size          `is:"positive"`
	MaxConns          int
	MaxConnsPerClient int
	MaxHandshakes     int            `is:"limit"`
	ProxyProtocol     *ProxyProtocol // for all listeners except internal ones; needs a restart
}

// A Listener is an address to serve on. A change needs a restart.
type Listener struct {
	Addr string // host:port, :port or unix:/path
	// name of an inherited socket (FileDescriptorName= in systemd), instead of
	// Addr
	Socket string
	Mode   fs.FileMode // of a unix socket, in octal, such as 0660
	Role   string      `one:"tls plain redirects internal"`

	// Handler serves RoleInternal: status (hostproxy.StatusHandler), config
	// (the Config in force, and why a later file was refused), or a key of
	// Proxy.Handlers.
	Handler       string
	H2C           bool
	ProxyProtocol *ProxyProtocol
}

// ProxyProtocol has the settings of hostproxy.ProxyProtocol.
type ProxyProtocol struct {
	From    []netip.Prefix
	Timeout time.Duration `is:"limit"`
}

// RequestID has the settings of hostproxy.RequestIDHeader.
type RequestID struct {
	Name    string
	Respond bool
}

// A RateLimit has the settings of hostproxy.RateLimit.
type RateLimit struct {
	Rate        float64
	Burst       int `is:"positive"`
	MaxInFlight int
	By          LimitKey
}

// A LimitKey has the settings of hostproxy.LimitKey.
type LimitKey struct {
	Header string
	Cookie string
	Host   bool
}

// A Page is a fixed response. Set at most one of Body and BodyFile.
type Page struct {
	Status      int    `is:"positive"` // 0 means 503, or 404 in Config.NotFound
	ContentType string // "" means text/plain in UTF-8
	Body        string
	BodyFile    File
	RetryAfter  time.Duration
}

// TLS has the settings of hostproxy.TLS. Changes of Hosts and HostPolicy are in
// force at once. Other changes need a restart.
type TLS struct {
	Email            string
	CA               string
	Issuer           *Issuer
	Fallbacks        []Issuer
	Internal         *Issuer
	Hosts            map[string]*HostTLS // by the host pattern of a route; see hostproxy.TLS.Host
	DisableARI       bool
	Storage          File          // a directory
	HostPolicy       []string      // hosts and *.host patterns that get certificates on demand
	HostPolicyTTL    time.Duration `is:"limit"`
	Lazy             bool
	Addresses        []netip.Addr
	DisablePreflight bool
	Files            []CertFile
	DefaultHost      string
	ShareTickets     bool
	Config           *ServerTLS
}

// ServerTLS has settings of tls.Config.
type ServerTLS struct {
	MinVersion             string   `one:"1.2 1.3"`
	CipherSuites           []string // for TLS 1.2, by their names in crypto/tls
	SessionTicketsDisabled bool
}

// A CertFile names the PEM files of a certificate chain and its key. They are
// read again when they change.
type CertFile struct {
	CertFile, KeyFile File
}

// An Issuer is an ACME directory with an account.
type Issuer struct {
	CA              string
	TestCA          string
	Email           string
	KeyType         string `one:"p256 p384 rsa2048 rsa4096 ed25519"`
	Profile         string
	TrustedRoots    []File // PEM files with the roots of a private CA
	ExternalAccount *ExternalAccount
}

// An ExternalAccount binds the ACME account to an account at the CA.
type ExternalAccount struct {
	KeyID      string
	MACKeyFile File
}

// A HostTLS has the settings of hostproxy.HostTLS.
type HostTLS struct {
	Issuer         *Issuer
	OwnCertificate bool
	ClientAuth     *ClientAuth
	Files          *CertFile
	NoCertificate  bool
}

// A ClientAuth has the settings of hostproxy.ClientAuth.
type ClientAuth struct {
	CAFiles []File
	Mode    string `one:"require_and_verify request require_any verify_if_given"`
}

// A Route is the handler of a pattern. Exactly one of these is required:
// Targets or Discover (for an upstream of its own), Upstream, Redirect,
// Passthrough, Page or Handler. A list of targets may replace the whole
// section.
//
// Guard comes first, then BasicAuth, then ForwardAuth, then the handler. Around
// an upstream that stays, a new Guard or BasicAuth closes no connection.
type Route struct {
	Use string `key:"upstream"` // name in Config.Upstreams

	Inline Upstream `key:",inline"` // settings of the route's own upstream

	Redirect    string // host to redirect to
	Passthrough *Passthrough
	Page        *Page
	Handler     string // status, config, or a key of Proxy.Handlers

	Guard       *Guard
	BasicAuth   *BasicAuth
	ForwardAuth *ForwardAuth
}

// A Passthrough has the settings of hostproxy.Passthrough.
type Passthrough struct {
	Addr          string
	ProxyProtocol bool
}

// A Guard has the settings of hostproxy.Guard.
type Guard struct {
	Allow, Deny []netip.Prefix
	RateLimit   *RateLimit
}

// A BasicAuth has the settings of hostproxy.BasicAuth.
type BasicAuth struct {
	UsersFile  File // lines of name:bcrypt, as written by htpasswd -B; required
	Realm      string
	UserHeader string
}

// A ForwardAuth has the settings of hostproxy.ForwardAuth.
type ForwardAuth struct {
	Auth   string // name in Config.Upstreams; required
	Path   string
	User   string
	Fields []string
}
