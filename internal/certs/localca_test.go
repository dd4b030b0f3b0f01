package certs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// request makes a CSR like certmagic's.
func request(t testing.TB, names ...string) *x509.CertificateRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := new(x509.CertificateRequest)
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	require.NoError(t, err)
	csr, err := x509.ParseCertificateRequest(der)
	require.NoError(t, err)
	return csr
}

func parse(t testing.TB, b []byte) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(b)
	require.NotNil(t, block)
	require.Empty(t, rest)
	cert, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	return cert
}

func TestTheLocalCASignsInternalNamesForTwelveHours(t *testing.T) {
	ca := &certs.LocalCA{Storage: newMemStorage()}
	rootPEM, err := ca.RootPEM(t.Context())
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(parse(t, rootPEM))
	for _, name := range []string{
		"localhost", "a.localhost", "shop.test", "a.b.internal", "printer.local", "nas.home.arpa",
		"*.dev.test", "127.0.0.1", "10.1.2.3", "192.168.1.1", "100.64.0.1", "::1", "fd00::1", "fe80::1",
	} {
		issued, err := ca.Issue(t.Context(), request(t, name))
		require.NoError(t, err, name)
		leaf := parse(t, issued.Certificate)
		host := name
		if name == "*.dev.test" {
			host = "x.dev.test"
		}
		_, err = leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots})
		assert.NoError(t, err, name)
		assert.InDelta(t, 12*time.Hour, time.Until(leaf.NotAfter), float64(time.Minute))
		assert.False(t, leaf.IsCA)
	}
	for _, name := range []string{"example.com", "localhost.example.com", "evil-localhost", "8.8.8.8", "203.0.113.1", "2001:4860::8888", "*.com"} {
		_, err := ca.Issue(t.Context(), request(t, name))
		assert.ErrorContains(t, err, "the local CA signs internal names only", name)
		_, err = ca.Mint(t.Context(), name)
		assert.Error(t, err, name)
	}
	_, err = ca.Issue(t.Context(), request(t))
	assert.ErrorContains(t, err, "0 names")
}

// A stolen root key can sign internal names only.
func TestTheRootOfTheLocalCAIsConstrained(t *testing.T) {
	storage := newMemStorage()
	ca := &certs.LocalCA{Storage: storage}
	rootPEM, err := ca.RootPEM(t.Context())
	require.NoError(t, err)
	root := parse(t, rootPEM)
	assert.True(t, root.IsCA)
	assert.True(t, root.MaxPathLenZero)
	assert.True(t, root.PermittedDNSDomainsCritical)
	keyPEM, err := storage.Load(t.Context(), "localca/root.key")
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(rootPEM, keyPEM)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(root)
	for name, ok := range map[string]bool{"a.localhost": true, "10.0.0.1": true, "example.com": false, "8.8.8.8": false} {
		csr := request(t, name)
		leaf := &x509.Certificate{
			SerialNumber: root.SerialNumber, DNSNames: csr.DNSNames, IPAddresses: csr.IPAddresses,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		}
		der, err := x509.CreateCertificate(rand.Reader, leaf, root, csr.PublicKey, pair.PrivateKey)
		require.NoError(t, err)
		forged, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		_, err = forged.Verify(x509.VerifyOptions{DNSName: name, Roots: roots})
		assert.Equal(t, ok, err == nil, "%s: %v", name, err)
	}
}

func TestLocalCAsWithOneStorageShareOneRoot(t *testing.T) {
	storage := newMemStorage()
	var wg sync.WaitGroup
	roots := make([]string, 16)
	for i := range roots {
		wg.Go(func() {
			b, err := (&certs.LocalCA{Storage: storage}).RootPEM(t.Context())
			assert.NoError(t, err)
			roots[i] = string(b)
		})
	}
	wg.Wait()
	for _, r := range roots {
		assert.Equal(t, roots[0], r)
	}
	assert.Empty(t, storage.locked())
}

func TestARootIsReplacedBeforeItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := &certs.LocalCA{Storage: newMemStorage()}
		first, err := ca.RootPEM(t.Context())
		require.NoError(t, err)
		time.Sleep(day(3650 - 31))
		same, err := ca.RootPEM(t.Context())
		require.NoError(t, err)
		assert.Equal(t, first, same)
		time.Sleep(day(2))
		second, err := ca.RootPEM(t.Context())
		require.NoError(t, err)
		assert.NotEqual(t, parse(t, first).Subject.CommonName, parse(t, second).Subject.CommonName)
		again, err := ca.RootPEM(t.Context())
		require.NoError(t, err)
		assert.Equal(t, second, again)
	})
}

func TestADamagedRootSaysWhatToDo(t *testing.T) {
	storage := newMemStorage()
	_, err := (&certs.LocalCA{Storage: storage}).RootPEM(t.Context())
	require.NoError(t, err)
	storage.damage(t, "root.key")
	_, err = (&certs.LocalCA{Storage: storage}).RootPEM(t.Context())
	assert.ErrorContains(t, err, `delete "localca/root.crt"`)
}

func TestAStorageThatFailsIsNotAskedByEveryHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemStorage()
		storage.hook(func(string, string) error { return errors.New("no disk") })
		ca := &certs.LocalCA{Storage: storage}
		for range 100 {
			_, err := ca.Mint(t.Context(), "a.localhost")
			require.ErrorContains(t, err, "no disk")
		}
		assert.Equal(t, int64(1), storage.reads.Load())
		storage.hook(func(string, string) error { return nil })
		time.Sleep(6 * time.Second)
		_, err := ca.Mint(t.Context(), "a.localhost")
		require.NoError(t, err)
	})
}

func TestRootFileIsThePathOfTheRootInTheStorage(t *testing.T) {
	s := inFiles{newMemStorage()}
	path, err := (&certs.LocalCA{Storage: certs.Bounded(s, time.Second)}).RootFile(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "/data/localca/root.crt", path)
	assert.True(t, s.Exists(t.Context(), "localca/root.crt"), "it is there by then")

	_, err = (&certs.LocalCA{Storage: newMemStorage()}).RootFile(t.Context())
	assert.ErrorContains(t, err, "does not keep files")
}

// inFiles returns file names, like certmagic.FileStorage.
type inFiles struct{ *memStorage }

func (inFiles) Filename(key string) string { return "/data/" + key }
