package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// balancerConf contains the part of HAProxy's configuration that the README
// shows: TLS passes through to the proxies, and the gate answers the health
// checks. The other parts terminate TLS and speak HTTP/1.1 or HTTP/2 to the
// proxies.
const balancerConf = `
global
	stats socket %[1]s/stats.sock mode 600 level admin
defaults
	mode http
	timeout connect 2s
	timeout client 30s
	timeout server 30s
	timeout check 1s
	retries 3
	option redispatch
	default-server check inter 100ms fall 2 rise 1 maxconn 500

frontend through
	mode tcp
	bind %[2]s
	default_backend through
backend through
	mode tcp
	option httpchk GET /
	balance roundrobin
%[6]s
frontend h1
	bind %[3]s
	default_backend h1
backend h1
	option httpchk GET /
	balance roundrobin
%[7]s
frontend h2
	bind %[4]s proto h2
	default_backend h2
backend h2
	option httpchk GET /
	balance roundrobin
%[8]s
frontend stats
	bind %[5]s
	stats enable
	stats uri /
`

// A balancer is a running HAProxy.
type balancer struct {
	through, h1, h2, stats string // addresses
}

// balance runs HAProxy in front of the proxies.
func balance(t *testing.T, proxies []*process) *balancer {
	t.Helper()
	path, err := exec.LookPath("haproxy")
	if err != nil {
		path = "/usr/sbin/haproxy"
	}
	_, err = os.Stat(path)
	require.NoError(t, err, "haproxy is missing: install it with apt-get install haproxy")
	for range 5 { // another process may take a port first
		b := &balancer{through: proxytest.Free(t), h1: proxytest.Free(t), h2: proxytest.Free(t), stats: proxytest.Free(t)}
		if b.start(t, path, proxies) {
			return b
		}
	}
	require.Fail(t, "haproxy does not start")
	return nil
}

func (b *balancer) start(t *testing.T, path string, proxies []*process) bool {
	t.Helper()
	dir, err := os.MkdirTemp("", "haproxy") // t.TempDir may be too long for a socket's path
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	servers := func(options string) string {
		var lines strings.Builder
		for i, p := range proxies {
			fmt.Fprintf(&lines, "\tserver p%d %s port %s %s\n", i, p.https, p.ready[strings.LastIndex(p.ready, ":")+1:], options)
		}
		return lines.String()
	}
	file := filepath.Join(dir, "haproxy.cfg")
	text := fmt.Sprintf(balancerConf, dir, b.through, b.h1, b.h2, b.stats, servers("send-proxy-v2"),
		servers("send-proxy-v2 ssl verify none sni str("+host+") check-sni "+host+" no-check-ssl alpn http/1.1"),
		servers("send-proxy-v2 ssl verify none sni str("+host+") no-check-ssl alpn h2"))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	said := new(bytes.Buffer)
	cmd := exec.Command(path, "-db", "-f", file)
	cmd.Stdout, cmd.Stderr = said, said
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		<-ended
		if t.Failed() {
			t.Logf("haproxy said:\n%s", said)
		}
	})
	up := false
	proxytest.Eventually(t, "haproxy listens", func() bool {
		select {
		case <-ended:
			t.Logf("haproxy said:\n%s", said)
			return true
		default:
		}
		up = b.up(0) >= 0 // HAProxy answers
		return up
	})
	return up
}

// up returns how many backends use proxy i, -1 if HAProxy does not answer.
func (b *balancer) up(i int) int {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: proxytest.Patience}
	res, err := c.Get("http://" + b.stats + "/;csv")
	if err != nil {
		return -1
	}
	defer res.Body.Close()
	rows, err := csv.NewReader(res.Body).ReadAll()
	if err != nil {
		return -1
	}
	up := 0
	for _, row := range rows {
		if row[1] == fmt.Sprint("p", i) && strings.HasPrefix(row[17], "UP") {
			up++
		}
	}
	return up
}

// await waits until all backends use proxy i.
func (b *balancer) await(t *testing.T, i int) {
	t.Helper()
	proxytest.Eventually(t, "the balancer uses the proxy", func() bool { return b.up(i) == 3 })
}
