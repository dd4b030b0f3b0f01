package hostproxy_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// programEnv is set in a process that runs the README's program on another
// port. Its value is the target.
const programEnv = "HOSTPROXY_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if target, ok := os.LookupEnv(programEnv); ok {
		program(target)
		return
	}
	if what, ok := os.LookupEnv(visitEnv); ok {
		visitUntilEOF(what)
		return
	}
	_ = flag.Set("test.parallel", "32") // parallel tests mostly wait; -parallel overrides this
	proxytest.Main(m)
}

// program serves target until a signal comes. It prints its address.
func program(target string) {
	var r hostproxy.Router
	r.Handle("a.test", hostproxy.To(target))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	serve := func(ctx context.Context) error {
		fmt.Println(ln.Addr()) // from now on, signals are handled
		return (&hostproxy.Server{Router: &r}).Serve(ctx, nil, ln)
	}
	if err := hostproxy.UntilSignal(context.Background(), serve); err != nil {
		log.Fatal(err)
	}
}

// launch runs program until the end of the test at most.
func launch(t *testing.T, target string) (p *exec.Cmd, addr string) {
	t.Helper()
	p = exec.Command(os.Args[0])
	p.Env = append(os.Environ(), programEnv+"="+target)
	out, err := p.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.Start())
	t.Cleanup(func() { _ = p.Process.Kill(); _ = p.Wait() })
	addr, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return p, strings.TrimSpace(addr)
}

func TestTheShortestProgramShutsDownCleanlyOnASignal(t *testing.T) {
	for _, s := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		t.Run(s.String(), func(t *testing.T) {
			arrived, finish := make(chan struct{}), make(chan struct{})
			backend := proxytest.NewServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(arrived); <-finish }))
			p, addr := launch(t, backend.Addr())
			c := proxytest.Dial(t, addr)
			c.Send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
			<-arrived
			require.NoError(t, p.Process.Signal(s))
			proxytest.Eventually(t, "the listener to close", func() bool {
				c, err := net.Dial("tcp", addr)
				if err == nil {
					c.Close()
				}
				return err != nil
			})
			close(finish)
			assert.Equal(t, 200, c.Response("GET").StatusCode, "the request in flight finishes")
			assert.NoError(t, p.Wait(), "exit status 0")
		})
	}
}

func TestASecondSignalEndsTheProgramImmediately(t *testing.T) {
	arrived := make(chan struct{})
	backend := proxytest.NewBackend(t, func(c *proxytest.BackendConn) {
		_, _ = c.ReadRequest()
		close(arrived)
		c.Wait(nil)
	})
	p, addr := launch(t, backend.Addr())
	proxytest.Dial(t, addr).Send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	<-arrived
	ended := make(chan error, 1)
	go func() { ended <- p.Wait() }()
	// the first signal is handled some time after it is sent
	proxytest.Eventually(t, "the process to end", func() bool {
		_ = p.Process.Signal(syscall.SIGTERM)
		return len(ended) > 0
	})
	var exit *exec.ExitError
	require.ErrorAs(t, <-ended, &exit)
	assert.Equal(t, syscall.SIGTERM, exit.Sys().(syscall.WaitStatus).Signal())
}
