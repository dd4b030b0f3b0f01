package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/cluster"
	"github.com/hostproxy/hostproxy/examples/cluster/internal/redistest"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// argsEnv is set if this test binary is to run the command.
const argsEnv = "CLUSTER_PROXY_ARGS"

func TestMain(m *testing.M) {
	if args, ok := os.LookupEnv(argsEnv); ok {
		os.Args = append(os.Args[:1], strings.Fields(args)...)
		main()
		return
	}
	proxytest.Main(m)
}

// host is the host that all tests use.
const host = "app.localhost"

// A process is a running command.
type process struct {
	https, http, ready string
	cmd                *exec.Cmd
	ended              chan struct{} // closed when the process has ended
	mu                 sync.Mutex
	text               bytes.Buffer
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

// said returns the output of the process.
func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// launch runs the command with these arguments until the test ends.
func launch(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0]), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), argsEnv+"="+strings.Join(args, " "))
	p.cmd.Stdout, p.cmd.Stderr = p, p
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // ProcessState has the result
	}()
	t.Cleanup(func() {
		p.end(os.Kill)
		if t.Failed() {
			t.Logf("a proxy said:\n%s", p.said())
		}
	})
	return p
}

// end sends a signal to the process and waits until it has ended.
func (p *process) end(s os.Signal) {
	_ = p.cmd.Process.Signal(s) // the process may have ended already
	<-p.ended
}

// at runs the command at the addresses of p, which may have ended.
func (p *process) at(t *testing.T, args ...string) *process {
	t.Helper()
	q := launch(t, append([]string{"-addr", p.https, "-http", p.http, "-ready", p.ready}, args...)...)
	q.https, q.http, q.ready = p.https, p.http, p.ready
	return q
}

// free returns a free address that no outgoing connection of this machine can
// take.
func free(t *testing.T) string {
	t.Helper()
	return strings.Replace(proxytest.Free(t), "127.0.0.1", "127.0.0.2", 1)
}

// join runs the command at free addresses, and waits until it listens.
func join(t *testing.T, args ...string) *process {
	t.Helper()
	for range 5 { // another process may take a port first
		p := (&process{https: free(t), http: free(t), ready: free(t)}).at(t, args...)
		if p.listens(t) {
			return p
		}
		t.Logf("%s", p.said())
	}
	require.Fail(t, "the command does not start")
	return nil
}

// listens waits until the process accepts connections. It returns false if the
// process ends instead.
func (p *process) listens(t *testing.T) bool {
	t.Helper()
	up := false
	proxytest.Eventually(t, "the command listens", func() bool {
		select {
		case <-p.ended:
			return true
		default:
		}
		c, err := net.Dial("tcp", p.ready)
		if err == nil {
			c.Close()
		}
		up = err == nil
		return up
	})
	return up
}

// state returns the process's answer to a load balancer, or "" if there is
// none.
func (p *process) state() string {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: proxytest.Patience}
	res, err := c.Get("http://" + p.ready + "/")
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	return strings.TrimSpace(string(text))
}

// leaf returns the certificate that the process serves, and whether the
// handshake resumed a session.
func (p *process) leaf(t *testing.T, conf *tls.Config) (*x509.Certificate, bool) {
	t.Helper()
	conf.ServerName = host
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: proxytest.Patience}, "tcp", p.https, conf)
	require.NoError(t, err, p.said())
	defer c.Close()
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
	require.NoError(t, err)
	text, err := io.ReadAll(c) // the ticket arrives before the response
	require.NoError(t, err)
	require.Contains(t, string(text), "HTTP/1.1 200 ")
	return c.ConnectionState().PeerCertificates[0], c.ConnectionState().DidResume
}

// anyone accepts every certificate: the tests compare certificates themselves.
func anyone() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

// roots returns the root of the local CA in a storage.
func roots(t *testing.T, s certmagic.Storage) *x509.CertPool {
	t.Helper()
	pem, err := (&hostproxy.LocalCA{Storage: s}).RootPEM(t.Context())
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(pem))
	return pool
}

// storage opens the storage of the processes.
func storage(t *testing.T, url string) *cluster.Storage {
	t.Helper()
	client, err := cluster.Connect(url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	s, err := cluster.NewStorage(client, cluster.StorageOptions{})
	require.NoError(t, err)
	return s
}

func TestProcessesShareCertificatesAndTickets(t *testing.T) {
	redis, dir, backend := redistest.Start(t), t.TempDir(), proxytest.NewServer(t, nil)
	for about, shared := range map[string][]string{
		"through Redis":       {"-redis", redis.URL},
		"through a directory": {"-dir", dir},
	} {
		t.Run(about, func(t *testing.T) {
			args := append(shared, "-tickets", "-delay", "0", host+"="+backend.Addr())
			first, second := join(t, args...), join(t, args...)
			sessions := anyone()
			sessions.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			leaf, resumed := first.leaf(t, sessions)
			assert.False(t, resumed)
			first.end(syscall.SIGKILL)
			same, _ := second.leaf(t, anyone())
			assert.Equal(t, leaf.SerialNumber, same.SerialNumber)
			third := join(t, args...)
			same, _ = third.leaf(t, anyone())
			assert.Equal(t, leaf.SerialNumber, same.SerialNumber)
			proxytest.Eventually(t, "a ticket of the first is good at the third", func() bool {
				_, resumed := third.leaf(t, sessions)
				return resumed
			})
			for _, p := range []*process{second, third} {
				p.end(syscall.SIGTERM)
				assert.Equal(t, 0, p.cmd.ProcessState.ExitCode(), p.said())
			}
		})
	}
	s := storage(t, redis.URL)
	keys, err := s.List(t.Context(), "certificates", true)
	require.NoError(t, err)
	assert.Len(t, keys, 3, "one certificate: %v", keys)
}

func TestAProcessStartsWithoutRedisAndIsReadyWhenItComes(t *testing.T) {
	s, backend := redistest.Start(t), proxytest.NewServer(t, nil)
	s.Stop()
	p := join(t, "-redis", s.URL, "-delay", "0", host+"="+backend.Addr())
	assert.Equal(t, "starting", p.state())
	assert.Contains(t, p.said(), "redis at "+s.Addr+" does not answer")
	s.Continue()
	proxytest.Eventually(t, "the proxy is ready", func() bool { return p.state() == "ready" })
	p.leaf(t, anyone())
	s.Kill()
	assert.Equal(t, "ready", p.state(), "certificates in memory are served without Redis")
	p.leaf(t, anyone())
	p.end(syscall.SIGTERM)
	assert.Equal(t, 0, p.cmd.ProcessState.ExitCode(), p.said())
}

func TestAnUnsuitableRedisIsRefusedAtStart(t *testing.T) {
	locked := redistest.Start(t, "--requirepass", "secret")
	evicting := redistest.Start(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
	for url, want := range map[string]string{
		locked.URL:   "requires a password: put it into the URL",
		evicting.URL: "CONFIG SET maxmemory-policy noeviction",
	} {
		p := launch(t, "-redis", url, "-addr", "127.0.0.1:0", "-http", "127.0.0.1:0", "-ready", "127.0.0.1:0", host+"=localhost:1")
		<-p.ended
		assert.Equal(t, 1, p.cmd.ProcessState.ExitCode())
		assert.Contains(t, p.said(), want)
	}
}

func TestBadArgumentsAreExplained(t *testing.T) {
	for args, wants := range map[string][]string{
		"":                      {"no routes: want host=target"},
		"app.localhost":         {`argument "app.localhost": want host=target`},
		"=localhost:1":          {`argument "=localhost:1": want host=target`},
		"a.test=b:1 a.test=c:1": {`argument "a.test=c:1": host "a.test" is there twice: keep one of "a.test=b:1" and this, with all targets, separated by commas`},
		"a.test=b:1 A.TEST=c:1": {`argument "A.TEST=c:1": host "a.test" is there twice: keep one of "a.test=b:1" and this`},
		"bücher.test=b:1 xn--bcher-kva.test=b:1 a.test/x=b:1 A.test/x=b:1": {`"xn--bcher-kva.test=b:1"`, `"A.test/x=b:1": host "a.test/x/" is there twice`},
		"-dir x -redis redis://y a.test=b:1":                               {"-dir and -redis exclude each other"},
		"-dir x -rate 3 a.test=b:1":                                        {"-rate needs Redis"},
		"-burst 3 a.test=b:1":                                              {"-burst needs -rate"},
		"-trust x a.test=b:1":                                              {"-trust needs -ca", "-trust: open x"},
		"-trust main.go -ca https://ca a.t=b":                              {`-trust: "main.go" has no certificate: want PEM`},
		"-trusted 10.0.0.0/8,10 a.test=b:1":                                {`"10": want an address with the length of its prefix`},
		"-burst 3 -trust main.go":                                          {"no routes", "-burst needs -rate", "-trust needs -ca", "no certificate"},
		"-delay soon a.test=b:1":                                           {"-delay"},
		"-delay -1s a.test=b:1":                                            {"-delay -1s is negative"},
	} {
		_, err := parse(strings.Fields(args), "")
		for _, want := range wants {
			assert.ErrorContains(t, err, want, args)
		}
	}
	for args, want := range map[string]string{
		"-redis http://localhost a.test=b:1":          `scheme "http": want redis://`,
		"-dir " + t.TempDir() + " a..b=localhost:1":   "a..b",
		"-rate -1 -redis redis://localhost:1 a.t=b:1": "LimiterOptions.Rate -1",
		"-redis redis://localhost:1 -delay 0 -addr 127.0.0.1:99999 -http 127.0.0.1:0 -ready 127.0.0.1:0 a.test=b:1": "99999",
	} {
		s, err := parse(strings.Fields(args), "")
		require.NoError(t, err, args)
		assert.ErrorContains(t, s.run(t.Context()), want, args)
	}
	s, err := parse([]string{"a.test=b:1"}, "redis://elsewhere")
	require.NoError(t, err)
	assert.Equal(t, "redis://elsewhere", s.redis)
}
