// Package acmetest runs Pebble, the ACME test server of Let's Encrypt, in the
// test process: real orders and real challenges against real listeners, without
// a network. It is a separate module, so that other modules need neither Pebble
// (MPL-2.0) nor its dependencies.
package acmetest

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/mholt/acmez/v3/acme"
)

// Options configure a CA.
type Options struct {
	// HTTPPort and TLSPort are the ports at which the CA validates HTTP-01 and
	// TLS-ALPN-01 challenges. Zero means that no listener is there.
	HTTPPort, TLSPort int

	// Lifetime is the lifetime of a certificate. Zero means 90 days.
	Lifetime time.Duration

	// EAB holds the keys of external accounts, in base64url, by ID. If there
	// are any, each account must have one.
	EAB map[string]string

	// BadNonces is the percentage of good nonces that the CA rejects, as a
	// decimal number. "" means none.
	BadNonces string

	// Blocked are domains that the CA refuses.
	Blocked []string
}

// A CA is a running Pebble.
type CA struct {
	URL   string         // of its directory
	HTTPS *x509.CertPool // roots for connections to the CA
	PEM   []byte         // the certificate in HTTPS
	Roots *x509.CertPool // roots of issued certificates
	DNS   *DNS           // name server that the CA uses

	options Options
	open    atomic.Int64 // connections

	mu     sync.Mutex
	answer http.Handler // Pebble's handler; Forget replaces it
	manage http.Handler
	down   bool
	seen   map[string]int           // requests by path prefix
	held   map[string]chan struct{} // requests whose path contains the key wait for the channel
	no     map[string]acme.Problem  // answer to requests whose path contains the key
}

// New starts a CA. It ends with the test, except for one goroutine that Pebble
// never ends.
func New(t testing.TB, o Options) *CA {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_AUTHZREUSE", "0")
	nonces := o.BadNonces
	if nonces == "" {
		nonces = "0"
	}
	t.Setenv("PEBBLE_WFE_NONCEREJECT", nonces)

	c := &CA{options: o, DNS: NewDNS(t), HTTPS: x509.NewCertPool(), Roots: x509.NewCertPool(), seen: make(map[string]int), held: make(map[string]chan struct{}), no: make(map[string]acme.Problem)}
	c.begin(t)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(c.serve))
	srv.Config.ConnState = c.count
	srv.StartTLS()
	t.Cleanup(srv.Close)
	c.URL = srv.URL + wfe.DirectoryPath
	c.HTTPS.AddCert(srv.Certificate())
	c.PEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	return c
}

// Forget makes the CA lose its accounts, orders and certificates, like a new
// installation at the same URL. It keeps its DNS, and gets an additional root.
func (c *CA) Forget(t testing.TB) {
	t.Helper()
	c.begin(t)
}

// begin starts a new, empty Pebble at the URL.
func (c *CA) begin(t testing.TB) {
	t.Helper()
	o := c.options
	logger := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	// With several profiles, Pebble picks any.
	profile := map[string]ca.Profile{"default": {Description: "the only one", ValidityPeriod: uint64(o.Lifetime / time.Second)}}
	issuer := ca.New(logger, store, "", "ecdsa", 0, 1, profile)
	for id, key := range o.EAB {
		if err := store.AddExternalAccountKeyByID(id, key); err != nil {
			t.Fatalf("acmetest: external account %q: %v", id, err)
		}
	}
	for _, name := range o.Blocked {
		if err := store.AddBlockedDomain(name); err != nil {
			t.Fatalf("acmetest: blocked domain %q: %v", name, err)
		}
	}
	validator := va.New(logger, o.HTTPPort, o.TLSPort, false, c.DNS.Addr, store)
	front := wfe.New(logger, store, validator, issuer, []string{"pebble.example"}, false, len(o.EAB) > 0, 0, 0)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer, c.manage = front.Handler(), front.ManagementHandler()
	c.Roots.AddCert(issuer.GetRootCert(0).Cert)
}

// Issuer returns a template for the CA.
func (c *CA) Issuer() *certmagic.ACMEIssuer {
	return &certmagic.ACMEIssuer{CA: c.URL, TrustedRoots: c.HTTPS}
}

// Down makes the CA close every connection without an answer.
func (c *CA) Down() { c.setDown(true) }

// Up ends Down.
func (c *CA) Up() { c.setDown(false) }

func (c *CA) setDown(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
}

// Hold makes requests whose path contains part wait for release.
func (c *CA) Hold(part string) (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	gate := make(chan struct{})
	c.held[part] = gate
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.held, part)
		close(gate)
	})
}

// Refuse makes requests whose path contains part fail with p, until end is
// called.
func (c *CA) Refuse(part string, p acme.Problem) (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.no[part] = p
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.no, part)
	}
}

// Conns returns the number of open connections.
func (c *CA) Conns() int { return int(c.open.Load()) }

func (c *CA) count(_ net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		c.open.Add(1)
	case http.StateClosed, http.StateHijacked:
		c.open.Add(-1)
	}
}

// Seen returns the number of requests whose path contained part.
func (c *CA) Seen(part string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for path, k := range c.seen {
		if strings.Contains(path, part) {
			n += k
		}
	}
	return n
}

// SuggestRenewal makes the CA suggest a renewal of leaf between two times (RFC
// 9773).
func (c *CA) SuggestRenewal(t testing.TB, leaf *x509.Certificate, from, to time.Time) {
	t.Helper()
	window, err := json.Marshal(map[string]any{"suggestedWindow": map[string]time.Time{"start": from, "end": to}})
	if err != nil {
		t.Fatalf("acmetest: %v", err)
	}
	body, err := json.Marshal(map[string]string{
		"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})),
		"ariResponse": string(window),
	})
	if err != nil {
		t.Fatalf("acmetest: %v", err)
	}
	w := httptest.NewRecorder()
	q := httptest.NewRequest("POST", "/set-renewal-info/", bytes.NewReader(body))
	q.Header.Set("User-Agent", "acmetest") // Pebble requires one
	c.manage.ServeHTTP(w, q)
	if w.Code != http.StatusOK {
		t.Fatalf("acmetest: set renewal info: %d %s", w.Code, w.Body)
	}
}

func (c *CA) serve(w http.ResponseWriter, q *http.Request) {
	c.mu.Lock()
	down, answer := c.down, c.answer
	c.seen[q.URL.Path]++
	var gate chan struct{}
	for part, g := range c.held {
		if strings.Contains(q.URL.Path, part) {
			gate = g
		}
	}
	var refusal *acme.Problem
	for part, p := range c.no {
		if strings.Contains(q.URL.Path, part) {
			refusal = &p
		}
	}
	c.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-q.Context().Done():
			return
		}
	}
	if down {
		panic(http.ErrAbortHandler)
	}
	if refusal != nil {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(refusal.Status)
		_ = json.NewEncoder(w).Encode(refusal)
		return
	}
	answer.ServeHTTP(w, q)
}
