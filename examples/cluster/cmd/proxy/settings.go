package main

import (
	"cmp"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy"
)

// settings are the parsed command line.
type settings struct {
	redis, dir             string
	addr, http, ready      string
	email, ca, trust       string
	tickets                bool
	trusted, proxyProtocol []netip.Prefix
	rate                   float64
	burst                  int
	delay, drain           time.Duration
	routes                 map[string]*hostproxy.Upstream
	roots                  *x509.CertPool // the CAs given by -trust
}

// parse parses the arguments, and returns all their errors, joined.
func parse(args []string, redisURL string) (*settings, error) {
	s := &settings{routes: map[string]*hostproxy.Upstream{}}
	f := flag.NewFlagSet("proxy", flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprintln(f.Output(), "usage: proxy [flags] host=target[,target...] ...")
		f.PrintDefaults()
	}
	f.StringVar(&s.redis, "redis", "", "`URL` of Redis, Sentinels or a Redis Cluster; see cluster.ParseURL (default $REDIS_URL, or redis://localhost:6379)")
	f.StringVar(&s.dir, "dir", "", "`directory` for certificates and keys in place of Redis, for proxies on one machine")
	f.StringVar(&s.addr, "addr", ":443", "`address` for HTTPS")
	f.StringVar(&s.http, "http", ":80", "`address` for ACME challenges and redirects")
	f.StringVar(&s.ready, "ready", "localhost:9000", "`address` that tells load balancers whether this proxy is ready")
	f.StringVar(&s.email, "email", "", "contact of the ACME account")
	f.StringVar(&s.ca, "ca", "", "`URL` of the directory of an ACME CA (default Let's Encrypt)")
	f.StringVar(&s.trust, "trust", "", "`file` in PEM with the roots that the CA's own certificate may come from (default those of the system)")
	f.BoolVar(&s.tickets, "tickets", false, "share the keys of session tickets")
	f.Func("trusted", "addresses whose X-Forwarded-* headers are believed: `prefixes`, separated by commas", list(&s.trusted))
	f.Func("proxy-protocol", "addresses of load balancers that begin connections with a header of the PROXY protocol: `prefixes`, separated by commas", list(&s.proxyProtocol))
	f.Float64Var(&s.rate, "rate", 0, "requests per second that a client may make to all proxies together; 0 means no limit")
	f.IntVar(&s.burst, "burst", 0, "requests that a client may make at once after a pause; 0 means -rate, rounded up")
	f.DurationVar(&s.delay, "delay", 10*time.Second, "time from SIGTERM, when this proxy is no longer ready, to the end of its listeners; 0 means none")
	f.DurationVar(&s.drain, "drain", 30*time.Second, "limit of the shutdown after that; 0 means 30s, negative means none")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	errs := []error{s.route(f.Args()), s.fits(redisURL), s.trustRoots()}
	return s, errors.Join(errs...)
}

// list returns a function that parses a list of address prefixes.
func list(to *[]netip.Prefix) func(string) error {
	return func(text string) error {
		var errs []error
		for word := range strings.SplitSeq(text, ",") {
			p, err := netip.ParsePrefix(strings.TrimSpace(word))
			if err != nil {
				errs = append(errs, fmt.Errorf("%q: want an address with the length of its prefix, such as 10.0.0.0/8 or 192.0.2.1/32", word))
			}
			*to = append(*to, p)
		}
		return errors.Join(errs...)
	}
}

// route parses the routes.
func (s *settings) route(args []string) error {
	var errs []error
	first := map[string]string{} // argument by canonical pattern: A.test and a.test are the same
	for _, arg := range args {
		host, targets, ok := strings.Cut(arg, "=")
		pattern := canonical(host)
		u, err := hostproxy.NewUpstream(strings.Split(targets, ",")...)
		switch {
		case !ok || host == "" || err != nil:
			errs = append(errs, fmt.Errorf("argument %q: want host=target, such as app.localhost=localhost:4000 (%w)", arg, cmp.Or(err, errors.New("no host"))))
		case first[pattern] != "":
			errs = append(errs, fmt.Errorf("argument %q: host %q is there twice: keep one of %q and this, with all targets, separated by commas", arg, pattern, first[pattern]))
		default:
			first[pattern], s.routes[host] = arg, u
		}
	}
	if len(args) == 0 {
		errs = append(errs, errors.New("no routes: want host=target, such as app.localhost=localhost:4000"))
	}
	return errors.Join(errs...)
}

// canonical returns the Router's spelling of a pattern. An invalid one is
// returned unchanged, and reported later.
func canonical(pattern string) string {
	var r hostproxy.Router
	if r.Set(pattern, http.NotFoundHandler()) != nil {
		return pattern
	}
	for p := range r.All() {
		pattern = p
	}
	return pattern
}

// fits finds flags that contradict or require each other.
func (s *settings) fits(redisURL string) error {
	var errs []error
	switch {
	case s.dir != "" && s.redis != "":
		errs = append(errs, errors.New("-dir and -redis exclude each other"))
	case s.dir != "" && s.rate != 0:
		errs = append(errs, errors.New("-rate needs Redis: a directory shares no limits"))
	}
	if s.burst != 0 && s.rate == 0 {
		errs = append(errs, errors.New("-burst needs -rate"))
	}
	if s.delay < 0 {
		errs = append(errs, fmt.Errorf("-delay %v is negative: want a duration, or 0 for none", s.delay))
	}
	if s.trust != "" && s.ca == "" {
		errs = append(errs, errors.New("-trust needs -ca: it is for a CA of your own"))
	}
	if s.dir == "" {
		s.redis = cmp.Or(s.redis, redisURL, "redis://localhost:6379")
	}
	return errors.Join(errs...)
}

func (s *settings) trustRoots() error {
	if s.trust == "" {
		return nil
	}
	pem, err := os.ReadFile(s.trust)
	if err != nil {
		return fmt.Errorf("-trust: %w", err)
	}
	s.roots = x509.NewCertPool()
	if !s.roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("-trust: %q has no certificate: want PEM", s.trust)
	}
	return nil
}
