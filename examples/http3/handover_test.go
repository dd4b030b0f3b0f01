package http3_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/http3"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// Set in a process that takes over: the UDP address and the directory of the
// certificate.
const addrEnv, filesEnv = "HTTP3_TEST_ADDR", "HTTP3_TEST_FILES"

// takeOver runs the new process of the hand-over test until its standard input
// ends.
func takeOver(addr string) error {
	sockets, err := hostproxy.Inherited()
	if err != nil {
		return err
	}
	https, err := sockets.Listener("https")
	if err != nil {
		return err
	}
	dir := os.Getenv(filesEnv)
	var r hostproxy.Router
	r.TLS.Files = []hostproxy.CertFile{{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}}
	r.Handle("a.test", hello("next"))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	s := &hostproxy.Server{Router: &r, Companions: []hostproxy.Companion{&http3.Server{Addr: addr, BindTimeout: time.Minute}}}
	return s.Serve(ctx, https, nil)
}

// Requests run over HTTP/3 and HTTP/2, as from browsers, while a new process
// takes over.
func TestNoRequestFailsDuringAHandOver(t *testing.T) {
	cert, roots := proxytest.Certificate(t, "a.test")
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	require.NoError(t, err)
	for name, b := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: cert.Certificate[0]}, "key.pem": {Type: "PRIVATE KEY", Bytes: key}} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(b), 0o600))
	}
	began, goOn := make(chan bool), make(chan bool)
	old := newSite(t, "a.test")
	old.router.TLS.Config.Certificates[0], old.roots = cert, roots
	old.router.Handle("a.test", hello("old"))
	old.router.Handle("a.test/slow", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		began <- true
		<-goOn
		fmt.Fprint(w, "whole")
	}))
	https := proxytest.Listen(t)
	ended := make(chan error, 1)
	go func() { ended <- old.server.Serve(t.Context(), https, nil) }()
	proxytest.Eventually(t, "the socket is open", func() bool { return old.own.LocalAddr() != nil })
	old.run = &proxytest.Running{HTTPS: https.Addr().String()}
	h2, addr := old.client(t, "h2"), old.own.LocalAddr().(*net.UDPAddr)
	to := func() string { return addr.String() }
	slow := make(chan string, 1)
	first := h3Client(t, h2.Transport.(*http.Transport).TLSClientConfig.Clone(), to)
	go func() {
		res, err := first.Get("https://a.test/slow")
		if err != nil {
			slow <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		slow <- string(b)
	}()
	<-began

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), addrEnv+"="+to(), filesEnv+"="+dir)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, old.server.HandOver(t.Context(), cmd))
	_, body, _ := get(t, old.client(t, "h2"), "https://a.test/")
	assert.Equal(t, "next 2", body, "HTTP/2 works while the old process has the UDP socket")
	goOn <- true
	assert.Equal(t, "whole", <-slow)
	assert.NoError(t, <-ended)
	proxytest.Eventually(t, "the new process has the socket", func() bool {
		res, err := h3Client(t, h2.Transport.(*http.Transport).TLSClientConfig.Clone(), to).Get("https://a.test/")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return string(b) == "next 3"
	})
	stdin.Close()
	assert.NoError(t, cmd.Wait())
}
