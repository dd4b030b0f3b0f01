package cluster_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/cluster"
	"github.com/hostproxy/hostproxy/examples/cluster/internal/redistest"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// check returns the result of Check for the Redis at url.
func check(t *testing.T, url string) ([]string, error) {
	t.Helper()
	return openWith(t, url, cluster.StorageOptions{Timeout: time.Second}).Check(t.Context())
}

// withUser returns the URL with this user and password.
func withUser(url, user string) string {
	return strings.Replace(url, "redis://", "redis://"+user+"@", 1)
}

func TestAGoodRedisIsAcceptedWithoutAWarning(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "--appendonly", "yes")
	for range 2 {
		warnings, err := check(t, s.URL)
		require.NoError(t, err)
		assert.Empty(t, warnings)
	}
	keys, err := connect(t, s.URL).Keys(t.Context(), "*hostproxy-check*").Result()
	require.NoError(t, err)
	assert.Empty(t, keys)
	saving := redistest.Start(t, "--save", "60 1")
	warnings, err := check(t, saving.URL)
	require.NoError(t, err)
	assert.Empty(t, warnings)
}

// Each fault is one sentence, with its remedy.
func TestARedisThatDoesNotSuitIsRefusedWithARemedy(t *testing.T) {
	t.Parallel()
	plain := redistest.Start(t, "--appendonly", "yes")
	locked := redistest.Start(t, "--appendonly", "yes", "--requirepass", "secret")
	replica := redistest.Start(t, "--replicaof", "127.0.0.1", plain.Port)
	evicting := redistest.Start(t, "--appendonly", "yes", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
	node := redistest.Start(t, "--cluster-enabled", "yes", "--appendonly", "yes")
	locked.CLI(t, "-a", "secret", "acl", "setuser", "reader", "on", ">pw", "~*", "+@read", "+info", "+config", "+ping")
	for _, c := range []struct{ about, url, want string }{
		{"no password", locked.URL, "requires a password: put it into the URL"},
		{"a wrong password", withUser(locked.URL, ":wrong"), "refuses the user name or the password"},
		{"a wrong user", withUser(locked.URL, "nobody:secret"), "refuses the user name or the password"},
		{"a user that may do too little", withUser(locked.URL, "reader:pw"), "ACL SETUSER … ~{hostproxy}:* ~hostproxy:limit:* +@all -@dangerous +info"},
		{"TLS to a plain server", strings.Replace(plain.URL, "redis:", "rediss:", 1), "does not speak TLS: use redis://"},
		{"no such database", strings.Replace(plain.URL, "/0", "/99", 1), "has no database of that number"},
		{"a replica", replica.URL, "is a replica, which takes no writes: connect to its master, 127.0.0.1:" + plain.Port},
		{"eviction", evicting.URL, `has maxmemory-policy "allkeys-lru" and maxmemory "104857600": it evicts certificates and their keys when its memory is full; CONFIG SET maxmemory-policy noeviction`},
		{"a node of a cluster", node.URL, "is a node of a Redis Cluster: add cluster=true"},
		{"no cluster", plain.URL + "?cluster=true", "is not a node of a Redis Cluster: remove cluster=true"},
		{"no Sentinel", plain.URL + "?master_name=main", "is not a Sentinel: remove master_name"},
	} {
		t.Run(c.about, func(t *testing.T) {
			_, err := check(t, c.url)
			require.ErrorContains(t, err, c.want)
			assert.NotErrorIs(t, err, cluster.ErrUnreachable, "the fault does not go away by itself")
			assert.NotContains(t, err.Error(), "secret")
			assert.NotContains(t, err.Error(), "\n", "one sentence")
		})
	}
}

func TestARedisThatIsAwayMayComeBack(t *testing.T) {
	t.Parallel()
	stopped, empty := redistest.Start(t), redistest.Start(t, "--cluster-enabled", "yes", "--appendonly", "yes")
	stopped.Stop()
	t.Cleanup(stopped.Continue)
	addr := proxytest.Refused(t)
	for about, url := range map[string]string{
		"refused":                 "redis://" + addr,
		"a cluster, refused":      "redis://" + addr + "?cluster=true",
		"a Sentinel, refused":     "redis://" + addr + "?master_name=main",
		"stopped":                 stopped.URL,
		"a cluster without slots": empty.URL + "?cluster=true",
	} {
		t.Run(about, func(t *testing.T) {
			_, err := check(t, url)
			require.ErrorIs(t, err, cluster.ErrUnreachable)
			assert.Regexp(t, "correct the address in the URL, or start it|cannot serve at the moment, and is asked again", err.Error())
			assert.NotContains(t, err.Error(), "\n", "one sentence")
		})
	}
}

func TestRisksOfALaterLossAreWarnings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		about string
		args  []string
		want  string
	}{
		{"nothing is persisted", nil, "persists nothing: a restart loses all certificates that no proxy has in memory; CONFIG SET appendonly yes"},
		{"locks are evicted", []string{"--appendonly", "yes", "--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru"}, "it evicts locks"},
		{"eviction without a limit", []string{"--appendonly", "yes", "--maxmemory-policy", "allkeys-random"}, "as soon as maxmemory is set, it evicts certificates"},
	} {
		t.Run(c.about, func(t *testing.T) {
			warnings, err := check(t, redistest.Start(t, c.args...).URL)
			require.NoError(t, err)
			require.Len(t, warnings, 1)
			assert.Contains(t, warnings[0], c.want)
		})
	}
	s := redistest.Start(t)
	s.CLI(t, "acl", "setuser", "proxy", "on", ">pw", "~{hostproxy}:*", "~hostproxy:limit:*", "+@all", "-@dangerous", "+info")
	warnings, err := check(t, withUser(s.URL, "proxy:pw"))
	require.NoError(t, err, "the permissions that the refusal asks for are enough")
	require.Len(t, warnings, 1)
	assert.Contains(t, warnings[0], "does not say whether it saves snapshots")
	s.CLI(t, "acl", "setuser", "proxy", "-info")
	warnings, err = check(t, withUser(s.URL, "proxy:pw"))
	require.NoError(t, err)
	require.Len(t, warnings, 1)
	assert.Contains(t, warnings[0], "does not answer INFO")
}

// secured starts a server with TLS, and returns the file of its CA.
func secured(t *testing.T, hosts ...string) (s *redistest.Server, ca string) {
	t.Helper()
	cert, _ := proxytest.Certificate(t, hosts...)
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	require.NoError(t, err)
	ca = write("cert.pem", "CERTIFICATE", cert.Certificate[0])
	return redistest.Start(t, "--appendonly", "yes", "--tls-port", "--tls-cert-file", ca, "--tls-key-file", write("key.pem", "PRIVATE KEY", key), "--tls-auth-clients", "no"), ca
}

func TestEachFaultOfTLSHasItsOwnError(t *testing.T) {
	t.Parallel()
	s, ca := secured(t)
	other, otherCA := secured(t, "elsewhere.test")
	tlsURL := func(s *redistest.Server, ca string) string { return fmt.Sprintf("rediss://%s?ca_file=%s", s.Addr, ca) }
	_, err := check(t, tlsURL(s, ca))
	require.NoError(t, err)
	for _, c := range []struct{ about, url, want string }{
		{"plain to TLS", s.URL, "closes the connection at the first command: if it speaks TLS, use rediss://"},
		{"an unknown CA", "rediss://" + s.Addr, "ca_file=/path/ca.pem"},
		{"another CA", tlsURL(s, otherCA), "ca_file=/path/ca.pem"},
		{"another name", tlsURL(other, otherCA), "connect to a name that is in it"},
	} {
		t.Run(c.about, func(t *testing.T) {
			_, err := check(t, c.url)
			require.ErrorContains(t, err, c.want)
			assert.NotErrorIs(t, err, cluster.ErrUnreachable)
		})
	}
	strict, strictCA := secured(t)
	_, err = check(t, tlsURL(strict, strictCA))
	require.NoError(t, err)
	strict.CLI(t, "--tls", "--cacert", strictCA, "config", "set", "tls-auth-clients", "yes")
	_, err = check(t, tlsURL(strict, strictCA))
	require.ErrorContains(t, err, "if it requires client certificates, set them in UniversalOptions.TLSConfig")
}
