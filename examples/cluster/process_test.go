package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// argsEnv is set where this binary is not to test but to be the command.
const argsEnv = "CLUSTER_ARGS"

func TestMain(m *testing.M) {
	if args, ok := os.LookupEnv(argsEnv); ok {
		os.Args = append(os.Args[:1], strings.Fields(args)...)
		main()
		return
	}
	proxytest.Main(m)
}

// A process runs the command.
type process struct {
	*node
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has
	said  bytes.Buffer  // once ended is closed
}

// launch runs the command with these arguments, until the test ends.
func launch(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0]), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), argsEnv+"="+strings.Join(args, " "))
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // ProcessState has it all
	}()
	t.Cleanup(func() { p.end(t, os.Kill) })
	return p
}

// end sends the process a signal and waits for its end.
func (p *process) end(t *testing.T, s os.Signal) {
	t.Helper()
	_ = p.cmd.Process.Signal(s) // it may be gone already
	<-p.ended
}

// join adds a process to the cluster in the Redis at url, with one host.
func join(t *testing.T, url, host, target string) *process {
	t.Helper()
	for range 5 { // another process may be faster to take a port
		https := proxytest.Free(t)
		p := launch(t, "-redis", url, "-addr", https, "-http", "127.0.0.1:0", "-upstream", host+"="+target)
		if answers(https, p.ended) {
			p.node = &node{Running: &proxytest.Running{HTTPS: https}}
			return p
		}
		t.Logf("%s", &p.said)
	}
	require.Fail(t, "the command does not start")
	return nil
}

func TestProcessesShareCertificatesAndOutliveEachOther(t *testing.T) {
	const host = "app.localhost"
	redis := startRedis(t)
	backend := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }))
	first, second := join(t, redis.url, host, backend.Addr()), join(t, redis.url, host, backend.Addr())
	leaf := first.leaf(t, host)
	first.end(t, syscall.SIGKILL)
	assert.Equal(t, leaf.SerialNumber, second.leaf(t, host).SerialNumber)

	third := join(t, redis.url, host, backend.Addr())
	assert.Equal(t, leaf.SerialNumber, third.leaf(t, host).SerialNumber)
	client := proxytest.HTTPClient(t, third.HTTPS, roots(t, (&node{storage: open(t, redis.url)}).root(t)), "h2")
	p, err := client.Get("https://" + host + "/")
	require.NoError(t, err)
	body, err := io.ReadAll(p.Body)
	require.NoError(t, err)
	require.NoError(t, p.Body.Close())
	assert.Equal(t, "here", string(body))

	for _, q := range []*process{second, third} {
		q.end(t, syscall.SIGTERM)
		assert.Equal(t, 0, q.cmd.ProcessState.ExitCode(), "%s", &q.said)
	}
}

func TestBadArgumentsAreExplained(t *testing.T) {
	for args, want := range map[string]string{
		"-upstream app.localhost":              "want host=target",
		"-upstream a..b=localhost:1":           "a..b",
		"-redis http://localhost -addr :0":     "redis: ",
		"-addr 127.0.0.1:99999 -http :0":       "99999",
		"-upstream a.test=b -upstream a.test=": "want host=target",
	} {
		p := launch(t, strings.Fields(args)...)
		<-p.ended
		assert.NotZero(t, p.cmd.ProcessState.ExitCode(), args)
		assert.Contains(t, p.said.String(), want, args)
	}
}
