package reload

import (
	"net/netip"
	"time"
)

// An Upstream has the settings of hostproxy.Upstream. A list of targets may
// replace the whole section.
//
// A reload keeps an Upstream whose settings stay the same, with its
// connections, health and counters. Targets, Canary, Mirror and Maintenance can
// change without losing these. For Targets this does not hold together with
// Weights, Discover or the policy first_available.
type Upstream struct {
	Targets  []string
	Discover *Discover

	Policy  string `one:"less_busy round_robin random least_in_flight first_available consistent_hash"`
	Weights []int
	HashBy  *HashKey
	Sticky  *Sticky

	ProxyProtocol int
	TLS           *ClientTLS

	StripPrefix, AddPrefix        string
	Pages                         map[int]*Page // leave out Status in these
	RequestHeader, ResponseHeader *HeaderEdit
	HSTS                          *HSTS
	TargetHost                    bool
	Forwarded                     bool
	Upgrades                      []string

	Health     *HealthCheck
	Breaker    *Breaker
	SlowStart  time.Duration
	FailClosed bool

	Allow, Deny       []netip.Prefix
	RateLimit         *RateLimit
	MaxRequestBody    Size
	BufferRequests    Size
	BufferResponses   Size
	MaxInFlight       int
	MaxTargetInFlight int
	Queue             Queue

	Retry Retry
	Hedge time.Duration

	DialTimeout           time.Duration `is:"limit"`
	ResponseHeaderTimeout time.Duration `is:"limit"`
	IdleTimeout           time.Duration `is:"limit"`
	StreamGrace           time.Duration `is:"grace"`
	StreamTimeout         time.Duration

	Canary, Mirror *Share // hostproxy.Upstream.Canary and Mirror
	Maintenance    *Page  // while set, answers all requests; see hostproxy.Upstream.Maintain
}

// A Share sends a share of the clients or requests to another upstream. It is
// above 0 and at most 1.
type Share struct {
	Upstream string // name in Config.Upstreams
	Share    float64
}

// A Discover finds targets by DNS. Set one of its fields.
type Discover struct {
	DNS *DNSSource
	SRV *SRVSource
}

// A DNSSource has the arguments of hostproxy.DNSSource.
type DNSSource struct {
	Target   string
	Interval time.Duration `is:"positive"`
}

// An SRVSource has the arguments of hostproxy.SRVSource.
type SRVSource struct {
	Scheme               string `one:"http https h2c"`
	Service, Proto, Name string
	Interval             time.Duration `is:"positive"`
}

// A HashKey has the settings of hostproxy.HashKey.
type HashKey struct {
	Header string
	Cookie string
	URI    bool
}

// A Sticky has the settings of hostproxy.Sticky.
type Sticky struct {
	Cookie  string
	MaxAge  time.Duration
	KeyFile File // file of the key; "" means a random key
}

// A ClientTLS has settings of tls.Config, for connections to targets.
type ClientTLS struct {
	CAFiles            []File // nil means the system's roots
	CertFile, KeyFile  File   // client certificate
	ServerName         string
	MinVersion         string `one:"1.2 1.3"`
	InsecureSkipVerify bool   // accepts any certificate, even an attacker's
}

// A HeaderEdit has the settings of hostproxy.HeaderEdit. SetFiles is like Set,
// but the values are read from files.
type HeaderEdit struct {
	Remove   []string
	Set, Add map[string][]string
	SetFiles map[string]File
}

// An HSTS has the settings of hostproxy.HSTS.
type HSTS struct {
	MaxAge            time.Duration
	IncludeSubDomains bool
	Preload           bool
}

// A HealthCheck has the settings of hostproxy.HealthCheck. HeaderFiles is like
// Header, but the values are read from files.
type HealthCheck struct {
	Path        string
	Host        string
	Header      map[string][]string
	HeaderFiles map[string]File
	Statuses    []int
	GRPC        bool
	Service     string
	Interval    time.Duration `is:"limit"`
	Timeout     time.Duration `is:"positive"`
	Rise        int           `is:"positive"`
	Fall        int           `is:"positive"`
	StartDown   bool
}

// A Breaker has the settings of hostproxy.Breaker.
type Breaker struct {
	Failures     int `is:"limit"`
	FailureRatio float64
	Window       time.Duration `is:"positive"`
	MinRequests  int           `is:"positive"`
	Statuses     []int
	Slow         time.Duration
	OpenFor      time.Duration `is:"positive"`
	Trials       int           `is:"positive"`
}

// A Queue has the settings of hostproxy.Queue.
type Queue struct {
	Max  int
	Wait time.Duration `is:"positive"`
}

// A Retry has the settings of hostproxy.Retry.
type Retry struct {
	Attempts int           `is:"positive"`
	Timeout  time.Duration `is:"limit"`
	Statuses []int
	Budget   float64 `is:"limit"`
}
