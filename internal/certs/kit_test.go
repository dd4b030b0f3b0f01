package certs_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"math/big"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A memStorage is a certmagic.Storage in memory that counts operations, and can
// be made to fail or hang.
type memStorage struct {
	mu    sync.Mutex
	files map[string][]byte
	locks map[string]chan struct{} // closed when free

	reads, writes atomic.Int64
	now, most     atomic.Int64                                 // operations in flight
	before        atomic.Pointer[func(verb, key string) error] // runs before each operation
}

func newMemStorage() *memStorage {
	return &memStorage{files: make(map[string][]byte), locks: make(map[string]chan struct{})}
}

func (s *memStorage) hook(f func(verb, key string) error) { s.before.Store(&f) }

func (s *memStorage) enter(verb, key string) error {
	n := s.now.Add(1)
	defer s.now.Add(-1)
	for {
		most := s.most.Load()
		if n <= most || s.most.CompareAndSwap(most, n) {
			break
		}
	}
	if f := s.before.Load(); f != nil {
		return (*f)(verb, key)
	}
	return nil
}

func (s *memStorage) Store(_ context.Context, key string, value []byte) error {
	s.writes.Add(1)
	if err := s.enter("store", key); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[key] = slices.Clone(value)
	return nil
}

func (s *memStorage) Load(_ context.Context, key string) ([]byte, error) {
	s.reads.Add(1)
	if err := s.enter("load", key); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.files[key]
	if !ok {
		return nil, fmt.Errorf("%s: %w", key, fs.ErrNotExist)
	}
	return slices.Clone(b), nil
}

func (s *memStorage) Delete(_ context.Context, key string) error {
	if err := s.enter("delete", key); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// a file: most keys are
	if ext := path.Ext(key); ext == ".json" || ext == ".crt" || ext == ".key" {
		delete(s.files, key)
		return nil
	}
	for k := range s.files {
		if k == key || strings.HasPrefix(k, key+"/") {
			delete(s.files, k)
		}
	}
	return nil
}

func (s *memStorage) Exists(_ context.Context, key string) bool {
	s.reads.Add(1)
	if s.enter("exists", key) != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.files {
		if k == key || strings.HasPrefix(k, key+"/") {
			return true
		}
	}
	return false
}

func (s *memStorage) List(_ context.Context, prefix string, _ bool) ([]string, error) {
	if err := s.enter("list", prefix); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for k := range s.files {
		if strings.HasPrefix(k, prefix+"/") {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

func (s *memStorage) Stat(_ context.Context, key string) (certmagic.KeyInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.files[key]
	if !ok {
		return certmagic.KeyInfo{}, fs.ErrNotExist
	}
	return certmagic.KeyInfo{Key: key, Size: int64(len(b)), IsTerminal: true}, nil
}

func (s *memStorage) Lock(ctx context.Context, name string) error {
	if err := s.enter("lock", name); err != nil {
		return err
	}
	for {
		s.mu.Lock()
		free, taken := s.locks[name]
		if !taken {
			s.locks[name] = make(chan struct{})
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *memStorage) Unlock(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	free, taken := s.locks[name]
	if !taken {
		return errors.New("not locked")
	}
	close(free)
	delete(s.locks, name)
	return nil
}

func (s *memStorage) locked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range s.locks {
		names = append(names, name)
	}
	return names
}

// damage overwrites the value under a key with that suffix.
func (s *memStorage) damage(t *testing.T, suffix string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.files {
		if strings.HasSuffix(k, suffix) {
			s.files[k] = []byte("damaged")
			return
		}
	}
	require.Fail(t, "nothing to damage", path.Base(suffix))
}

// A fakeIssuer is a certmagic.Issuer in memory.
type fakeIssuer struct {
	key  string
	life time.Duration
	// age of new certificates
	age    time.Duration
	before atomic.Pointer[func(ctx context.Context, host string) error] // runs first in Issue

	ca     *x509.Certificate
	signer *ecdsa.PrivateKey

	mu        sync.Mutex
	calls     []string
	serials   int // of certificates; counted separately from calls
	now, most int
}

func newIssuer(t testing.TB, key string, life time.Duration) *fakeIssuer {
	t.Helper()
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: key}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour * 24), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, signer.Public(), signer)
	require.NoError(t, err)
	ca, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	return &fakeIssuer{key: key, life: life, ca: ca, signer: signer}
}

func (i *fakeIssuer) IssuerKey() string { return i.key }

func (i *fakeIssuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	host := ""
	if len(csr.DNSNames) > 0 {
		host = csr.DNSNames[0]
	} else {
		host = csr.IPAddresses[0].String()
	}
	i.mu.Lock()
	i.calls = append(i.calls, host)
	i.now++
	i.most = max(i.most, i.now)
	i.serials++
	serial := big.NewInt(int64(1000 + i.serials))
	i.mu.Unlock()
	defer func() {
		i.mu.Lock()
		i.now--
		i.mu.Unlock()
	}()
	if f := i.before.Load(); f != nil {
		if err := (*f)(ctx, host); err != nil {
			return nil, err
		}
	}
	leaf := &x509.Certificate{
		SerialNumber: serial, DNSNames: csr.DNSNames, IPAddresses: csr.IPAddresses,
		NotBefore: time.Now().Truncate(time.Second).Add(-i.age), NotAfter: time.Now().Truncate(time.Second).Add(i.life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, i.ca, csr.PublicKey, i.signer)
	if err != nil {
		return nil, err
	}
	return &certmagic.IssuedCertificate{Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

// hook makes f run first in Issue.
func (i *fakeIssuer) hook(f func(ctx context.Context, host string) error) { i.before.Store(&f) }

func (i *fakeIssuer) unhook() { i.before.Store(nil) }

func (i *fakeIssuer) issued() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.calls)
}

// width returns the highest number of concurrent calls.
func (i *fakeIssuer) width() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.most
}

func (i *fakeIssuer) count(host string) int {
	n := 0
	for _, h := range i.issued() {
		if h == host {
			n++
		}
	}
	return n
}

// routes are the hosts of a simulated router.
type routes struct {
	mu    sync.Mutex
	hosts []string
	has   map[string]bool
	m     *certs.Manager
	scans atomic.Int64
	looks atomic.Int64 // calls of wants
}

func routesOf(hosts ...string) *routes {
	r := new(routes)
	r.assign(hosts)
	return r
}

func (r *routes) assign(hosts []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hosts, r.has = hosts, make(map[string]bool, len(hosts))
	for _, h := range hosts {
		r.has[h] = true
	}
}

func (r *routes) all() iter.Seq[string] {
	r.scans.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Values(slices.Clone(r.hosts))
}

func (r *routes) knows(host string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, after, ok := strings.Cut(host, ".")
	return r.has[host] || r.has["*"] || ok && r.has["*."+after]
}

func (r *routes) wants(pattern string) bool {
	r.looks.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.has[pattern]
}

// set replaces all hosts, and reports that anything may have changed.
func (r *routes) set(hosts ...string) {
	r.assign(hosts)
	if r.m != nil {
		r.m.Changed()
	}
}

// add adds hosts, and reports their names.
func (r *routes) add(hosts ...string) {
	r.mu.Lock()
	all := append(slices.Clone(r.hosts), hosts...)
	r.mu.Unlock()
	r.assign(all)
	r.m.Changed(hosts...)
}

// remove removes hosts, and reports their names.
func (r *routes) remove(hosts ...string) {
	r.mu.Lock()
	all := slices.DeleteFunc(slices.Clone(r.hosts), func(h string) bool { return slices.Contains(hosts, h) })
	r.mu.Unlock()
	r.assign(all)
	r.m.Changed(hosts...)
}

// start starts a Manager for hosts, with o and, by default, storage in memory.
// It is closed when the test ends.
func start(t testing.TB, o certs.Options, hosts ...string) (*certs.Manager, *routes) {
	t.Helper()
	m, r := startOnce(t, o, hosts...)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m, r
}

// startOnce is start, but the caller closes the Manager.
func startOnce(t testing.TB, o certs.Options, hosts ...string) (*certs.Manager, *routes) {
	t.Helper()
	r := routesOf(hosts...)
	o.Hosts, o.Wants, o.Knows = r.all, r.wants, r.knows
	switch o.Storage {
	case nil:
		o.Storage = newMemStorage()
	case inHome:
		o.Storage = nil
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := certs.New(o)
	require.NoError(t, err)
	r.m = m
	m.Start(0)
	return m, r
}

// shake makes a TLS handshake with m over a pipe and returns the certificate
// that the client saw.
func shake(t testing.TB, m *certs.Manager, sni string, protos ...string) (*x509.Certificate, error) {
	t.Helper()
	return shakeContext(t.Context(), t, m, sni, protos...)
}

// shakeContext is shake with a context for the server's side.
func shakeContext(ctx context.Context, t testing.TB, m *certs.Manager, sni string, protos ...string) (*x509.Certificate, error) {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer server.Close()
		_ = tls.Server(server, &tls.Config{GetCertificate: m.GetCertificate, NextProtos: protos}).HandshakeContext(ctx)
	}()
	c := tls.Client(client, &tls.Config{
		ServerName: sni, InsecureSkipVerify: true, NextProtos: protos,
		CurvePreferences: []tls.CurveID{tls.CurveP256}, // cheaper than the hybrid exchange
	})
	err := c.Handshake()
	client.Close()
	<-done
	if err != nil {
		return nil, err
	}
	return c.ConnectionState().PeerCertificates[0], nil
}

// inHome means no storage: start would replace nil by storage in memory.
var inHome certmagic.Storage = &certmagic.FileStorage{Path: "stands for none"}

// chosen returns a hook that answers from a map.
func chosen(hosts map[string]certs.Choice) func(string) (certs.Choice, error) {
	return func(pattern string) (certs.Choice, error) { return hosts[pattern], nil }
}

// issuedBy returns a hook that sets the issuers of some hosts.
func issuedBy(issuers map[string]certmagic.Issuer) func(string) (certs.Choice, error) {
	return func(pattern string) (certs.Choice, error) { return certs.Choice{Issuer: issuers[pattern]}, nil }
}

func names(format string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(format, i)
	}
	return all
}

// A logBuffer is a destination for slog that tests can read at the same time.
type logBuffer struct{ proxytest.Log }

func (b *logBuffer) logger(l slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: l}))
}

func day(n float64) time.Duration { return time.Duration(n * float64(24*time.Hour)) }

// failing returns a hook that fails.
func failing(why string) func(context.Context, string) error {
	return func(context.Context, string) error { return errors.New(why) }
}

// absent reports whether no value is stored under key.
func (s *memStorage) absent(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.files[key]
	return !ok
}

// encode returns one PEM block.
func encode(typ string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
}
