//go:build unix && !portable

package service_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/service"
)

// childEnv is set in a child process of a test; its value says what the child
// does.
const childEnv = "HOSTPROXY_TEST_CHILD"

func TestMain(m *testing.M) {
	if what, ok := os.LookupEnv(childEnv); ok {
		child(what)
		return
	}
	proxytest.Main(m)
}

// child does what its test requests.
func child(what string) {
	switch what {
	case "exit":
		os.Exit(3)
	case "hang":
		fmt.Println("started")
	case "close":
		os.NewFile(4, "say").Close()
	case "garbage":
		fmt.Fprintln(os.NewFile(4, "say"), "hello, proxy")
	case "leave": // after the old process has let it accept
		fmt.Fprintln(os.NewFile(4, "say"), "ready")
		_, _ = bufio.NewReader(os.NewFile(5, "hear")).ReadString('\n')
		os.Exit(4)
	case "ponder": // takes over when the test allows it
		fmt.Fprintln(os.NewFile(4, "say"), "ready")
		_, _ = bufio.NewReader(os.NewFile(5, "hear")).ReadString('\n')
		fmt.Println("told")
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		fmt.Fprintln(os.NewFile(4, "say"), "serving")
	case "brief": // takes over and ends
		fmt.Fprintln(os.NewFile(4, "say"), "ready")
		_, _ = bufio.NewReader(os.NewFile(5, "hear")).ReadString('\n')
		fmt.Fprintln(os.NewFile(4, "say"), "serving")
		return
	case "half": // serves one of two sockets
		all, err := service.Inherit()
		if err == nil {
			var ln net.Listener
			if ln, err = all.Listener("a"); err == nil {
				go answer(ln)
			}
		}
		if err != nil {
			os.Exit(1)
		}
	case "list":
		list()
		return
	default:
		serve(strings.Fields(what))
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends or kills it
}

// list prints the inherited sockets.
func list() {
	if os.Getenv("LISTEN_PID") == "mine" {
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	}
	all, err := service.Inherit()
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	for {
		ln, err := all.Listener("web")
		if err != nil {
			fmt.Println("web:", err)
			break
		}
		fmt.Println("web", ln.Addr())
		ln.Close()
	}
	if _, err := all.Listen("api", func() (net.Listener, error) { return nil, os.ErrPermission }); err != os.ErrPermission {
		fmt.Println("api:", err)
	}
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "LISTEN_") || strings.HasPrefix(v, "HOSTPROXY_HANDOVER") {
			fmt.Println("left:", v)
		}
	}
	if err := all.Close(); err != nil {
		fmt.Println("close:", err)
	}
}

// serve answers each connection to the named sockets with the process ID.
func serve(names []string) {
	all, err := service.Inherit()
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	for _, name := range names {
		ln, err := all.Listener(name)
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		go answer(ln)
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			ln.Close()
			os.Exit(0)
		}()
	}
	if err := all.Close(); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	select {}
}

func answer(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		fmt.Fprintf(c, "%d\n", os.Getpid())
		c.Close()
	}
}

// program returns a command that runs child. Its standard input is closed when
// the test ends.
func program(t *testing.T, what string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+what)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	t.Cleanup(func() { in.Close() })
	return cmd
}

// asked returns the ID of the process that answers at addr.
func asked(t *testing.T, network, addr string) int {
	t.Helper()
	c, err := net.Dial(network, addr)
	require.NoError(t, err)
	defer c.Close()
	line, err := io.ReadAll(c)
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(line)))
	require.NoError(t, err)
	return pid
}

// begun begins the turn of one server with the sockets. It ends with the test.
func begun(t *testing.T, sockets ...service.Socket) (turns *service.Turns, passed context.Context) {
	t.Helper()
	turns = new(service.Turns)
	passed, end := turns.Begin(t.Context(), "server", discard, sockets)
	t.Cleanup(end)
	return turns, passed
}
