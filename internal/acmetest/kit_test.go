package acmetest_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/acmetest"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// command runs a program until the test ends. Its output is logged if the test
// fails.
func command(t *testing.T, path string, args ...string) (cmd *exec.Cmd, ended chan struct{}) {
	t.Helper()
	said := new(bytes.Buffer)
	cmd, ended = exec.Command(path, args...), make(chan struct{})
	cmd.Stdout, cmd.Stderr = said, said
	require.NoError(t, cmd.Start(), "install it with apt-get")
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(path), said)
		}
	})
	return cmd, ended
}

// A member is a process of examples/cluster/cmd/proxy.
type member struct {
	proxy
	program, http, ready string
	cmd                  *exec.Cmd
	ended                chan struct{}
}

// start runs the member for these hosts.
func (m *member) start(t *testing.T, flags []string, hosts ...string) {
	t.Helper()
	args := append([]string{"-addr", m.https, "-http", m.http, "-ready", m.ready}, flags...)
	for _, host := range hosts {
		args = append(args, host+"=127.0.0.1:1")
	}
	m.cmd, m.ended = command(t, m.program, args...)
	proxytest.Eventually(t, "the proxy is ready", func() bool {
		res, err := http.Get("http://" + m.ready + "/")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == 200
	})
}

// stop shuts the member down gracefully.
func (m *member) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, m.cmd.Process.Signal(syscall.SIGTERM))
	<-m.ended
	assert.Equal(t, 0, m.cmd.ProcessState.ExitCode())
}

// haproxy distributes connections among the members that are ready.
func haproxy(t *testing.T, members []*member) (https, plain, stats string) {
	t.Helper()
	https, plain, stats = proxytest.Free(t), proxytest.Free(t), proxytest.Free(t)
	text := new(strings.Builder)
	text.WriteString("defaults\n\tmode tcp\n\ttimeout connect 2s\n\ttimeout client 30s\n\ttimeout server 30s\n\toption redispatch\n\tdefault-server check inter 100ms fall 2 rise 1\n")
	for name, addr := range map[string]string{"https": https, "http": plain} {
		fmt.Fprintf(text, "frontend %s\n\tbind %s\n\tdefault_backend %[1]s\nbackend %[1]s\n\tbalance roundrobin\n\toption httpchk GET /\n", name, addr)
		for i, m := range members {
			to := map[string]string{"https": m.https, "http": m.http}[name]
			fmt.Fprintf(text, "\tserver m%d %s port %s send-proxy-v2\n", i, to, m.ready[strings.LastIndex(m.ready, ":")+1:])
		}
	}
	fmt.Fprintf(text, "frontend stats\n\tmode http\n\tbind %s\n\tstats enable\n\tstats uri /\n", stats)
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	require.NoError(t, os.WriteFile(file, []byte(text.String()), 0o600))
	path, err := exec.LookPath("haproxy")
	if err != nil {
		path = "/usr/sbin/haproxy"
	}
	command(t, path, "-db", "-f", file)
	proxytest.Eventually(t, "haproxy listens", func() bool {
		c, err := net.Dial("tcp", stats)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return https, plain, stats
}

// used waits until HAProxy sends connections to all members.
func used(t *testing.T, stats string, members []*member) {
	t.Helper()
	proxytest.Eventually(t, "haproxy uses all members", func() bool {
		res, err := http.Get("http://" + stats + "/;csv")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		return len(regexp.MustCompile(`(?m)^https?,m\d,.*,UP,`).FindAll(text, -1)) == 2*len(members)
	})
}

// A host is added to one of three proxies behind a load balancer, which sends
// the CA's requests to all of them. The others answer for it, and later serve
// its certificate, which was ordered once.
func TestAHostMayBeAddedToOneMemberFirst(t *testing.T) {
	program := filepath.Join(t.TempDir(), "proxy")
	out, err := exec.Command("go", "build", "-C", "../../examples/cluster", "-o", program, "./cmd/proxy").CombinedOutput()
	require.NoError(t, err, "%s", out)
	redis := proxytest.Free(t)
	_, port, _ := net.SplitHostPort(redis)
	command(t, "redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", t.TempDir())
	members := make([]*member, 3)
	for i := range members {
		members[i] = &member{proxy: proxy{https: stable(t)}, program: program, http: stable(t), ready: stable(t)}
	}
	https, plain, stats := haproxy(t, members)
	ca := acmetest.New(t, acmetest.Options{TLSPort: portOf(t, https), HTTPPort: portOf(t, plain)})
	trust := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(trust, ca.PEM, 0o600))
	flags := []string{"-redis", "redis://" + redis, "-ca", ca.URL, "-trust", trust, "-tickets", "-proxy-protocol", "127.0.0.0/8", "-delay", "500ms"}
	const first, second = "a.example.com", "b.example.com"
	order := ca.Hold("/order-plz")
	for _, m := range members {
		m.ca = ca
		m.start(t, flags, first)
	}
	used(t, stats, members)
	order()
	behind := &node{proxy: proxy{ca: ca, https: https}}
	serial := behind.leaf(t, first).SerialNumber
	orders := ca.Seen("/order-plz")
	assert.Equal(t, 1, orders)

	var added string
	for i, m := range members {
		used(t, stats, members)
		m.stop(t)
		m.start(t, flags, first, second)
		leaf := direct(t, m, second)
		if i > 0 {
			assert.Equal(t, added, leaf, "member %d", i)
		}
		added = leaf
	}
	assert.Equal(t, orders+1, ca.Seen("/order-plz"), "one order for the new host")
	assert.Equal(t, serial, behind.leaf(t, first).SerialNumber)
	assert.Equal(t, added, behind.leaf(t, second).SerialNumber.String())
}

// stable returns an address that stays free while nothing listens there: this
// machine makes no outgoing connections from it.
func stable(t *testing.T) string {
	t.Helper()
	return strings.Replace(proxytest.Free(t), "127.0.0.1", "127.0.0.2", 1)
}

// direct waits for the certificate that one member serves, and returns its
// serial number. Members require a PROXY protocol header from this machine, as
// HAProxy sends it.
func direct(t *testing.T, m *member, host string) (serial string) {
	t.Helper()
	proxytest.Eventually(t, "the member has the certificate", func() bool {
		c, err := net.Dial("tcp", m.https)
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(proxytest.Patience))
		_, _ = io.WriteString(c, "PROXY TCP4 192.0.2.1 127.0.0.1 40000 443\r\n")
		s := tls.Client(c, &tls.Config{ServerName: host, InsecureSkipVerify: true})
		if s.Handshake() != nil {
			return false
		}
		serial = s.ConnectionState().PeerCertificates[0].SerialNumber.String()
		return true
	})
	return serial
}

// portOf returns the port of an address.
func portOf(t *testing.T, addr string) int {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", addr)
	require.NoError(t, err)
	return a.Port
}
