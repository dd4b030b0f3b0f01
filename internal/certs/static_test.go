package certs_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// write writes a certificate to files that are n seconds old.
func write(t testing.TB, p certs.KeyPair, c tls.Certificate, n int) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	require.NoError(t, err)
	for file, block := range map[string]*pem.Block{
		p.CertFile: {Type: "CERTIFICATE", Bytes: c.Certificate[0]},
		p.KeyFile:  {Type: "PRIVATE KEY", Bytes: key},
	} {
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
		old := time.Now().Add(-time.Duration(n) * time.Second)
		require.NoError(t, os.Chtimes(file, old, old))
	}
}

func TestCertificateFilesAreReadAgainWhenTheyChange(t *testing.T) {
	one, _ := proxytest.Certificate(t, "a.example.com")
	two, _ := proxytest.Certificate(t, "a.example.com", "b.example.com")
	dir := t.TempDir()
	pair := certs.KeyPair{CertFile: filepath.Join(dir, "a.crt"), KeyFile: filepath.Join(dir, "a.key")}
	write(t, pair, one, 100)
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		o.Files, o.Logger = []certs.KeyPair{pair}, log.logger(0)
		m, _ := start(t, o, "a.example.com", "b.example.com")
		require.NoError(t, m.Await(t.Context()))
		assert.Equal(t, []string{"b.example.com"}, ca.issued())
		leaf, err := shake(t, m, "a.example.com")
		require.NoError(t, err)
		assert.Equal(t, one.Leaf.SerialNumber, leaf.SerialNumber)

		require.NoError(t, os.WriteFile(pair.CertFile, []byte("half written"), 0o600))
		time.Sleep(time.Minute)
		leaf, err = shake(t, m, "a.example.com")
		require.NoError(t, err)
		assert.Equal(t, one.Leaf.SerialNumber, leaf.SerialNumber, "the old one stays")
		assert.Contains(t, log.String(), "keeping the previous certificate")

		write(t, pair, two, 50)
		time.Sleep(time.Minute)
		for _, host := range []string{"a.example.com", "b.example.com"} {
			leaf, err = shake(t, m, host)
			require.NoError(t, err)
			assert.Equal(t, two.Leaf.SerialNumber, leaf.SerialNumber, host)
		}
		for _, s := range m.Statuses() {
			assert.Equal(t, certs.Static, s.State, "what the files hold is no longer managed")
		}
	})
}

func TestBadFilesAreErrorsAtStart(t *testing.T) {
	r := &routes{}
	_, err := certs.New(certs.Options{
		Hosts: r.all, Knows: r.knows, Storage: newMemStorage(), Logger: (&logBuffer{}).logger(0),
		Files: []certs.KeyPair{{CertFile: "/does/not/exist.crt", KeyFile: "/does/not/exist.key"}},
	})
	require.ErrorContains(t, err, "/does/not/exist.crt")
	require.ErrorIs(t, err, os.ErrNotExist)
}
