package certs

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// The storage keys of a LocalCA's root, and the lock around its creation.
const (
	rootCertKey = "localca/root.crt"
	rootKeyKey  = "localca/root.key"
	rootLock    = "localca_root"
)

const (
	rootLifetime = 10 * 365 * 24 * time.Hour
	rootMinimum  = 30 * 24 * time.Hour // a root with less life left is replaced
	leafLifetime = 12 * time.Hour
	rootPause    = 5 * time.Second  // after a failed load
	rootPatience = 10 * time.Second // for one operation of a storage that no Manager limits
	clockSkew    = 5 * time.Minute  // by which a client's clock may be slow
	maxNames     = 100              // in one request
)

// A LocalCA is a certificate authority for internal names: those of
// hostname.IsInternal and private IP addresses only. Its root certificate
// carries them as critical name constraints and is limited to server
// authentication, so a client that trusts it trusts it for nothing else. A root
// that is already in storage is used as it is. A LocalCA implements
// certmagic.Issuer.
//
// The authority is defined by its Storage: two values over the same storage are
// the same authority. If a loss of the storage has led to two roots, the older
// one stays; a Manager notices within five minutes. The root is created on
// first use, under a lock. Its methods may be called concurrently.
type LocalCA struct {
	// Storage keeps the root certificate and its key. Nil means the storage of
	// Files.
	Storage certmagic.Storage

	mu      sync.Mutex
	loading chan struct{}   // held while loading; nil until used
	bounded *boundedStorage // Storage, once used
	root    *root           // nil until loaded
	err     error           // error of the last load
	again   time.Time       // when to try again
}

// A root is a signing certificate and its key.
type root struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte // of cert
}

// IssuerKey implements certmagic.Issuer.
func (*LocalCA) IssuerKey() string { return "hostproxy-local" }

// Issue implements certmagic.Issuer. The certificate is valid for 12 hours.
func (c *LocalCA) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("local CA: %w", err)
	}
	if err := checkInternal(csr.DNSNames, csr.IPAddresses); err != nil {
		return nil, err
	}
	r, err := c.load(ctx)
	if err != nil {
		return nil, err
	}
	der, err := r.sign(csr.DNSNames, csr.IPAddresses, csr.PublicKey)
	if err != nil {
		return nil, err
	}
	return &certmagic.IssuedCertificate{Certificate: encodeCert(der)}, nil
}

// Mint makes a certificate for one internal name or IP address. It is not
// stored.
func (c *LocalCA) Mint(ctx context.Context, host string) (*tls.Certificate, error) {
	var names []string
	var ips []net.IP
	if ip := net.ParseIP(host); ip != nil {
		ips = []net.IP{ip}
	} else {
		names = []string{host}
	}
	if err := checkInternal(names, ips); err != nil {
		return nil, err
	}
	r, err := c.load(ctx)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := r.sign(names, ips, key.Public())
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// RootPEM returns the root certificate, for trust stores and test clients. It
// creates the authority if needed.
func (c *LocalCA) RootPEM(ctx context.Context) ([]byte, error) {
	r, err := c.load(ctx)
	if err != nil {
		return nil, err
	}
	return r.pem, nil
}

// RootFile returns the path of the file with the root certificate, for example
// for curl --cacert. It creates the authority if needed. It fails if the
// storage does not use files.
func (c *LocalCA) RootFile(ctx context.Context) (string, error) {
	s, err := c.storage()
	if err != nil {
		return "", err
	}
	files, ok := s.backend.(interface{ Filename(key string) string })
	if !ok {
		return "", fmt.Errorf("local CA: storage %s does not keep files: call RootPEM instead", s)
	}
	if _, err := c.load(ctx); err != nil {
		return "", err
	}
	return files.Filename(rootCertKey), nil
}

// load returns the root from memory, from storage, or a new one. It ends with
// ctx, even if storage hangs.
func (c *LocalCA) load(ctx context.Context) (*root, error) {
	loading, r, err := c.known()
	if r != nil || err != nil {
		return r, err
	}
	select {
	case loading <- struct{}{}:
		defer func() { <-loading }()
	case <-ctx.Done():
		return nil, fmt.Errorf("local CA: %w", context.Cause(ctx))
	}
	if _, r, err := c.known(); r != nil || err != nil {
		return r, err // by the previous holder of the slot
	}
	r, err = c.fetch(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.root, c.err = r, nil
		return r, nil
	}
	err = fmt.Errorf("local CA: %w", err)
	if ctx.Err() == nil {
		c.err, c.again = err, time.Now().Add(rootPause)
	}
	return nil, err
}

// known returns the root in memory, or the error of a recent load. If it
// returns neither, the holder of the slot loading must load the root.
func (c *LocalCA) known() (loading chan struct{}, r *root, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.loading == nil {
		c.loading = make(chan struct{}, 1)
	}
	switch {
	case c.root != nil && time.Until(c.root.cert.NotAfter) > rootMinimum:
		return nil, c.root, nil
	case c.err != nil && time.Now().Before(c.again):
		return nil, nil, c.err // a hanging storage delays one handshake, not all
	}
	return c.loading, nil, nil
}

// fetch returns the root from storage, or a new one.
func (c *LocalCA) fetch(ctx context.Context) (*root, error) {
	s, err := c.storage()
	if err != nil {
		return nil, err
	}
	r, err := readRoot(ctx, s)
	if errors.Is(err, fs.ErrNotExist) {
		return createRoot(ctx, s)
	}
	return r, err
}

// storage returns a storage whose operations end with their context.
func (c *LocalCA) storage() (*boundedStorage, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bounded != nil {
		return c.bounded, nil
	}
	s, err := orFiles(c.Storage)
	if err != nil {
		return nil, err
	}
	b, ok := s.(*boundedStorage)
	if !ok {
		b = newBoundedStorage(s, rootPatience)
	}
	c.bounded = b
	return b, nil
}

// restore makes the root in memory and the one in storage the same after
// storage lost its content. The older root stays: clients trust it already, and
// the other was just made by a process that started on the empty storage. It
// does nothing while no root is in memory.
func (c *LocalCA) restore(ctx context.Context, log *slog.Logger) error {
	held := c.held()
	if held == nil {
		return nil
	}
	s, err := c.storage()
	if err != nil {
		return err
	}
	found, err := readRoot(ctx, s)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		found, err = held.storeUnlessThere(ctx, s)
	case err == nil && held.older(found):
		log.Error("storage has a newer root of the local CA; restoring the older one, which clients trust",
			"root", held.cert.Subject.CommonName, "younger", found.cert.Subject.CommonName)
		found, err = held.putBack(ctx, s, found)
	}
	if err == nil && !found.cert.Equal(held.cert) {
		c.adopt(found, log)
	}
	return err
}

// held returns the root in memory, nil if there is none or it expires soon.
func (c *LocalCA) held() *root {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.root == nil || time.Until(c.root.cert.NotAfter) <= rootMinimum {
		return nil
	}
	return c.root
}

// holds returns the number of roots in memory.
func (c *LocalCA) holds() int {
	if c.held() == nil {
		return 0
	}
	return 1
}

// storeUnlessThere stores r, or returns the root that another process has
// stored.
func (r *root) storeUnlessThere(ctx context.Context, s certmagic.Storage) (*root, error) {
	if err := s.Lock(ctx, rootLock); err != nil {
		return nil, fmt.Errorf("lock for the root: %w", err)
	}
	defer func() { _ = s.Unlock(context.WithoutCancel(ctx), rootLock) }()
	if other, err := readRoot(ctx, s); !errors.Is(err, fs.ErrNotExist) {
		return other, err
	}
	return r, r.store(ctx, s)
}

// store stores r. The certificate comes last: it marks the root as complete.
func (r *root) store(ctx context.Context, s certmagic.Storage) error {
	der, err := x509.MarshalPKCS8PrivateKey(r.key)
	if err != nil {
		return err
	}
	if err := s.Store(ctx, rootKeyKey, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return err
	}
	return s.Store(ctx, rootCertKey, r.pem)
}

// createRoot makes a root unless another process does so first.
func createRoot(ctx context.Context, s certmagic.Storage) (*root, error) {
	r, err := newRoot()
	if err != nil {
		return nil, err
	}
	return r.storeUnlessThere(ctx, s)
}

// readRoot returns the root in s, or fs.ErrNotExist if there is none or it
// expires soon.
func readRoot(ctx context.Context, s certmagic.Storage) (*root, error) {
	certPEM, err := s.Load(ctx, rootCertKey)
	if err != nil {
		return nil, err
	}
	keyPEM, err := s.Load(ctx, rootKeyKey)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("the root in storage is damaged (%w): delete %q and %q to get a new one",
			err, rootCertKey, rootKeyKey)
	}
	if time.Until(pair.Leaf.NotAfter) <= rootMinimum {
		return nil, fmt.Errorf("the root expires on %s: %w", pair.Leaf.NotAfter.Format(time.DateOnly), fs.ErrNotExist)
	}
	return &root{cert: pair.Leaf, key: pair.PrivateKey.(crypto.Signer), pem: certPEM}, nil
}

// newRoot makes a root.
func newRoot() (*root, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial := newSerial()
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		// Two roots in one trust store need different names, or clients may
		// pick the wrong one.
		Subject:                     pkix.Name{CommonName: "hostproxy local CA " + hex.EncodeToString(serial.Bytes()[:4])},
		NotBefore:                   now.Add(-clockSkew),
		NotAfter:                    now.Add(rootLifetime),
		KeyUsage:                    x509.KeyUsageCertSign,
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         []string{"localhost", "test", "internal", "local", "home.arpa"},
		PermittedIPRanges:           internalNets(),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &root{cert: cert, key: key, pem: encodeCert(der)}, nil
}

// sign makes a leaf certificate.
func (r *root) sign(names []string, ips []net.IP, public any) ([]byte, error) {
	now := time.Now()
	leaf := &x509.Certificate{
		SerialNumber: newSerial(),
		DNSNames:     names,
		IPAddresses:  ips,
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(leafLifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	return x509.CreateCertificate(rand.Reader, leaf, r.cert, public, r.key)
}

// checkInternal rejects names that the root may not sign.
func checkInternal(names []string, ips []net.IP) error {
	if n := len(names) + len(ips); n == 0 || n > maxNames {
		return fmt.Errorf("local CA: %d names in one certificate: want 1 to %d", n, maxNames)
	}
	const only = "the local CA signs internal names only (localhost, .test, .internal, .local, .home.arpa, private IP addresses)"
	for _, name := range names {
		if !hostname.IsInternal(strings.TrimPrefix(name, "*.")) || net.ParseIP(name) != nil {
			return fmt.Errorf("%q is a public name: %s", name, only)
		}
	}
	nets := internalNets()
	for _, ip := range ips {
		if !slices.ContainsFunc(nets, func(n *net.IPNet) bool { return n.Contains(ip) }) {
			return fmt.Errorf("%q is not a private address: %s", ip, only)
		}
	}
	return nil
}

// internalNets returns the IP ranges of the name constraints.
func internalNets() []*net.IPNet {
	var nets []*net.IPNet
	for _, cidr := range []string{
		"127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10",
		"::1/128", "fc00::/7", "fe80::/10",
	} {
		_, n, err := net.ParseCIDR(cidr)
		if err != nil {
			panic(err) // the input is a literal above
		}
		nets = append(nets, n)
	}
	return nets
}

// newSerial returns 127 random bits with the first byte set, RFC 5280, 4.1.2.2.
func newSerial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b)
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// ipList returns the address of a host in the form of x509, nil if the host is
// not an address.
func ipList(host string) []net.IP {
	if ip := net.ParseIP(host); ip != nil {
		return []net.IP{ip}
	}
	return nil
}
