package cluster_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/cluster"
	"github.com/hostproxy/hostproxy/examples/cluster/internal/redistest"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A node is one proxy of a cluster.
type node struct {
	*hostproxy.Router
	*proxytest.Running
	storage *cluster.Storage
}

// start runs a proxy of the cluster whose Redis is at url. Each host has a
// backend.
func start(t *testing.T, url string, hosts ...string) *node {
	t.Helper()
	s := open(t, url)
	r := &hostproxy.Router{TLS: hostproxy.TLS{Storage: s}}
	backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { _, _ = io.WriteString(w, q.Host) }))
	for _, h := range hosts {
		r.Handle(h, hostproxy.To(backend.Addr()))
	}
	return &node{Router: r, Running: proxytest.Start(t, &hostproxy.Server{Router: r}), storage: s}
}

// root returns the root certificate in the node's storage.
func (n *node) root(t *testing.T) []byte {
	t.Helper()
	pem, err := (&hostproxy.LocalCA{Storage: n.storage}).RootPEM(t.Context())
	require.NoError(t, err)
	return pem
}

// leaf returns the certificate that the node serves for host. If there is none
// yet, the handshake waits for it.
func (n *node) leaf(t *testing.T, host string) *x509.Certificate {
	t.Helper()
	// the caller verifies the certificate
	d := tls.Dialer{Config: &tls.Config{ServerName: host, InsecureSkipVerify: true}}
	c, err := d.DialContext(within(t, proxytest.Patience), "tcp", n.HTTPS)
	require.NoError(t, err)
	defer c.Close()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0]
}

// verify requires that leaf is for host and that root has signed it.
func verify(t *testing.T, leaf *x509.Certificate, host string, root []byte) {
	t.Helper()
	_, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots(t, root)})
	require.NoError(t, err)
}

// roots returns a pool that contains one root.
func roots(t *testing.T, pem []byte) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(pem))
	return pool
}

// hosts are internal hosts. A LocalCA issues their certificates. Read-only.
var hosts = []string{"a.localhost", "b.localhost", "c.localhost", "d.localhost", "e.localhost", "f.localhost", "g.test", "h.test"}

// certificates.md, 17: instances share certificates and locks through Storage,
// and place one order.
func TestTwoRoutersHaveOneCertificate(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL
	one, two := start(t, url, hosts...), start(t, url, hosts...)
	var wg sync.WaitGroup
	for _, n := range []*node{one, two} {
		wg.Go(func() { n.leaf(t, hosts[0]) }) // both start at the same time
	}
	wg.Wait()
	require.NoError(t, one.AwaitCertificates(within(t, proxytest.Patience)))
	require.NoError(t, two.AwaitCertificates(within(t, proxytest.Patience)))
	late := start(t, url, hosts...)

	root := one.root(t)
	for _, n := range []*node{two, late} {
		assert.Equal(t, root, n.root(t))
		for _, h := range hosts {
			leaf := n.leaf(t, h)
			verify(t, leaf, h, root)
			assert.Equal(t, one.leaf(t, h).SerialNumber, leaf.SerialNumber, h)
		}
	}
	keys, err := one.storage.List(t.Context(), "certificates", true)
	require.NoError(t, err)
	issued := slices.DeleteFunc(keys, func(key string) bool { return !strings.HasSuffix(key, ".crt") })
	assert.Len(t, issued, len(hosts))
}

// certificates.md, 17: processes solve each other's challenges.
func TestAChallengeOfAnyProcessIsAnsweredByAll(t *testing.T) {
	t.Parallel()
	const token, answer = "token-of-22-characters-", "token-of-22-characters-.thumbprint"
	server := redistest.Start(t)
	ca := "https://" + proxytest.Refused(t) + "/directory"
	r := &hostproxy.Router{
		TLS:    hostproxy.TLS{Storage: open(t, server.URL), CA: ca},
		Logger: slog.New(slog.DiscardHandler), // the CA does not exist
	}
	r.Handle("app.example.com", http.NotFoundHandler())
	proxy := proxytest.Start(t, &hostproxy.Server{Router: r})

	// Another process's certmagic stores this before it lets the CA check.
	key := path.Join("acme", certmagic.StorageKeys.Safe((&certmagic.ACMEIssuer{CA: ca}).IssuerKey()), "challenge_tokens", "app.example.com.json")
	challenge, err := json.Marshal(map[string]any{
		"type": "http-01", "token": token, "keyAuthorization": answer,
		"identifier": map[string]string{"type": "dns", "value": "app.example.com"},
	})
	require.NoError(t, err)
	require.NoError(t, open(t, server.URL).Store(t.Context(), key, challenge))

	p, err := proxytest.HTTPClient(t, proxy.Plain, nil, "h1").Get("http://app.example.com/.well-known/acme-challenge/" + token)
	require.NoError(t, err)
	defer p.Body.Close()
	body, err := io.ReadAll(p.Body)
	require.NoError(t, err)
	assert.Equal(t, 200, p.StatusCode)
	assert.Equal(t, answer, string(body))
}

// A dead process has left a lock behind.
func TestARouterWaitsForTheLockOfAnotherProcess(t *testing.T) {
	t.Parallel()
	const held = 3 * time.Second
	server := redistest.Start(t)
	begin := time.Now()
	require.NoError(t, connect(t, server.URL).Set(t.Context(), open(t, server.URL).LockKey("issue_cert_app.localhost"), "dead", held).Err())
	n := start(t, server.URL, "app.localhost", "other.localhost")
	n.leaf(t, "other.localhost")
	require.Less(t, time.Since(begin), held, "one host delays another")
	n.leaf(t, "app.localhost")
	assert.Greater(t, time.Since(begin), held)
}

func TestCertificatesInMemoryOutliveRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	n := start(t, server.URL, "app.localhost")
	before := n.leaf(t, "app.localhost")
	server.Kill()
	n.Router.Handle("new.localhost", http.NotFoundHandler())
	stills := proxytest.WatchStandstills(t)
	for range 20 {
		begin, still := time.Now(), stills.Total()
		assert.Equal(t, before.SerialNumber, n.leaf(t, "app.localhost").SerialNumber)
		assert.Less(t, time.Since(begin)-(stills.Total()-still), time.Second)
	}
	proxytest.Eventually(t, "the new host to fail", func() bool { return n.state("new.localhost") == "failed" })
	assert.Equal(t, "valid", n.state("app.localhost"))
}

// state returns the state of a host's certificate.
func (n *node) state(host string) string {
	for status := range n.Certificates() {
		if status.Host == host {
			return status.State
		}
	}
	return ""
}
