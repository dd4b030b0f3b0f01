package hostproxy_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/hostproxy/hostproxy"
)

// A testCA is an issuer for tests, which signs any name.
type testCA struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newTestCA() (*testCA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	c := &testCA{&x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}, key}
	der, err := c.sign(c.root, key.Public())
	c.root.Raw = der
	return c, err
}

func (c *testCA) sign(cert *x509.Certificate, public any) ([]byte, error) {
	return x509.CreateCertificate(rand.Reader, cert, c.root, public, c.key)
}

func (*testCA) IssuerKey() string { return "test" }

func (c *testCA) Issue(_ context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	der, err := c.sign(&x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: csr.DNSNames,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}, csr.PublicKey)
	return &certmagic.IssuedCertificate{Certificate: toPEM(der)}, err
}

func toPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Customers bring their own domains, and each gets a certificate with its first
// handshake. A LocalCA signs no public names, so the test has a small issuer of
// its own. In a test, use t.TempDir and t.Cleanup.
func Example_onDemand() {
	ca, err := newTestCA()
	if err != nil {
		fmt.Println(err)
		return
	}
	dir, _ := os.MkdirTemp("", "")
	defer os.RemoveAll(dir)
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	r.TLS.Storage, r.TLS.Issuer = &certmagic.FileStorage{Path: dir}, ca
	r.TLS.HostPolicy = func(_ context.Context, host string) error {
		if host != "bob.net" {
			return hostproxy.ErrHostNotAllowed
		}
		return nil
	}
	r.Handle("*", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, "hello ", q.Host) }))

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- (&hostproxy.Server{Router: &r}).Serve(ctx, ln, nil) }()
	client := trusting(toPEM(ca.root.Raw), ln.Addr().String())
	for _, url := range []string{"https://bob.net/", "https://eve.net/"} {
		res, err := client.Get(url)
		if err != nil {
			fmt.Println(errors.Unwrap(err))
			continue
		}
		fmt.Println(res.Status, res.TLS.PeerCertificates[0].DNSNames)
		res.Body.Close()
	}
	client.CloseIdleConnections()
	stop()
	fmt.Println(<-done)
	// Output:
	// 200 OK [bob.net]
	// remote error: tls: unrecognized name
	// <nil>
}
