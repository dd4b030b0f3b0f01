// Package redistest runs redis-server for tests: a single server, a master with
// a replica and Sentinels, or a Redis Cluster. Each server is a process that
// ends with the test. Only tests import this package.
package redistest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience limits each wait.
const patience = 30 * time.Second

// A Server is a running redis-server.
type Server struct {
	Addr, Port string
	URL        string // URL of database 0

	cmd   *exec.Cmd
	ended chan struct{} // closed when the process ends
	said  *bytes.Buffer // output; valid once ended is closed
}

// Start starts a server. It persists nothing unless more arguments change that.
func Start(t testing.TB, more ...string) *Server {
	t.Helper()
	return start(t, append([]string{"--save", "", "--appendonly", "no"}, more...))
}

// start tries ports until one is free.
func start(t testing.TB, args []string) *Server {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal("redistest: redis-server is missing: install it with apt-get install redis-server, or put it on the PATH")
	}
	for range 5 { // another process may take the port first
		s := &Server{Port: freePort(t), ended: make(chan struct{}), said: new(bytes.Buffer)}
		s.Addr = net.JoinHostPort("127.0.0.1", s.Port)
		s.URL = "redis://" + s.Addr + "/0"
		s.cmd = exec.Command(path, withPort(args, s.Port, t.TempDir())...)
		s.cmd.Stdout, s.cmd.Stderr = s.said, s.said
		if err := s.cmd.Start(); err != nil {
			t.Fatalf("redistest: %v", err)
		}
		go func() {
			defer close(s.ended)
			_ = s.cmd.Wait() // the error only says that it was killed
		}()
		t.Cleanup(s.Kill)
		if s.listens() {
			return s
		}
		s.Kill()
		t.Logf("redis-server on port %s:\n%s", s.Port, s.said)
	}
	t.Fatal("redistest: redis-server does not start")
	return nil
}

// withPort returns the arguments with a port. If args has --tls-port without a
// value, that gets the port instead of --port.
func withPort(args []string, port, dir string) []string {
	var all []string
	plain := true
	for _, arg := range args {
		all = append(all, arg)
		if arg == "--tls-port" {
			all, plain = append(all, port), false
		}
	}
	common := []string{"--bind", "127.0.0.1", "--dir", dir, "--port", port}
	if !plain {
		common[len(common)-1] = "0"
	}
	if len(args) > 0 && !strings.HasPrefix(args[0], "--") { // a configuration file comes first
		return append(append(all[:1:1], common...), all[1:]...)
	}
	return append(common, all...)
}

// freePort returns a free port below 55536, since the bus of a Redis Cluster
// uses the port 10,000 above it.
func freePort(t testing.TB) string {
	t.Helper()
	for range 100 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatalf("redistest: %v", err)
		}
		port := ln.Addr().(*net.TCPAddr).Port
		ln.Close()
		if port <= 55535 {
			return strconv.Itoa(port)
		}
	}
	t.Fatal("redistest: no free port below 55536")
	return ""
}

// listens waits until the server accepts connections. It returns false if the
// server ends instead.
func (s *Server) listens() bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for give := time.Now().Add(patience); time.Now().Before(give); {
		if c, err := net.Dial("tcp", s.Addr); err == nil {
			c.Close()
			return true
		}
		select {
		case <-s.ended:
			return false
		case <-tick.C:
		}
	}
	return false
}

// Kill ends the server like a crash. It may be called repeatedly.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill()
	<-s.ended
}

// Stop makes the server hang: the kernel accepts connections, but nothing
// answers.
func (s *Server) Stop() { _ = s.cmd.Process.Signal(syscall.SIGSTOP) }

// Continue ends Stop.
func (s *Server) Continue() { _ = s.cmd.Process.Signal(syscall.SIGCONT) }

// CLI runs redis-cli and returns its output.
func (s *Server) CLI(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "redis-cli", append([]string{"-h", "127.0.0.1", "-p", s.Port}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("redistest: redis-cli %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// A Cluster is a Redis Cluster of three masters.
type Cluster struct {
	Nodes []*Server
	URL   string
}

// StartCluster starts a Redis Cluster, and waits until it serves.
func StartCluster(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{}
	create := []string{"--cluster", "create"}
	for range 3 {
		s := Start(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
		c.Nodes, create = append(c.Nodes, s), append(create, s.Addr)
	}
	c.URL = fmt.Sprintf("redis://%s?cluster=true&addr=%s&addr=%s", c.Nodes[0].Addr, c.Nodes[1].Addr, c.Nodes[2].Addr)
	c.Nodes[0].CLI(t, append(create, "--cluster-yes")...)
	for _, s := range c.Nodes {
		until(t, "cluster_state:ok at "+s.Addr, func() bool { return strings.Contains(s.CLI(t, "cluster", "info"), "cluster_state:ok") })
	}
	return c
}

// A Watched is a master with a replica, and three Sentinels that watch them.
type Watched struct {
	Master, Replica *Server
	URL             string
}

// StartWatched starts the servers and Sentinels. It waits until the Sentinels
// know all of them.
func StartWatched(t testing.TB) *Watched {
	t.Helper()
	w := &Watched{Master: Start(t)}
	w.Replica = Start(t, "--replicaof", "127.0.0.1", w.Master.Port)
	until(t, "the replica follows", func() bool {
		return strings.Contains(w.Replica.CLI(t, "info", "replication"), "master_link_status:up")
	})
	var sentinels []*Server
	for range 3 {
		sentinels = append(sentinels, w.sentinel(t))
	}
	for _, s := range sentinels {
		until(t, "the Sentinels know each other", func() bool {
			info := s.CLI(t, "info", "sentinel")
			return strings.Contains(info, "slaves=1,sentinels=3")
		})
	}
	w.URL = fmt.Sprintf("redis://%s?master_name=main&addr=%s&addr=%s", sentinels[0].Addr, sentinels[1].Addr, sentinels[2].Addr)
	return w
}

// sentinel starts one Sentinel, which needs a writable configuration file.
func (w *Watched) sentinel(t testing.TB) *Server {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sentinel.conf")
	text := "sentinel monitor main 127.0.0.1 " + w.Master.Port + " 2\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 5000\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatalf("redistest: %v", err)
	}
	return start(t, []string{file, "--sentinel"})
}

// until waits for a condition.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for give := time.Now().Add(patience); !done(); <-tick.C {
		if time.Now().After(give) {
			t.Fatalf("redistest: not in time: %s", what)
		}
	}
}
