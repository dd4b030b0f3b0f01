package certs_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

const thumbprint = "0123456789012345678901234567890123456789012"

// unreachable is a template for a CA that cannot be reached.
func unreachable() *certmagic.ACMEIssuer {
	return &certmagic.ACMEIssuer{CA: "https://127.0.0.1:1/dir"}
}

// token returns a token that depends on n.
func token(n int) string { return fmt.Sprintf("token-%030d", n) }

// challengeKey returns the key under which certmagic stores the challenge of
// unreachable for a name.
func challengeKey(name string) string {
	return "acme/" + certmagic.StorageKeys.Safe(unreachable().IssuerKey()) + "/challenge_tokens/" + name + ".json"
}

// plant stores a challenge as another member of the cluster does.
func plant(t testing.TB, s *memStorage, kind, name, tok string) {
	t.Helper()
	c := acme.Challenge{Type: kind, Token: tok, KeyAuthorization: tok + "." + thumbprint, Identifier: acme.Identifier{Type: "dns", Value: name}}
	b, err := json.Marshal(c)
	require.NoError(t, err)
	require.NoError(t, s.Store(t.Context(), challengeKey(name), b))
}

// probe requests a token and returns the answer, "" if there is none.
func probe(t testing.TB, m *certs.Manager, host, tok string) string {
	t.Helper()
	w := httptest.NewRecorder()
	q := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/.well-known/acme-challenge/"+tok, nil)
	if !m.HTTPChallenge(w, q, host) {
		assert.Zero(t, w.Body.Len(), "an answer was written all the same")
		return ""
	}
	return w.Body.String()
}

// member is a Manager over s; hosts are its routes.
func member(t testing.TB, s *memStorage, hosts ...string) *certs.Manager {
	t.Helper()
	o := with(unreachable())
	o.Storage = s
	m, _ := start(t, o, hosts...)
	return m
}

func TestATokenInStorageIsAnsweredWithoutARoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStorage()
		m := member(t, s)
		plant(t, s, acme.ChallengeTypeHTTP01, "new.example.com", token(1))
		assert.Equal(t, token(1)+"."+thumbprint, probe(t, m, "new.example.com", token(1)))
		assert.Empty(t, probe(t, m, "new.example.com", token(2)), "another token")
		assert.Empty(t, probe(t, m, "other.example.com", token(1)), "another host")
	})
}

func TestATLSChallengeInStorageIsAnsweredWithoutARoute(t *testing.T) {
	s := newMemStorage()
	m := member(t, s)
	plant(t, s, acme.ChallengeTypeTLSALPN01, "new.example.com", token(1))
	leaf, err := shake(t, m, "new.example.com", "acme-tls/1")
	require.NoError(t, err)
	assert.Equal(t, []string{"new.example.com"}, leaf.DNSNames)
	_, err = shake(t, m, "NEW.example.com", "acme-tls/1")
	require.NoError(t, err)
	_, err = shake(t, m, "new.example.com", "h2")
	assert.ErrorContains(t, err, "unrecognized name", "only a CA gets it")
	_, err = shake(t, m, "other.example.com", "acme-tls/1")
	assert.ErrorContains(t, err, "unrecognized name")
}

func TestAChallengeOfOneKindAnswersNoOtherKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStorage()
		m := member(t, s)
		plant(t, s, acme.ChallengeTypeTLSALPN01, "a.example.com", token(1))
		assert.Empty(t, probe(t, m, "a.example.com", token(1)))
	})
}

func TestAFreshChallengeIsAnsweredRightAfterProbesForItsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStorage()
		m := member(t, s)
		for i := range 50 {
			host := fmt.Sprintf("h%d.example.com", i)
			for k := range 5 {
				require.Empty(t, probe(t, m, host, token(k)))
			}
			plant(t, s, acme.ChallengeTypeHTTP01, host, token(100))
			for range 5 { // from several perspectives
				require.NotEmpty(t, probe(t, m, host, token(100)), "probes before it must not hide a challenge")
			}
			time.Sleep(10 * time.Second)
		}
	})
}

// A read that began before the challenge was stored proves nothing.
func TestAProbeDoesNotShareAReadThatBeganBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStorage()
		m := member(t, s)
		s.hook(func(verb, key string) error {
			if strings.Contains(key, "challenge_tokens") {
				absent := s.absent(key)
				time.Sleep(time.Second)
				if absent {
					return errors.New("it was not there when the read began")
				}
			}
			return nil
		})
		var first sync.WaitGroup
		first.Go(func() { assert.Empty(t, probe(t, m, "a.example.com", token(1))) })
		time.Sleep(time.Second / 2)
		s.hook(func(string, string) error { return nil })
		plant(t, s, acme.ChallengeTypeHTTP01, "a.example.com", token(1))
		assert.NotEmpty(t, probe(t, m, "a.example.com", token(1)))
		first.Wait()
	})
}

func TestAFloodOfProbesForRandomNamesReadsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStorage()
		m := member(t, s, "*")
		synctest.Wait()
		before := s.reads.Load()
		var flood sync.WaitGroup
		for i := range 10_000 {
			flood.Go(func() { probe(t, m, fmt.Sprintf("h%d.example.com", i), token(i)) })
		}
		flood.Wait()
		assert.LessOrEqual(t, s.reads.Load()-before, int64(100))

		before = s.reads.Load()
		for i := range 10_000 { // a hundred seconds of them
			probe(t, m, fmt.Sprintf("k%d.example.com", i), token(i))
			time.Sleep(10 * time.Millisecond)
		}
		assert.LessOrEqual(t, s.reads.Load()-before, int64(2_200))
		assert.LessOrEqual(t, m.Looks(), 100, "memory")
		time.Sleep(time.Minute)
		assert.Zero(t, m.Looks())
	})
}

func TestAFloodForOneNameReadsLittleAndHidesNoChallenge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStorage()
		m := member(t, s)
		before := s.reads.Load()
		ctx := make(chan struct{})
		var flood sync.WaitGroup
		for range 30 {
			flood.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-ctx:
						return
					default:
						probe(t, m, "a.example.com", token(i))
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
		time.Sleep(10 * time.Second)
		plant(t, s, acme.ChallengeTypeHTTP01, "a.example.com", token(1_000_000))
		begin := time.Now()
		assert.NotEmpty(t, probe(t, m, "a.example.com", token(1_000_000)))
		assert.Less(t, time.Since(begin), time.Second)
		close(ctx)
		flood.Wait()
		assert.LessOrEqual(t, s.reads.Load()-before, int64(60))
	})
}

// A flood of arbitrary names does not block the challenges that this process is
// waiting for.
func TestAFloodOfRandomNamesHidesNoChallengeOfAPendingHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStorage()
		ca := newIssuer(t, "private", day(90))
		ca.hook(failing("not yet"))
		o := certs.Options{Public: []certmagic.Issuer{ca, unreachable()}, Storage: s}
		o.Choose = issuedBy(map[string]certmagic.Issuer{"pending.example.com": ca})
		m, _ := start(t, o, "pending.example.com")
		synctest.Wait()
		for i := range 1_000 {
			probe(t, m, fmt.Sprintf("h%d.example.com", i), token(i))
		}
		plant(t, s, acme.ChallengeTypeHTTP01, "pending.example.com", token(1))
		assert.NotEmpty(t, probe(t, m, "pending.example.com", token(1)))
	})
}

func TestProbesWithoutATokenOrANameReadNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStorage()
		m := member(t, s, "*")
		synctest.Wait()
		before := s.reads.Load()
		for _, tok := range []string{"", "short", strings.Repeat("x", 300), "../../../../certificates/x", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa=", token(1) + "/x"} {
			assert.Empty(t, probe(t, m, "a.example.com", tok))
		}
		for _, sni := range []string{"-a.example.com", "1.2.3.4", "a..b", "*.example.com", "a/b", strings.Repeat("a.", 200) + "com"} {
			cert, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: sni, SupportedProtos: []string{"acme-tls/1"}})
			assert.NoError(t, err)
			assert.Nil(t, cert)
		}
		w := httptest.NewRecorder()
		assert.False(t, m.HTTPChallenge(w, httptest.NewRequest(http.MethodPost, "/.well-known/acme-challenge/"+token(1), nil), "a.example.com"))
		assert.Zero(t, s.reads.Load()-before)
	})
}

func TestAManagerWithoutAnACMEIssuerReadsNoTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStorage()
		o := with(newIssuer(t, "ca", day(90)))
		o.Storage = s
		m, _ := start(t, o)
		synctest.Wait()
		before := s.reads.Load()
		probe(t, m, "a.example.com", token(1))
		assert.Equal(t, before, s.reads.Load())
	})
}

// Storage that hangs, or has wrong content, leads to no answer and to no crash.
func TestInvalidTokensFromStorageAreNotAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStorage()
		m := member(t, s)
		key := challengeKey("a.example.com")
		for _, text := range []string{
			"", "null", "{", "[]", `{"type":"http-01"}`,
			`{"type":"http-01","token":"` + token(1) + `","keyAuthorization":"<script>","identifier":{"type":"dns","value":"a.example.com"}}`,
			`{"type":"http-01","token":"` + token(1) + `","keyAuthorization":"` + token(1) + `.<b>","identifier":{"type":"dns","value":"a.example.com"}}`,
			`{"type":"http-01","token":"` + token(1) + `","keyAuthorization":"` + token(1) + "." + thumbprint + `","identifier":{"type":"dns","value":"b.example.com"}}`,
		} {
			require.NoError(t, s.Store(t.Context(), key, []byte(text)))
			assert.Empty(t, probe(t, m, "a.example.com", token(1)), text)
		}
		s.hook(func(string, string) error { panic("storage") })
		assert.Empty(t, probe(t, m, "a.example.com", token(1)))
	})
}

func TestProbesDoNotHangWithStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStorage()
		m := member(t, s)
		s.hook(func(string, string) error { time.Sleep(time.Minute); return nil })
		var probes sync.WaitGroup
		var waited atomic.Int64
		for i := range 1_000 {
			probes.Go(func() {
				begin := time.Now()
				assert.Empty(t, probe(t, m, fmt.Sprintf("h%d.example.com", i), token(1)))
				assert.LessOrEqual(t, time.Since(begin), 6*time.Second)
				if time.Since(begin) > 0 {
					waited.Add(1)
				}
			})
		}
		probes.Wait()
		assert.LessOrEqual(t, waited.Load(), int64(64), "the others leave immediately")
		assert.LessOrEqual(t, s.most.Load(), int64(20), "sixteen, and the probes of whether storage works again")
		s.hook(func(string, string) error { return nil })
		time.Sleep(10 * time.Minute)
		assert.Zero(t, m.Looks())
	})
}

func TestProbesEndWithTheManagerAndWithTheirClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStorage()
		o := with(unreachable())
		o.Storage = s
		m, _ := start(t, o)
		var hangs atomic.Bool
		hangs.Store(true)
		s.hook(func(string, string) error {
			for hangs.Load() {
				time.Sleep(time.Second)
			}
			return nil
		})
		var probes sync.WaitGroup
		probes.Go(func() { assert.Empty(t, probe(t, m, "a.example.com", token(1))) })
		time.Sleep(100 * time.Millisecond)
		begin := time.Now()
		go func() { time.Sleep(3 * time.Second); hangs.Store(false) }()
		require.NoError(t, m.Close())
		probes.Wait()
		assert.LessOrEqual(t, time.Since(begin), 5*time.Second)
		assert.Empty(t, probe(t, m, "a.example.com", token(1)))
	})
}

// Challenges for addresses use a name under in-addr.arpa (RFC 8738, 6).
func TestATLSChallengeForAnAddressIsAnsweredWithoutARoute(t *testing.T) {
	s := newMemStorage()
	m := member(t, s)
	c := acme.Challenge{Type: acme.ChallengeTypeTLSALPN01, Token: token(1), KeyAuthorization: token(1) + "." + thumbprint,
		Identifier: acme.Identifier{Type: "ip", Value: "8.8.4.4"}}
	b, err := json.Marshal(c)
	require.NoError(t, err)
	require.NoError(t, s.Store(t.Context(), challengeKey("4.4.8.8.in-addr.arpa"), b))
	leaf, err := shake(t, m, "4.4.8.8.in-addr.arpa", "acme-tls/1")
	require.NoError(t, err)
	require.Len(t, leaf.IPAddresses, 1)
	assert.True(t, leaf.IPAddresses[0].Equal(net.IPv4(8, 8, 4, 4)))
	assert.Contains(t, extensions(leaf), "1.3.6.1.5.5.7.1.31")
}

func extensions(leaf *x509.Certificate) (ids []string) {
	for _, e := range leaf.Extensions {
		ids = append(ids, e.Id.String())
	}
	return ids
}
