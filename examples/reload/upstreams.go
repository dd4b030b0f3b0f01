package reload

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy"
)

// An upstream is an upstream of the plan.
type upstream struct {
	*hostproxy.Upstream
	key string // of all settings except the fields below

	targets        []string // set if the targets can change while the upstream stays
	canary, mirror *share
	maintenance    *hostproxy.Page
}

// A share is a Share with a resolved upstream.
type share struct {
	to    *hostproxy.Upstream
	share float64
}

// upstream builds an upstream of the plan, or keeps the one of the old plan.
func (b *planner) upstream(c *Upstream, at ...string) *upstream {
	before := len(b.faults)
	u := &upstream{Upstream: b.fresh(c, at...)}
	if c.Maintenance != nil {
		p := b.hostPage(c.Maintenance, append(at, "maintenance")...)
		u.maintenance = &p
	}
	if len(b.faults) > before {
		u.Upstream = new(hostproxy.Upstream) // a stand-in for further checks
		return b.add(u, at...)
	}
	b.check(u.Upstream, *c, at...)
	same := *c
	same.Canary, same.Mirror, same.Maintenance = nil, nil, nil
	if liveTargets(c) {
		same.Targets = nil
		for _, t := range u.Targets { // so each target has one spelling
			u.targets = append(u.targets, t.String())
		}
	}
	u.key = b.key(&same)
	if old := b.old.upstreams[place(at)]; old != nil && old.key == u.key {
		u.Upstream = old.Upstream
	}
	return b.add(u, at...)
}

func (b *planner) add(u *upstream, at ...string) *upstream {
	b.upstreams[place(at)] = u
	return u
}

func place(at []string) string { return strings.Join(at, "\x00") }

// liveTargets reports whether an upstream can keep its Upstream when its
// targets change.
func liveTargets(c *Upstream) bool {
	return len(c.Weights) == 0 && c.Discover == nil && c.Policy != "first_available"
}

// reference returns the upstream of this name. It adds a fault and returns nil
// if there is none.
func (b *planner) reference(name string, at ...string) *upstream {
	b.used[name] = true
	u := b.upstreams[place([]string{"upstreams", name})]
	if u == nil {
		// 10,000 routes with this fault must not list 10,000 names each
		names := slices.Sorted(maps.Keys(b.Upstreams))
		if n := len(names) - 20; n > 0 {
			names = append(names[:20], fmt.Sprintf("and %d more", n))
		}
		b.fault(at, "upstream %s is unknown: want a name in upstreams (%s)", quoted(name), strings.Join(names, ", "))
	}
	return u
}

// shares resolves Canary and Mirror of the named upstreams.
func (b *planner) shares() {
	for _, name := range slices.Sorted(maps.Keys(b.Upstreams)) {
		b.besides(b.upstreams[place([]string{"upstreams", name})], b.Upstreams[name], "upstreams", name)
	}
}

// besides resolves the canary and the mirror of u.
func (b *planner) besides(u *upstream, c *Upstream, at ...string) *upstream {
	u.canary, u.mirror = b.share(c.Canary, append(at, "canary")...), b.share(c.Mirror, append(at, "mirror")...)
	return u
}

func (b *planner) share(s *Share, at ...string) *share {
	if s == nil {
		return nil
	}
	if s.Share <= 0 || s.Share > 1 {
		b.fault(append(at, "share"), "share is %v: want a number above 0 and at most 1; to end it, remove the section", s.Share)
	}
	if u := b.reference(s.Upstream, append(at, "upstream")...); u != nil {
		return &share{u.Upstream, s.Share}
	}
	return nil
}

// fresh returns a new Upstream with the settings of c.
func (b *planner) fresh(c *Upstream, at ...string) *hostproxy.Upstream {
	u := new(hostproxy.Upstream)
	fill(reflect.ValueOf(u), reflect.ValueOf(c))
	u.Policy = hostproxy.Policy(max(slices.Index(policies(), c.Policy), 0))
	u.RateLimit = rateLimit(c.RateLimit)
	b.allowed(c.Allow, append(slices.Clone(at), "allow")...)
	b.targets(u, c, at...)
	if c.Sticky != nil && c.Sticky.KeyFile != "" {
		u.Sticky.Key = []byte(b.secret(c.Sticky.KeyFile, append(at, "sticky", "key_file")...))
	}
	if c.TLS != nil {
		u.TLS = b.clientTLS(c.TLS, append(at, "tls")...)
		b.encrypted(u, c, append(at, "tls")...)
	}
	for status, p := range c.Pages {
		if u.Pages == nil {
			u.Pages = map[int]http.Handler{}
		}
		at := append(slices.Clone(at), "pages", strconv.Itoa(status))
		if p.Status != 0 {
			b.fault(append(at, "status"), "the status of the response stays: remove status")
		}
		u.Pages[status] = b.page(p, status, at...)
	}
	u.RequestHeader = b.headerEdit(c.RequestHeader, append(at, "request_header")...)
	u.ResponseHeader = b.headerEdit(c.ResponseHeader, append(at, "response_header")...)
	if h := c.Health; h != nil {
		u.Health.Header = b.header(h.Header, h.HeaderFiles, append(at, "health", "header_files")...)
	}
	return u
}

// policies returns the names of the policies, indexed by their numbers.
func policies() []string {
	f, _ := reflect.TypeFor[Upstream]().FieldByName("Policy")
	return strings.Fields(f.Tag.Get("one"))
}

// targets sets Targets and Discover.
func (b *planner) targets(u *hostproxy.Upstream, c *Upstream, at ...string) {
	seen := map[string]bool{}
	for i, s := range c.Targets {
		at := append(slices.Clone(at), "targets", strconv.Itoa(i))
		one, err := hostproxy.NewUpstream(s)
		switch {
		case err != nil:
			b.library(err, *c, at...)
			continue
		case seen[one.Targets[0].String()]:
			b.fault(at, "target %s is there already: keep one of them", quoted(s))
		}
		seen[one.Targets[0].String()] = true
		u.Targets = append(u.Targets, one.Targets[0])
	}
	d := c.Discover
	switch {
	case d == nil && len(c.Targets) == 0:
		b.fault(at, "no targets: want targets, such as [localhost:4000], or discover")
	case d == nil:
	case (d.DNS == nil) == (d.SRV == nil):
		b.fault(append(at, "discover"), "want one of dns and srv")
	case d.DNS != nil:
		u.Discover = b.dns(d.DNS, append(at, "discover", "dns")...)
	default:
		u.Discover = b.srv(d.SRV, append(at, "discover", "srv")...)
	}
}

func (b *planner) dns(c *DNSSource, at ...string) hostproxy.Source {
	b.interval(c.Interval, at...)
	if _, err := hostproxy.NewUpstream(c.Target); err != nil {
		b.library(err, *c, append(at, "target")...)
		return nil
	}
	return hostproxy.DNSSource(c.Target, c.Interval)
}

func (b *planner) srv(c *SRVSource, at ...string) hostproxy.Source {
	b.interval(c.Interval, at...)
	for _, f := range [][2]string{{"service", c.Service}, {"proto", c.Proto}, {"name", c.Name}} {
		if f[1] == "" || f[1][0] == '_' {
			b.fault(append(at, f[0]), "%s is %q: want a name without an underscore in front: the records of _service._proto.name are looked up", f[0], f[1])
			return nil
		}
	}
	scheme := c.Scheme
	if scheme == "" {
		scheme = "http"
	}
	return hostproxy.SRVSource(scheme, c.Service, c.Proto, c.Name, c.Interval)
}

func (b *planner) interval(d time.Duration, at ...string) {
	if d < time.Second {
		b.fault(append(at, "interval"), "interval is %v: want 1s or more", d)
	}
}

// clientTLS returns the TLS settings for connections to targets.
func (b *planner) clientTLS(c *ClientTLS, at ...string) *tls.Config {
	conf := &tls.Config{ServerName: c.ServerName, InsecureSkipVerify: c.InsecureSkipVerify, MinVersion: tlsVersion(c.MinVersion)}
	if len(c.CAFiles) > 0 {
		conf.RootCAs = b.pool(c.CAFiles, append(at, "ca_files")...)
	}
	if c.InsecureSkipVerify && len(c.CAFiles) > 0 {
		b.fault(append(at, "insecure_skip_verify"), "ca_files verify nothing beside it: remove one of them")
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		b.fault(at, "cert_file and key_file belong together: want both or none")
	} else if c.CertFile != "" {
		cert := b.must(c.CertFile, append(at, "cert_file")...)
		key := b.must(c.KeyFile, append(at, "key_file")...)
		if pair, err := tls.X509KeyPair(cert, key); err == nil {
			conf.Certificates = []tls.Certificate{pair}
		} else if cert != nil && key != nil {
			b.fault(append(at, "cert_file"), "%v: want PEM files of a certificate and its key", err)
		}
	}
	return conf
}

// encrypted adds a fault if no target of u can be an https target. It adds none
// if targets could not be read.
func (b *planner) encrypted(u *hostproxy.Upstream, c *Upstream, at ...string) {
	var schemes []string
	for _, t := range u.Targets {
		schemes = append(schemes, t.Scheme)
	}
	switch d := c.Discover; {
	case len(u.Targets) < len(c.Targets), d == nil && len(c.Targets) == 0, d != nil && u.Discover == nil:
		return
	case d != nil && d.SRV != nil:
		schemes = append(schemes, d.SRV.Scheme)
	case d != nil:
		one, _ := hostproxy.NewUpstream(d.DNS.Target) // cannot fail: u.Discover was made from it
		schemes = append(schemes, one.Targets[0].Scheme)
	}
	if !slices.Contains(schemes, "https") {
		b.fault(at, "tls is for https targets, and there is none: write https:// in front of a target, or remove tls")
	}
}

// tlsVersion returns the number of a version, or 0 for "".
func tlsVersion(s string) uint16 {
	return map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}[s]
}

// pool reads PEM files of CAs.
func (b *planner) pool(names []File, at ...string) *x509.CertPool {
	pool := x509.NewCertPool()
	for i, name := range names {
		at := append(slices.Clone(at), strconv.Itoa(i))
		if text := b.must(name, at...); text != nil && !pool.AppendCertsFromPEM(text) {
			b.fault(at, "%s has no certificate: want a PEM file of CA certificates", quoted(string(name)))
		}
	}
	return pool
}

func (b *planner) headerEdit(c *HeaderEdit, at ...string) (h hostproxy.HeaderEdit) {
	if c != nil {
		h.Remove, h.Add = c.Remove, b.header(c.Add, nil, at...)
		h.Set = b.header(c.Set, c.SetFiles, append(at, "set_files")...)
	}
	return h
}

// header returns the headers in fields. It adds the headers in files, whose
// values it reads from these files.
func (b *planner) header(fields map[string][]string, files map[string]File, at ...string) http.Header {
	if len(fields)+len(files) == 0 {
		return nil
	}
	h := http.Header{}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if h.Get(name) != "" {
			b.fault(at, "header %s is there in another spelling too: keep one of them, with all values", quoted(name))
		}
		for _, v := range fields[name] {
			h.Add(name, v)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if h.Get(name) != "" {
			b.fault(append(at, name), "header %s has another value too: keep one of them", quoted(name))
		}
		h.Add(name, b.secret(files[name], append(at, name)...))
	}
	return h
}

// rateLimit converts c.
func rateLimit(c *RateLimit) *hostproxy.RateLimit {
	if c == nil {
		return nil
	}
	l := new(hostproxy.RateLimit)
	fill(reflect.ValueOf(l), reflect.ValueOf(c))
	return l
}

// fill copies the fields of src to those of the structure dst points to, by
// name and kind. Other fields, such as those with file names, are left to the
// caller.
func fill(dst, src reflect.Value) {
	d, s := reflect.Indirect(dst), reflect.Indirect(src)
	for i := range s.NumField() {
		f := d.FieldByName(s.Type().Field(i).Name)
		if v := s.Field(i); f.IsValid() && !v.IsZero() {
			assign(f, v)
		}
	}
}

func assign(d, s reflect.Value) {
	switch {
	case s.Type() == d.Type():
		d.Set(s)
	case s.Kind() == reflect.Pointer && s.Type().Elem().Kind() == reflect.Struct && d.Kind() == reflect.Pointer && ours(d.Type().Elem()):
		d.Set(reflect.New(d.Type().Elem()))
		fill(d, s)
	case reflect.Indirect(s).Kind() == reflect.Struct && d.Kind() == reflect.Struct:
		fill(d, s)
	case s.CanInt() && d.CanInt():
		d.Set(s.Convert(d.Type()))
	}
}

// ours reports whether t is a structure of hostproxy.
func ours(t reflect.Type) bool { return t.PkgPath() == reflect.TypeFor[hostproxy.Upstream]().PkgPath() }

// apply puts those settings in force that a kept Upstream can change. old is
// its previous state; nil if it is new.
func (u *upstream) apply(old *upstream) (errs []error) {
	if old != nil && old.Upstream != u.Upstream {
		old = nil
	}
	if old == nil {
		old = &upstream{targets: u.targets}
	}
	add, gone := difference(old.targets, u.targets)
	if len(add) > 0 {
		errs = append(errs, u.Add(add...))
	}
	if len(gone) > 0 {
		errs = append(errs, u.Remove(gone...))
	}
	if !reflect.DeepEqual(old.maintenance, u.maintenance) {
		if u.maintenance != nil {
			errs = append(errs, u.Maintain(*u.maintenance))
		} else {
			errs = append(errs, u.Resume())
		}
	}
	errs = append(errs, swap(old.canary, u.canary, u.Canary), swap(old.mirror, u.mirror, u.Mirror))
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// swap calls do if the share has changed.
func swap(old, next *share, do func(*hostproxy.Upstream, float64) error) error {
	switch {
	case next == nil && old == nil, next != nil && old != nil && *next == *old:
		return nil
	case next == nil:
		return do(nil, 0)
	}
	return do(next.to, next.share)
}

// difference returns the targets that are only in next, and the targets that
// are only in old.
func difference(old, next []string) (add, gone []string) {
	for _, t := range next {
		if !slices.Contains(old, t) {
			add = append(add, t)
		}
	}
	for _, t := range old {
		if !slices.Contains(next, t) {
			gone = append(gone, t)
		}
	}
	return add, gone
}
