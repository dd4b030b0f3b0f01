package certs_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// rootPair returns the root of the local CA in storage, and its key.
func rootPair(t testing.TB, storage *memStorage) tls.Certificate {
	t.Helper()
	certPEM, err := storage.Load(t.Context(), "localca/root.crt")
	require.NoError(t, err)
	keyPEM, err := storage.Load(t.Context(), "localca/root.key")
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	require.NoError(t, err)
	return pair
}

func TestANewRootIsLimitedToServerAuthentication(t *testing.T) {
	storage := newMemStorage()
	ca := &certs.LocalCA{Storage: storage}
	_, err := ca.RootPEM(t.Context())
	require.NoError(t, err)
	pair := rootPair(t, storage)
	assert.Equal(t, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, pair.Leaf.ExtKeyUsage)

	roots := x509.NewCertPool()
	roots.AddCert(pair.Leaf)
	for usage, ok := range map[x509.ExtKeyUsage]bool{
		x509.ExtKeyUsageServerAuth:      true,
		x509.ExtKeyUsageClientAuth:      false,
		x509.ExtKeyUsageCodeSigning:     false,
		x509.ExtKeyUsageEmailProtection: false,
	} {
		csr := request(t, "a.localhost")
		leaf := &x509.Certificate{
			SerialNumber: pair.Leaf.SerialNumber, DNSNames: csr.DNSNames, ExtKeyUsage: []x509.ExtKeyUsage{usage},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		}
		der, err := x509.CreateCertificate(rand.Reader, leaf, pair.Leaf, csr.PublicKey, pair.PrivateKey)
		require.NoError(t, err)
		forged, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		_, err = forged.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}})
		assert.Equal(t, ok, err == nil, "usage %d: %v", usage, err)
	}
}

// Certificates of a constrained root are accepted by clients other than Go's.
func TestOpenSSLAcceptsTheLocalCA(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl here")
	}
	ca := &certs.LocalCA{Storage: newMemStorage()}
	rootPEM, err := ca.RootPEM(t.Context())
	require.NoError(t, err)
	issued, err := ca.Issue(t.Context(), request(t, "a.localhost"))
	require.NoError(t, err)
	dir := t.TempDir()
	root, leaf := filepath.Join(dir, "root.pem"), filepath.Join(dir, "leaf.pem")
	require.NoError(t, os.WriteFile(root, rootPEM, 0o600))
	require.NoError(t, os.WriteFile(leaf, issued.Certificate, 0o600))
	verify := func(purpose string) error {
		return exec.CommandContext(t.Context(), openssl, "verify", "-x509_strict", "-purpose", purpose,
			"-verify_hostname", "a.localhost", "-CAfile", root, leaf).Run()
	}
	assert.NoError(t, verify("sslserver"))
	assert.Error(t, verify("sslclient"))
}

// Clients trust a root by its bytes: an existing root stays, even if it lacks
// something.
func TestAStoredRootIsKeptAsItIs(t *testing.T) {
	storage := newMemStorage()
	_, err := (&certs.LocalCA{Storage: storage}).RootPEM(t.Context())
	require.NoError(t, err)
	pair := rootPair(t, storage)
	old := *pair.Leaf
	old.ExtKeyUsage = nil
	old.ExtraExtensions, old.Extensions = nil, nil
	der, err := x509.CreateCertificate(rand.Reader, &old, &old, pair.Leaf.PublicKey, pair.PrivateKey)
	require.NoError(t, err)
	certPEM := encode("CERTIFICATE", der)
	require.NoError(t, storage.Store(context.Background(), "localca/root.crt", certPEM))

	ca := &certs.LocalCA{Storage: storage}
	got, err := ca.RootPEM(t.Context())
	require.NoError(t, err)
	assert.Equal(t, string(certPEM), string(got))
	_, err = ca.Mint(t.Context(), "a.localhost")
	require.NoError(t, err)
	now, err := storage.Load(t.Context(), "localca/root.crt")
	require.NoError(t, err)
	assert.Equal(t, string(certPEM), string(now))
}

// If storage hangs, a caller that gives up returns.
func TestCallersOfTheLocalCAReturnWhenTheirContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage, release := newMemStorage(), make(chan struct{})
		storage.hook(func(string, string) error { <-release; return nil })
		ca := &certs.LocalCA{Storage: storage}
		begin := time.Now()
		left := make(chan time.Duration, 10)
		for range 10 {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := ca.RootPEM(ctx)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				left <- time.Since(begin)
			}()
		}
		for range 10 {
			assert.Equal(t, time.Second, <-left)
		}
		_, err := ca.RootPEM(context.Background())
		require.ErrorContains(t, err, "no response in time", "and without a context of its own it ends too")
		close(release)
		time.Sleep(time.Minute)
		_, err = ca.RootPEM(t.Context())
		require.NoError(t, err)
	})
}

// A caller that gives up does not affect those that wait behind it.
func TestALocalCAIsMadeByTheNextCallerIfTheFirstGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemStorage()
		var slow atomic.Bool
		slow.Store(true)
		storage.hook(func(string, string) error {
			if slow.Load() {
				time.Sleep(5 * time.Second)
			}
			return nil
		})
		ca := &certs.LocalCA{Storage: storage}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() { _, _ = ca.RootPEM(ctx) }()
		synctest.Wait()
		second := make(chan error, 1)
		go func() {
			_, err := ca.RootPEM(t.Context())
			second <- err
		}()
		<-ctx.Done()
		slow.Store(false)
		require.NoError(t, <-second)
		time.Sleep(5 * time.Second) // until the first one's call ends
	})
}

// An operator gets a new root by deleting the old one and restarting.
func TestCertificatesOfADeletedRootAreReplacedAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemStorage()
		o := with(newIssuer(t, "ca", day(90)))
		o.Storage = storage
		m, _ := startOnce(t, o, "app.localhost")
		require.NoError(t, m.Await(t.Context()))
		require.NoError(t, m.Close())
		require.NoError(t, storage.Delete(t.Context(), "localca/root.crt"))
		require.NoError(t, storage.Delete(t.Context(), "localca/root.key"))

		m, _ = startOnce(t, o, "app.localhost")
		time.Sleep(time.Second)
		roots := x509.NewCertPool()
		roots.AddCert(rootPair(t, storage).Leaf)
		first, err := shake(t, m, "app.localhost")
		require.NoError(t, err)
		_, err = first.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: time.Now()})
		require.NoError(t, err)
		require.NoError(t, m.Close())

		m, _ = start(t, o, "app.localhost")
		require.NoError(t, m.Await(t.Context()))
		time.Sleep(time.Hour)
		again, err := shake(t, m, "app.localhost")
		require.NoError(t, err)
		assert.Equal(t, first.SerialNumber, again.SerialNumber, "a restart alone replaces nothing")
	})
}
