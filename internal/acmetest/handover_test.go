package acmetest_test

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// handOver hands s over at a SIGHUP, to a new process of the same program.
func (c *nodeConfig) handOver(s *hostproxy.Server) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	<-hup
	cmd := exec.Command(os.Args[0])
	log, err := os.Create(c.Heir + ".log") // inherited standard error would make the test wait
	if err != nil {
		panic(err)
	}
	cmd.Stderr = log
	if err := s.HandOver(context.Background(), cmd); err != nil {
		panic(err)
	}
	if err := os.WriteFile(c.Heir, []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		panic(err)
	}
}

// An order continues while its process hands over: the new process answers the
// challenge, and a handshake that waits in the old process gets the
// certificate.
func TestAnOrderContinuesDuringAHandOver(t *testing.T) {
	const host = "a.example.com"
	ca, _, c := pair(t, host)
	c.Heir = filepath.Join(t.TempDir(), "heir")
	release := ca.Hold("/authZ/")
	defer release()
	old := spawn(t, ca, c)
	proxytest.Eventually(t, "the order", func() bool { return ca.Seen("/authZ/") > 0 })
	conn, err := net.Dial("tcp", c.HTTPS)
	require.NoError(t, err)
	waiting := make(chan error, 1)
	client := tls.Client(conn, &tls.Config{ServerName: host, InsecureSkipVerify: true})
	go func() { waiting <- client.HandshakeContext(t.Context()) }()
	require.NoError(t, old.cmd.Process.Signal(syscall.SIGHUP))
	pid := 0
	proxytest.Eventually(t, "the new process", func() bool {
		text, err := os.ReadFile(c.Heir)
		pid, _ = strconv.Atoi(string(text))
		return err == nil && pid > 0
	})
	t.Cleanup(func() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		if text, err := os.ReadFile(c.Heir + ".log"); err == nil && t.Failed() {
			t.Logf("the new process said:\n%s", text)
		}
	})
	release()
	require.NoError(t, <-waiting, "in the old process")
	conn.Close()
	assert.NoError(t, old.cmd.Wait(), "the old process then ends")
	leaf := old.leaf(t, host)
	assert.Equal(t, []string{host}, leaf.DNSNames, "in the new process")
	assert.Equal(t, client.ConnectionState().PeerCertificates[0].SerialNumber, leaf.SerialNumber)
	assert.Equal(t, 1, ca.Seen("/order-plz"))
	assert.Equal(t, 1, ca.Seen("/finalize-order"))
}
