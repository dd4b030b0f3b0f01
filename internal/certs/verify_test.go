package certs_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// A chainIssuer is a fakeIssuer whose certificates come with an intermediate,
// unless edit changes the chain.
type chainIssuer struct {
	*fakeIssuer
	root  *x509.Certificate
	inter []byte // PEM
	edit  func(chain []byte) []byte
}

func newChainIssuer(t testing.TB) *chainIssuer {
	t.Helper()
	i := &chainIssuer{fakeIssuer: newIssuer(t, "ca", day(90))}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	inter := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "intermediate"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(day(1000)), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, inter, i.ca, key.Public(), i.signer)
	require.NoError(t, err)
	i.root, i.inter = i.ca, encode("CERTIFICATE", der)
	i.ca, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	i.signer = key
	return i
}

func (i *chainIssuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	issued, err := i.fakeIssuer.Issue(ctx, csr)
	if err == nil {
		issued.Certificate = append(issued.Certificate, i.inter...)
		if i.edit != nil {
			issued.Certificate = i.edit(issued.Certificate)
		}
	}
	return issued, err
}

const (
	siteCert = "certificates/ca/a.example.com/a.example.com.crt"
	siteKey  = "certificates/ca/a.example.com/a.example.com.key"
	siteMeta = "certificates/ca/a.example.com/a.example.com.json"
)

// change rewrites the value under key.
func (s *memStorage) change(t testing.TB, key string, by func([]byte) []byte) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.files[key]
	require.True(t, ok, key)
	s.files[key] = by(bytes.Clone(old))
}

func (s *memStorage) content(key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.files[key])
}

func firstBlock(b []byte) []byte {
	_, rest := pem.Decode(b)
	return b[:len(b)-len(rest)]
}

// otherKey returns a good key that does not belong to the certificate.
func otherKey(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	b, err := certmagic.PEMEncodePrivateKey(key)
	require.NoError(t, err)
	return b
}

func TestABadCertificateInStorageIsObtainedAnew(t *testing.T) {
	stranger := newIssuer(t, "stranger", day(90))
	for name, c := range map[string]struct {
		key string
		by  func([]byte) []byte
	}{
		"trailing garbage":        {siteCert, func(b []byte) []byte { return append(b, "\x00\x00\x00garbage"...) }},
		"an intermediate cut off": {siteCert, firstBlock},
		"a block cut in two":      {siteCert, func(b []byte) []byte { return b[:len(b)-300] }},
		"another intermediate":    {siteCert, func(b []byte) []byte { return append(firstBlock(b), encode("CERTIFICATE", stranger.ca.Raw)...) }},
		"a flipped bit": {siteCert, func(b []byte) []byte {
			block, rest := pem.Decode(b)
			block.Bytes[len(block.Bytes)-9] ^= 1 // in the signature
			return append(encode("CERTIFICATE", block.Bytes), rest...)
		}},
		"another key": {siteKey, func([]byte) []byte { return otherKey(t) }},
		"half a key":  {siteKey, func(b []byte) []byte { return b[:len(b)/2] }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newChainIssuer(t)
				o := with(ca)
				storage := newMemStorage()
				o.Storage = storage
				m, _ := start(t, o, "a.example.com")
				require.NoError(t, m.Await(t.Context()))
				require.NoError(t, m.Close())

				storage.change(t, c.key, c.by)
				again, _ := start(t, o, "a.example.com")
				require.NoError(t, again.Await(t.Context()))
				assert.Len(t, ca.issued(), 2)
				verifyShake(t, again, ca.root)
				time.Sleep(day(1))
				assert.Len(t, ca.issued(), 2)
			})
		})
	}
}

// verifyShake makes a handshake like a client that knows only the root.
func verifyShake(t testing.TB, m *certs.Manager, root *x509.Certificate) {
	t.Helper()
	cert, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: "a.example.com"})
	require.NoError(t, err)
	roots, inters := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	for _, der := range cert.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		inters.AddCert(c)
	}
	_, err = cert.Leaf.Verify(x509.VerifyOptions{DNSName: "a.example.com", Roots: roots, Intermediates: inters, CurrentTime: time.Now()})
	assert.NoError(t, err)
}

// What a CA really issues is not damage, however odd: it is ordered once.
func TestAnOddCertificateThatACAReallyIssuesIsOrderedOnce(t *testing.T) {
	stranger := newIssuer(t, "stranger", day(90))
	for name, edit := range map[string]func([]byte) []byte{
		"a leaf alone":      firstBlock,
		"text at the end":   func(b []byte) []byte { return append(b, "issued by hand"...) },
		"text before":       func(b []byte) []byte { return append([]byte("subject=a\n"), b...) },
		"an unrelated root": func(b []byte) []byte { return append(b, encode("CERTIFICATE", stranger.ca.Raw)...) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newChainIssuer(t)
				ca.edit = edit
				o := with(ca)
				o.Storage = newMemStorage()
				hosts := []string{"a.example.com", "b.example.com", "c.example.com"}
				for range 3 { // restarts
					m, _ := start(t, o, hosts...)
					require.NoError(t, m.Await(t.Context()))
					time.Sleep(time.Hour)
					require.NoError(t, m.Close())
				}
				assert.Len(t, ca.issued(), len(hosts))
			})
		})
	}
}

// After an upgrade, no shape is known. The first certificate shows it.
func TestAShorterChainThanBeforeIsAcceptedFromACA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newChainIssuer(t)
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		ca.edit = firstBlock
		time.Sleep(day(64))
		require.Len(t, ca.issued(), 2)
		require.NoError(t, m.Close())
		again, _ := start(t, o, "a.example.com")
		require.NoError(t, again.Await(t.Context()))
		assert.Len(t, ca.issued(), 2)
	})
}

func TestAGoodPairWithoutMetadataIsServedAndItsMetadataRepaired(t *testing.T) {
	t.Parallel()
	for name, by := range map[string]func(*memStorage){
		"missing": func(s *memStorage) { _ = s.Delete(context.Background(), siteMeta) },
		"damaged": func(s *memStorage) { _ = s.Store(context.Background(), siteMeta, []byte(`{"sans":`)) },
		"empty":   func(s *memStorage) { _ = s.Store(context.Background(), siteMeta, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newChainIssuer(t)
				o := with(ca)
				storage := newMemStorage()
				o.Storage = storage
				m, _ := start(t, o, "a.example.com")
				require.NoError(t, m.Await(t.Context()))
				require.NoError(t, m.Close())

				by(storage)
				ca.hook(failing("the CA is down"))
				again, _ := start(t, o, "a.example.com")
				require.NoError(t, again.Await(t.Context()))
				verifyShake(t, again, ca.root)
				var meta certmagic.CertificateResource
				require.NoError(t, json.Unmarshal([]byte(storage.content(siteMeta)), &meta))
				assert.Equal(t, []string{"a.example.com"}, meta.SANs)
				synctest.Wait() // the storage's identity is set under a lock
				assert.Empty(t, storage.locked())

				ca.unhook()
				time.Sleep(day(64))
				assert.Len(t, ca.issued(), 2, "certmagic renews by it")
			})
		})
	}
}

// Another process is writing its first certificate for the host and has not
// written the metadata yet. Ours must not replace its metadata.
func TestMetadataThatAnotherProcessIsWritingIsLeftToIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := &adviser{fakeIssuer: newIssuer(t, "ca", day(90))}
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		require.NoError(t, m.Close())
		meta := strings.Replace(storage.content(siteMeta), `"url": ""`, `"url": "of the other process"`, 1)
		require.Contains(t, meta, "of the other process")

		require.NoError(t, storage.Delete(t.Context(), siteMeta))
		require.NoError(t, storage.Lock(t.Context(), "issue_cert_a.example.com"))
		again, _ := start(t, o, "a.example.com")
		time.Sleep(2 * time.Second)
		require.NoError(t, storage.Store(t.Context(), siteMeta, []byte(meta)))
		require.NoError(t, storage.Unlock(t.Context(), "issue_cert_a.example.com"))
		require.NoError(t, again.Await(t.Context()))
		synctest.Wait()
		assert.Contains(t, storage.content(siteMeta), "of the other process")
		assert.Len(t, ca.issued(), 1)
	})
}

// A certificate whose metadata cannot be repaired now is still served.
func TestAPairIsServedEvenIfItsMetadataStaysDamaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newChainIssuer(t)
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		require.NoError(t, m.Close())

		require.NoError(t, storage.Store(t.Context(), siteMeta, []byte("?")))
		storage.hook(func(verb, _ string) error {
			if verb == "store" {
				return errors.New("read-only")
			}
			return nil
		})
		again, _ := start(t, o, "a.example.com")
		require.NoError(t, again.Await(t.Context()))
		verifyShake(t, again, ca.root)
		assert.Len(t, ca.issued(), 1)
	})
}

// A writer has stored its new key and is about to store the certificate.
func TestAPairThatIsBeingWrittenIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newChainIssuer(t)
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		require.NoError(t, m.Close())
		good := storage.content(siteKey)

		storage.change(t, siteKey, func([]byte) []byte { return otherKey(t) })
		again, _ := start(t, o, "a.example.com")
		time.Sleep(1500 * time.Millisecond)
		storage.change(t, siteKey, func([]byte) []byte { return []byte(good) })
		require.NoError(t, again.Await(t.Context()))
		assert.Len(t, ca.issued(), 1)
	})
}

// Two members find the same damage. The second must not discard the certificate
// with which the first has replaced it.
func TestDamageThatTwoMembersFindCostsOneOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newChainIssuer(t)
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		require.NoError(t, m.Close())

		storage.change(t, siteCert, firstBlock)
		var slow atomic.Bool
		storage.hook(func(verb, key string) error {
			if verb == "delete" && strings.HasSuffix(key, ".json") && slow.CompareAndSwap(false, true) {
				time.Sleep(5 * time.Second) // one member falls behind
			}
			return nil
		})
		one, _ := start(t, o, "a.example.com")
		time.Sleep(3 * time.Second)
		two, _ := start(t, o, "a.example.com")
		require.NoError(t, one.Await(t.Context()))
		require.NoError(t, two.Await(t.Context()))
		time.Sleep(time.Hour)
		assert.Len(t, ca.issued(), 2)
		_, err := storage.Load(t.Context(), siteMeta)
		assert.NotErrorIs(t, err, fs.ErrNotExist)
	})
}
