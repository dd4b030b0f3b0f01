package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A server is a Redis server of one test, empty and without persistence.
type server struct {
	url    string
	client *redis.Client // for looking behind the storage
	stop   func()        // kills it; may be called again
}

// startRedis runs redis-server until the test ends.
func startRedis(t *testing.T) *server {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	require.NoError(t, err, "redis-server is missing: install it with apt-get install redis-server, or put it on the PATH")
	for range 5 { // another process may be faster to take the port
		_, port, err := net.SplitHostPort(proxytest.Free(t))
		require.NoError(t, err)
		if s := tryRedis(t, path, port); s != nil {
			return s
		}
	}
	require.Fail(t, "redis-server does not start")
	return nil
}

// tryRedis starts a server on a port, or returns nil if it ends instead.
func tryRedis(t *testing.T, path, port string) *server {
	t.Helper()
	said := new(bytes.Buffer)
	cmd := exec.Command(path, "--bind", "127.0.0.1", "--port", port, "--dir", t.TempDir(), "--save", "", "--appendonly", "no")
	cmd.Stdout = said
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // that it was killed is no news
	}()
	stop := sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	t.Cleanup(stop)
	address := net.JoinHostPort("127.0.0.1", port)
	if !answers(address, ended) {
		stop()
		t.Logf("redis-server on port %s:\n%s", port, said)
		return nil
	}
	url := fmt.Sprintf("redis://%s/0", address)
	return &server{url: url, client: open(t, url).client, stop: stop}
}

// answers waits until something listens at address, and reports false when it ends instead.
func answers(address string, ended <-chan struct{}) bool {
	for give := time.Now().Add(proxytest.Patience); time.Now().Before(give); {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return true
		}
		select {
		case <-ended:
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
	return false
}

// open opens the storage at url until the test ends, as a process of its own would.
func open(t *testing.T, url string) *storage {
	t.Helper()
	s, err := openStorage(url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.client.Close() })
	return s
}

// hasty opens the storage with locks that end so long after their holder.
func hasty(t *testing.T, url string, ttl time.Duration) *storage {
	t.Helper()
	s := open(t, url)
	s.ttl = ttl
	return s
}

// within returns a context that ends so soon, and at the latest with the test.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
