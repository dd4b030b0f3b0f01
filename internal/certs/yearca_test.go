package certs_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"github.com/stretchr/testify/require"
)

// pauseClamp is the longest time for which a client may wait for a limit before
// it tests whether the limit is over.
const pauseClamp = 6 * time.Hour

// exaggeration is how much too late the CA reports the end of the account's
// limit: real CAs have done so. It also reports the limit's window.
const exaggeration = 5 * 24 * time.Hour

// A modelCA is a public CA in the process: real certificates over one
// intermediate, Let's Encrypt's limits, renewal information and faults.
type modelCA struct {
	world *world
	fault fault
	inter *x509.Certificate
	chain []byte        // PEM of inter
	least time.Duration // of an answer
	most  time.Duration
	// small: verifying elliptic-curve signatures would take most of a year's
	// time
	signer *rsa.PrivateKey
	// renewals that follow renewal information count only for the limit of
	// failed validations
	exempt bool

	mu      sync.Mutex
	serial  int64
	known   map[string]leaf      // by serial: all signed certificates with renewal information
	refused map[cause]*refusal   // the last one of each limit
	orders  *window              // per account
	domains *window              // certificates per registered domain
	sets    *window              // certificates per exact set of names
	failed  *window              // failed validations per host
	revoked map[string]time.Time // by host: certificates signed before this must be replaced
	asked   atomic.Int64
	signed  int
	limited int
	// until when a client must not repeat an order that was refused for a host
	turned map[cause]time.Time
}

// A leaf is what the model remembers of a certificate.
type leaf struct {
	host     string
	from, to time.Time
}

func (l leaf) life() time.Duration { return l.to.Sub(l.from) }

// A cause is a limit that refuses requests of one client.
type cause struct {
	client string // name of the instance
	limit  string
}

// A refusal is the answer to the first request that a limit refused.
type refusal struct {
	at, until time.Time
	look      bool // the request tested whether an earlier refusal still holds
}

func newModelCA(t testing.TB, w *world) *modelCA {
	t.Helper()
	issuer := newIssuer(t, "model", 0)
	signer, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	inter := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "intermediate"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(day(900)), KeyUsage: x509.KeyUsageCertSign,
		SubjectKeyId: []byte("intermediate"),
	}
	der, err := x509.CreateCertificate(rand.Reader, inter, issuer.ca, signer.Public(), issuer.signer)
	require.NoError(t, err)
	inter, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	return &modelCA{
		world: w, inter: inter, signer: signer, exempt: true, least: time.Second, most: 3 * time.Second,
		chain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		known: make(map[string]leaf), refused: make(map[cause]*refusal), turned: make(map[cause]time.Time), revoked: make(map[string]time.Time),
		orders: newWindow(300, 3*time.Hour), domains: newWindow(50, day(7)),
		sets: newWindow(5, day(7)), failed: newWindow(5, time.Hour),
	}
}

// A modelIssuer is the CA as one client sees it.
type modelIssuer struct {
	ca     *modelCA
	client *instance
}

// IssuerKey implements certmagic.Issuer.
func (*modelIssuer) IssuerKey() string { return "model" }

// Issue implements certmagic.Issuer: an order, a validation, a certificate.
func (i *modelIssuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	host, began, w := csr.DNSNames[0], time.Now(), i.ca.world
	i.ca.asked.Add(1)
	w.ordered(i.client, host)
	if err := i.ca.answer(ctx); err != nil {
		return nil, fmt.Errorf("[%s] creating new order: %w", host, err)
	}
	s, p := i.ca.order(i.client, host, began)
	if p != nil {
		w.note(host, "%s is refused: %s", i.client.name, p.Detail)
		return nil, fmt.Errorf("[%s] creating new order: %w", host, *p)
	}
	if err := i.ca.answer(ctx); err != nil {
		return nil, fmt.Errorf("[%s] solving challenges: %w", host, err)
	}
	if !w.validates(host) {
		i.ca.mu.Lock()
		i.ca.failed.take(host)
		i.ca.mu.Unlock()
		w.note(host, "%s fails its validation", i.client.name)
		return nil, fmt.Errorf("[%s] solving challenges: %w", host, acme.Problem{
			Status: http.StatusForbidden, Type: acme.ProblemTypeUnauthorized, Detail: "DNS problem: NXDOMAIN looking up A for " + host,
			Resource: acme.Authorization{Identifier: acme.Identifier{Type: "dns", Value: host}},
		})
	}
	return i.ca.sign(s, csr)
}

// answer takes as long as the CA does at the moment, and fails if the CA does.
func (c *modelCA) answer(ctx context.Context) error {
	kind, over := c.fault.now()
	switch kind {
	case "errors":
		return errors.New("dial tcp 192.0.2.1:443: connect: connection refused")
	case "busy":
		return acme.Problem{Status: http.StatusServiceUnavailable, Type: acme.ProblemTypeRateLimited, Detail: "Service busy; retry later."}
	case "hangs":
		select {
		case <-over:
			return errors.New("connection reset by peer")
		case <-ctx.Done():
			return ctx.Err()
		}
	case "slow":
		return pause(ctx, c.world.between(10*time.Second, time.Minute))
	}
	return pause(ctx, c.world.between(c.least, c.most))
}

// order counts a new order, or returns the limit that refuses it.
func (c *modelCA) order(client *instance, host string, began time.Time) (standing, *acme.Problem) {
	s := c.world.standing(host)
	c.mu.Lock()
	defer c.mu.Unlock()
	domain := registered(host)
	limits := []struct {
		window   *window
		key, not string
		off      bool
	}{
		{c.failed, host, fmt.Sprintf("too many failed authorizations (5) for %q in the last 1h0m0s", host), false},
		{c.orders, "account", "too many new orders (300) from this account in the last 3h0m0s", c.exempt && s.suggested},
		{c.domains, domain, fmt.Sprintf("too many certificates (50) already issued for %q in the last 168h0m0s", domain), s.renewal},
		{c.sets, host, "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s", c.exempt && s.suggested},
	}
	for _, l := range limits {
		if l.off {
			continue
		}
		if until, full := l.window.full(l.key); full {
			said := until
			if l.key == "account" {
				said = said.Add(exaggeration)
			}
			until = earliest(said, time.Now().Add(l.window.length))
			c.turn(client.name, until, s)
			c.refuse(cause{client.name, l.not}, began, until, s)
			return s, &acme.Problem{
				Status: http.StatusTooManyRequests, Type: acme.ProblemTypeRateLimited,
				Detail: fmt.Sprintf("%s, retry after %s: see https://letsencrypt.org/docs/rate-limits/", l.not, said.UTC().Format("2006-01-02 15:04:05 MST")),
			}
		}
	}
	for _, l := range limits {
		delete(c.refused, cause{client.name, l.not}) // over, from the client's point of view
	}
	if !c.exempt || !s.suggested {
		c.orders.take("account")
	}
	return s, nil
}

// refuse notes a refusal and judges the client: a limit may refuse only once.
// Requests that were in flight then, a test after pauseClamp, and due renewals
// are allowed, but only one order may be the test. Failed validations must
// never reach their limit.
func (c *modelCA) refuse(why cause, began, until time.Time, s standing) {
	c.limited++
	last := c.refused[why]
	again := last != nil && !began.Before(last.at.Add(notice))
	switch {
	case strings.HasPrefix(why.limit, "too many failed"):
		c.world.fail("limit", s.host, "%s meets the limit of failed validations", why.client)
	case last == nil || s.due:
	case again && began.Before(last.until) && began.Before(last.at.Add(pauseClamp)):
		c.world.fail("limit", s.host, "%s asks again %s after %q, which holds until %s",
			why.client, began.Sub(last.at).Round(time.Second), why.limit, c.world.stamp(last.until))
	case !again && last.look && len(c.world.running()) == 1:
		// with several instances, another's certificate may have shown that it
		// is over
		c.world.fail("limit", s.host, "%s looks with more than one order whether it is over: %q", why.client, why.limit)
	}
	if last == nil || again {
		c.refused[why] = &refusal{at: time.Now(), until: until, look: again && !s.due}
	}
}

// turn notes that the order for a host is refused until then, and judges a
// client that repeats it too early.
func (c *modelCA) turn(client string, until time.Time, s standing) {
	why, now := cause{client, s.host}, time.Now()
	if last := c.turned[why]; now.Before(last) {
		c.world.fail("limit", s.host, "%s asks again %s before it should, with %s left", client, last.Sub(now).Round(time.Second), s.left.Round(time.Hour))
	}
	c.turned[why] = now.Add(turnedFor)
	if until.Before(c.turned[why]) {
		c.turned[why] = until
	}
}

func (c *modelCA) sign(s standing, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	life, ari := c.world.profile(s.host)
	from := time.Now().Truncate(time.Second)
	l := leaf{s.host, from, from.Add(life)}
	serial := c.register(l, s, ari)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, DNSNames: csr.DNSNames, NotBefore: l.from, NotAfter: l.to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, c.inter, csr.PublicKey, c.signer)
	if err != nil {
		return nil, err
	}
	issued := acme.Certificate{URL: "https://ca.example/cert/" + serial.String()}
	if ari {
		info := c.suggest(l)
		issued.RenewalInfo = &info
	}
	c.world.issued(l)
	chain := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), c.chain...)
	return &certmagic.IssuedCertificate{Certificate: chain, Metadata: issued}, nil
}

// register counts and records a certificate, and returns its serial number.
func (c *modelCA) register(l leaf, s standing, ari bool) *big.Int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.exempt || !s.suggested {
		c.sets.take(l.host)
	}
	if !s.renewal {
		c.domains.take(registered(l.host))
	}
	c.serial++
	c.signed++
	serial := big.NewInt(c.serial<<16 | int64(c.world.roll(1<<16)))
	if ari {
		c.known[serial.String()] = l
	}
	return serial
}

// revoke notes that a host's current certificate must be replaced soon.
func (c *modelCA) revoke(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revoked[host] = time.Now()
}

// GetRenewalInfo implements certmagic.RenewalInfoGetter.
func (i *modelIssuer) GetRenewalInfo(ctx context.Context, cert certmagic.Certificate) (acme.RenewalInfo, error) {
	if err := i.ca.answer(ctx); err != nil {
		return acme.RenewalInfo{}, err
	}
	i.ca.mu.Lock()
	l, ok := i.ca.known[cert.Leaf.SerialNumber.String()]
	i.ca.mu.Unlock()
	if !ok {
		return acme.RenewalInfo{}, acme.ErrUnsupported
	}
	info := i.ca.suggest(l)
	info.UniqueIdentifier, _ = acme.ARIUniqueIdentifier(cert.Leaf) // as the ACME client does
	return info, nil
}

// suggest returns when a certificate should be renewed.
func (c *modelCA) suggest(l leaf) acme.RenewalInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	var info acme.RenewalInfo
	start, length, again := l.to.Add(-l.life()/3), l.life()/45, time.Now().Add(askAgain)
	if at := c.revoked[l.host]; at.After(l.from) {
		start, length = at, time.Hour
	}
	info.SuggestedWindow.Start, info.SuggestedWindow.End = start, start.Add(length)
	info.SelectedTime = start.Add(time.Duration(float64(length) * c.world.chance())).Truncate(time.Second)
	info.RetryAfter = &again
	return info
}

// registered returns the registered domain of a host in the model.
func registered(host string) string {
	labels := strings.Split(host, ".")
	return strings.Join(labels[max(0, len(labels)-2):], ".")
}

// A window is a limit: n events in a length of time, for each key. It slides,
// so a client waits as long as possible, up to the whole window.
type window struct {
	n      int
	length time.Duration
	taken  map[string][]time.Time
}

func newWindow(n int, length time.Duration) *window {
	return &window{n: n, length: length, taken: make(map[string][]time.Time)}
}

func (w *window) take(key string) { w.taken[key] = append(w.taken[key], time.Now()) }

// full reports whether key is used up, and until when, rounded up to a second
// as in the text of a refusal.
func (w *window) full(key string) (time.Time, bool) {
	all := w.taken[key]
	for len(all) > 0 && time.Since(all[0]) >= w.length {
		all = all[1:]
	}
	w.taken[key] = all
	if len(all) < w.n {
		return time.Time{}, false
	}
	return all[len(all)-w.n].Add(w.length + time.Second).Truncate(time.Second), true
}

// least returns the least time for n requests. A nil window allows any number.
func (w *window) least(n int) time.Duration {
	if w == nil {
		return 0
	}
	return time.Duration((n-1)/w.n) * w.length
}

// pause is time.Sleep that ends early when ctx is done.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
