// Package cluster lets several proxies work as one: they share certificates,
// locks, ACME challenges, session tickets and rate limits through Redis, and
// tell a load balancer when they are ready.
//
//	client, err := cluster.Connect("rediss://user:password@redis.internal:6379")
//	storage, err := cluster.NewStorage(client, cluster.StorageOptions{})
//	warnings, err := storage.Check(ctx)
//	r.TLS.Storage, r.TLS.ShareTickets = storage, true
//
// Its files:
//
//   - cluster.go: Connect, and the options of clients
//   - storage.go, lock.go: Storage, a certmagic.Storage
//   - check.go, fault.go: Storage.Check, which tests Redis at the start
//   - limiter.go, breaker.go, buckets.go: Limiter, a hostproxy.Limiter, with
//     Redis and without
//   - gate.go: Gate, which tells a load balancer whether the proxy is ready
package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// defaultPrefix is the default prefix of a cluster's keys in Redis.
const defaultPrefix = "hostproxy"

// Connect returns a client for the Redis at a URL; see [ParseURL]. It does not
// connect yet. If Redis is away, each operation fails, and [Storage.Check] too.
func Connect(rawURL string) (redis.UniversalClient, error) {
	o, err := ParseURL(rawURL)
	if err != nil {
		return nil, err
	}
	return redis.NewUniversalClient(o), nil
}

// ParseURL returns options for [redis.NewUniversalClient] from the URL of a
// Redis. The URL has one of these forms:
//
//	redis://host:6379/0                               one Redis, database 0
//	rediss://user:password@host:6379                  over TLS, with a password
//	redis://host:26379?master_name=m&addr=host2:26379 Sentinels, and the name of the master that they watch
//	redis://host:6379?cluster=true&addr=host2:6379    a Redis Cluster
//
// addr is a further address, and may be repeated. ca_file is a PEM file of the
// CAs that may have issued Redis's certificate; without it, the system's CAs
// are used. The user and password before the host are for Redis;
// sentinel_username and sentinel_password are for the Sentinels. Anything else
// in a URL is an error. ParseURL returns all errors, joined. They do not
// contain the password.
//
// The options suit this package: the deadlines of contexts are kept, and a
// command is sent again at most once. Change the returned options to set more.
func ParseURL(rawURL string) (*redis.UniversalOptions, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		var e *url.Error // its text contains the password
		if errors.As(err, &e) {
			err = e.Err
		}
		return nil, fmt.Errorf("cluster: the URL of Redis cannot be read: %w; want redis://user:password@host:6379/0", err)
	}
	p := urlParser{u: u, q: u.Query(), o: redis.UniversalOptions{
		ContextTimeoutEnabled: true,
		MaxRetries:            1, // the caller knows better when to retry
		DialerRetries:         1,
		// Some vendors' servers have this feature; others refuse it with an
		// error.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}}
	p.address()
	p.database()
	p.mode()
	p.tls()
	if err := errors.Join(p.errs...); err != nil {
		return nil, err
	}
	return &p.o, nil
}

// A urlParser turns a URL into options. It collects all errors.
type urlParser struct {
	u    *url.URL
	q    url.Values
	o    redis.UniversalOptions
	errs []error
}

func (p *urlParser) fail(format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("cluster: URL of Redis: "+format, args...))
}

// take returns the values of a parameter, and marks it as known.
func (p *urlParser) take(name string) []string {
	values := p.q[name]
	delete(p.q, name)
	return values
}

// one returns the value of a parameter that must not be repeated.
func (p *urlParser) one(name string) string {
	switch values := p.take(name); len(values) {
	case 0:
		return ""
	case 1:
		if values[0] == "" {
			p.fail("parameter %s is empty: give it a value, or leave it out", name)
		}
		return values[0]
	default:
		p.fail("parameter %s is there %d times: give it once", name, len(values))
		return ""
	}
}

func (p *urlParser) address() {
	if p.u.Scheme != "redis" && p.u.Scheme != "rediss" {
		p.fail("scheme %q: want redis://, or rediss:// for TLS", p.u.Scheme)
	}
	p.o.Username = p.u.User.Username()
	p.o.Password, _ = p.u.User.Password()
	port := "6379"
	if p.q.Has("master_name") {
		port = "26379"
	}
	host := p.u.Hostname()
	if host == "" {
		p.fail("no host: want redis://host:%s", port)
	}
	if p.u.Port() != "" {
		port = p.u.Port()
	}
	p.o.Addrs = []string{net.JoinHostPort(host, port)}
	for _, addr := range p.take("addr") {
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			p.fail("parameter addr %q: want host:port", addr)
		}
		p.o.Addrs = append(p.o.Addrs, addr)
	}
}

func (p *urlParser) database() {
	number := strings.Trim(p.u.Path, "/")
	if number == "" {
		return
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 {
		p.fail("path %q: want the number of a database, as in redis://host:6379/0", p.u.Path)
	}
	p.o.DB = n
}

func (p *urlParser) mode() {
	p.o.MasterName = p.one("master_name")
	p.o.SentinelUsername, p.o.SentinelPassword = p.one("sentinel_username"), p.one("sentinel_password")
	switch mode := p.one("cluster"); mode {
	case "", "false":
	case "true":
		p.o.IsClusterMode = true
	default:
		p.fail("parameter cluster %q: want true or false", mode)
	}
	switch {
	case p.o.MasterName != "" && p.o.IsClusterMode:
		p.fail("master_name and cluster=true exclude each other: Sentinels watch no Redis Cluster")
	case p.o.MasterName == "" && p.o.SentinelUsername+p.o.SentinelPassword != "":
		p.fail("sentinel_username and sentinel_password need master_name, the name of the master that Sentinels watch")
	case p.o.MasterName == "" && !p.o.IsClusterMode && len(p.o.Addrs) > 1:
		p.fail("several addresses need cluster=true, or master_name for Sentinels")
	}
	if p.o.IsClusterMode && p.o.DB != 0 {
		p.fail("database %d: a Redis Cluster has database 0 only; use StorageOptions.Prefix to tell clusters of proxies apart", p.o.DB)
	}
}

func (p *urlParser) tls() {
	file := p.one("ca_file")
	if p.u.Scheme == "rediss" {
		// the server name is set for each address
		p.o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if file != "" {
		p.roots(file)
	}
	names := make([]string, 0, len(p.q))
	for name := range p.q {
		names = append(names, strconv.Quote(name))
	}
	slices.Sort(names)
	if len(names) > 0 {
		p.fail("unknown parameter %s: want addr, ca_file, cluster, master_name, sentinel_username or sentinel_password", strings.Join(names, ", "))
	}
}

func (p *urlParser) roots(file string) {
	if p.o.TLSConfig == nil {
		p.fail("ca_file needs rediss://, which is TLS")
		return
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		p.fail("ca_file: %w", err)
		return
	}
	p.o.TLSConfig.RootCAs = x509.NewCertPool()
	if !p.o.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
		p.fail("ca_file %q has no certificate: want PEM", file)
	}
}

// usable returns an error if this package cannot use the client.
func usable(client redis.UniversalClient) error {
	keeps := true
	switch c := client.(type) {
	case nil:
		return errors.New("cluster: the Redis client is nil: want the result of Connect, or a client of yours")
	case *redis.Client:
		keeps = c != nil && c.Options().ContextTimeoutEnabled
	case *redis.ClusterClient:
		keeps = c != nil && c.Options().ContextTimeoutEnabled
	case *redis.Ring:
		return errors.New("cluster: a *redis.Ring is not supported: its shards have no replicas and no common clock; use a Redis Cluster")
	}
	if !keeps {
		return errors.New("cluster: the Redis client ignores deadlines: set ContextTimeoutEnabled in its options")
	}
	return nil
}

// validName returns the name for an option, or an error. zero is the default.
func validName(option, name, zero string) (string, error) {
	switch {
	case name == "":
		return zero, nil
	case strings.ContainsAny(name, "{} \t\r\n*?[]\\"):
		return "", fmt.Errorf("cluster: %s %q: want a name without spaces, braces and the characters of patterns (*?[]\\)", option, name)
	}
	return name, nil
}
