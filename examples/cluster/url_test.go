package cluster_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/cluster"
)

func TestAURLSelectsTheRedis(t *testing.T) {
	o, err := cluster.ParseURL("rediss://user:pass%40word@redis.test/3")
	require.NoError(t, err)
	assert.Equal(t, []string{"redis.test:6379"}, o.Addrs)
	assert.Equal(t, "user/pass@word/3", o.Username+"/"+o.Password+"/3")
	assert.Equal(t, 3, o.DB)
	assert.NotNil(t, o.TLSConfig)
	assert.IsType(t, (*redis.Client)(nil), redis.NewUniversalClient(o))

	o, err = cluster.ParseURL("redis://:pw@s1?master_name=main&addr=s2:1&addr=[::1]:2&sentinel_password=x")
	require.NoError(t, err)
	assert.Equal(t, []string{"s1:26379", "s2:1", "[::1]:2"}, o.Addrs)
	assert.Equal(t, "main/pw/x", o.MasterName+"/"+o.Password+"/"+o.SentinelPassword)
	assert.True(t, o.Failover().ContextTimeoutEnabled)

	o, err = cluster.ParseURL("redis://n1?cluster=true")
	require.NoError(t, err)
	assert.IsType(t, (*redis.ClusterClient)(nil), redis.NewUniversalClient(o))
}

func TestAnInvalidURLIsExplained(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for url, wants := range map[string][]string{
		"":                                      {`scheme "": want redis://`, "no host"},
		"localhost:6379":                        {`scheme "localhost": want redis://`},
		"http://localhost":                      {`scheme "http": want redis://, or rediss:// for TLS`},
		"redis://localhost/zero":                {`path "/zero": want the number of a database`},
		"redis://localhost/-1":                  {`path "/-1"`},
		"redis://a?addr=b:1":                    {"several addresses need cluster=true, or master_name"},
		"redis://a?cluster=true&addr=b":         {`parameter addr "b": want host:port`},
		"redis://a/1?cluster=true":              {"a Redis Cluster has database 0 only"},
		"redis://a?cluster=yes":                 {`parameter cluster "yes": want true or false`},
		"redis://a?cluster=true&master_name=m":  {"exclude each other"},
		"redis://a?master_name=":                {"parameter master_name is empty"},
		"redis://a?master_name=m&master_name=n": {"parameter master_name is there 2 times"},
		"redis://a?sentinel_password=x":         {"need master_name"},
		"redis://a?ca_file=/x":                  {"ca_file needs rediss://"},
		"rediss://a?ca_file=/no/such/file":      {"ca_file: open /no/such/file"},
		"rediss://a?ca_file=" + empty:           {"has no certificate: want PEM"},
		"redis://a?pool_size=3&addrs=b":         {`unknown parameter "addrs", "pool_size": want addr, ca_file`},
		"ftp://a/x?y=z":                         {`scheme "ftp"`, `path "/x"`, `unknown parameter "y"`},
		"redis://user:secret@a:port/0":          {"cannot be read", "port"},
		"redis://user:secret%zz@a":              {"cannot be read"},
	} {
		_, err := cluster.ParseURL(url)
		for _, want := range wants {
			assert.ErrorContains(t, err, want, url)
		}
		assert.NotContains(t, err.Error(), "secret", url)
	}
}

func TestClientsThatDoNotFitAreRefused(t *testing.T) {
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "localhost:1"}})
	defer ring.Close()
	lax := redis.NewClient(&redis.Options{Addr: "localhost:1"})
	defer lax.Close()
	for want, c := range map[string]redis.UniversalClient{
		"client is nil":                      nil,
		"*redis.Ring is not supported":       ring,
		"set ContextTimeoutEnabled":          lax,
		"set ContextTimeoutEnabled in its":   (*redis.Client)(nil),
		"set ContextTimeoutEnabled in its o": (*redis.ClusterClient)(nil),
	} {
		_, err := cluster.NewStorage(c, cluster.StorageOptions{Prefix: "a{b"})
		assert.ErrorContains(t, err, want)
		assert.ErrorContains(t, err, `StorageOptions.Prefix "a{b"`, "all errors at once")
	}
	c := connect(t, "redis://localhost")
	_, err := cluster.NewStorage(c, cluster.StorageOptions{LockTTL: 1, Timeout: -1})
	assert.ErrorContains(t, err, "LockTTL 1ns: want at least 100ms")
	assert.ErrorContains(t, err, "Timeout -1ns is negative")
}
