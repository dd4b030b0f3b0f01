package acmetest_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/acmetest"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// nodeEnv holds the configuration if this binary runs as a proxy.
const nodeEnv = "ACMETEST_NODE"

// A nodeConfig is the configuration of a proxy in a process of its own.
type nodeConfig struct {
	Storage, CA  string
	Root         []byte
	HTTPS, Plain string
	Hosts        []string
	Heir         string // file for the PID of the process that takes over at SIGHUP
}

func TestMain(m *testing.M) {
	text, ok := os.LookupEnv(nodeEnv)
	if !ok {
		os.Exit(m.Run())
	}
	var c nodeConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		panic(err)
	}
	if err := c.serve(); err != nil {
		panic(err)
	}
}

// serve runs the proxy until it is killed.
func (c *nodeConfig) serve() error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.Root)
	r := hostproxy.Router{Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	r.TLS.Storage = &certmagic.FileStorage{Path: c.Storage}
	r.TLS.Issuer = &certmagic.ACMEIssuer{CA: c.CA, TrustedRoots: roots}
	for _, host := range c.Hosts {
		r.Handle(host, http.NotFoundHandler())
	}
	sockets, err := hostproxy.Inherited()
	if err != nil {
		return err
	}
	https, err := sockets.Listen("https", "tcp", c.HTTPS)
	if err != nil {
		return err
	}
	plain, err := sockets.Listen("http", "tcp", c.Plain)
	if err != nil {
		return err
	}
	s := &hostproxy.Server{Router: &r}
	go c.handOver(s)
	return s.Serve(context.Background(), https, plain)
}

// A node is a running proxy in a process of its own.
type node struct {
	proxy
	cmd *exec.Cmd
}

// spawn starts a proxy. It is killed when the test ends.
func spawn(t *testing.T, ca *acmetest.CA, c nodeConfig) *node {
	t.Helper()
	c.CA, c.Root = ca.URL, ca.PEM
	text, err := json.Marshal(c)
	require.NoError(t, err)
	n := &node{proxy: proxy{ca: ca, https: c.HTTPS}, cmd: exec.Command(os.Args[0])}
	n.cmd.Env = append(os.Environ(), nodeEnv+"="+string(text))
	var said strings.Builder
	n.cmd.Stderr = &said
	require.NoError(t, n.cmd.Start())
	t.Cleanup(func() {
		n.kill()
		if t.Failed() {
			t.Logf("the proxy at %s said:\n%s", c.HTTPS, said.String())
		}
	})
	proxytest.Eventually(t, "the proxy listens", func() bool {
		conn, err := net.Dial("tcp", c.HTTPS)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return n
}

// kill ends the process like a crash.
func (n *node) kill() {
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait()
}

// leaf waits for the certificate that the proxy serves.
func (n *node) leaf(t *testing.T, host string) (leaf *x509.Certificate) {
	t.Helper()
	require.Eventually(t, func() bool {
		got, err := n.shake(host)
		leaf = got
		return err == nil
	}, time.Minute, 100*time.Millisecond, "no certificate of %s", host)
	return leaf
}

// locks returns the lock files in a file storage.
func locks(t testing.TB, storage string) (names []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(storage, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".lock") {
			names = append(names, path)
		}
		return nil
	}))
	return names
}

// pair returns a CA that validates at the second of two proxies, and the
// configurations of both.
func pair(t *testing.T, host string, set ...func(*acmetest.Options)) (ca *acmetest.CA, first, second nodeConfig) {
	t.Helper()
	free := func() (addr string, port int) {
		ln := proxytest.Listen(t)
		require.NoError(t, ln.Close())
		return ln.Addr().String(), ln.Addr().(*net.TCPAddr).Port
	}
	storage := t.TempDir()
	first, second = nodeConfig{Storage: storage, Hosts: []string{host}}, nodeConfig{Storage: storage, Hosts: []string{host}}
	first.HTTPS, _ = free()
	first.Plain, _ = free()
	var o acmetest.Options
	second.HTTPS, o.TLSPort = free()
	second.Plain, o.HTTPPort = free()
	for _, f := range set {
		f(&o)
	}
	return acmetest.New(t, o), first, second
}

// certificates.md, 17: proxies with the same storage place one order, and each
// one answers for the others.
func TestThereIsOneOrderAndAnyProxyAnswersItsChallenge(t *testing.T) {
	const host = "a.example.com"
	ca, here, there := pair(t, host)
	release := ca.Hold("/order-plz")
	defer release()
	first := spawn(t, ca, here)
	proxytest.Eventually(t, "the order of the first", func() bool { return ca.Seen("/order-plz") == 1 })
	second := spawn(t, ca, there)
	release()
	leaf := first.leaf(t, host)
	assert.Equal(t, leaf.SerialNumber, second.leaf(t, host).SerialNumber)
	assert.Equal(t, 1, ca.Seen("/order-plz"))
	assert.Equal(t, 1, ca.Seen("/finalize-order"))
}

// A member of a cluster that has not learned of a new host yet answers for the
// one that has.
func TestAProxyWithoutTheRouteAnswersForOneThatHasIt(t *testing.T) {
	const host = "a.example.com"
	for name, tt := range map[string]struct{ https, plain bool }{"HTTP-01": {plain: true}, "TLS-ALPN-01": {https: true}} {
		t.Run(name, func(t *testing.T) {
			ca, here, there := pair(t, host, func(o *acmetest.Options) {
				if !tt.https {
					o.TLSPort = 1
				}
				if !tt.plain {
					o.HTTPPort = 1
				}
			})
			there.Hosts = nil
			spawn(t, ca, there)
			leaf := spawn(t, ca, here).leaf(t, host)
			assert.Equal(t, []string{host}, leaf.DNSNames)
		})
	}
}

// The process that obtains a certificate may die at any point: another one
// continues.
func TestAProxyThatIsKilledInTheMiddleOfAnOrderLosesNothing(t *testing.T) {
	for name, tt := range map[string]struct {
		part  string
		asked bool // the killed process is the one at which the CA validates
	}{
		"with a new order":       {"/order-plz", false},
		"before its challenge":   {"/authZ/", false},
		"before its certificate": {"/certZ/", true},
	} {
		t.Run(name, func(t *testing.T) {
			const host = "a.example.com"
			ca, other, asked := pair(t, host)
			release := ca.Hold(tt.part)
			defer release()
			first := spawn(t, ca, map[bool]nodeConfig{false: other, true: asked}[tt.asked])
			proxytest.Eventually(t, "the order of the first", func() bool { return ca.Seen(tt.part) > 0 })
			require.NotEmpty(t, locks(t, other.Storage))
			first.kill()
			release()
			second := spawn(t, ca, asked)
			leaf := second.leaf(t, host)
			assert.Equal(t, []string{host}, leaf.DNSNames)
			proxytest.Eventually(t, "the end of all locks", func() bool { return len(locks(t, other.Storage)) == 0 })

			orders := ca.Seen("/order-plz")
			third := spawn(t, ca, other)
			assert.Equal(t, leaf.SerialNumber, third.leaf(t, host).SerialNumber)
			assert.Equal(t, orders, ca.Seen("/order-plz"), "nothing is ordered again")
		})
	}
}
