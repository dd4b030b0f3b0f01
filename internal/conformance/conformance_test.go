// Package conformance_test runs third-party test suites against a real Server:
// h2spec for its HTTP/2, the gRPC interoperability cases with TLS in front and
// h2c behind, curl, and Chromium. It is a separate module, because the suites
// need hundreds of packages that users of hostproxy should not have to
// download.
package conformance_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// A front is a Server with one route for all hosts, and the file of the
// certificate to trust.
type front struct {
	*proxytest.Running
	roots  *x509.CertPool
	caFile string
}

// newFront starts a Server in front of h.
func newFront(t *testing.T, h http.Handler) *front {
	t.Helper()
	var r hostproxy.Router
	r.Handle("*", h)
	config, roots := proxytest.TLS(t)
	r.TLS.Config = config
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: config.Certificates[0].Certificate[0]})
	require.NoError(t, os.WriteFile(caFile, text, 0o600))
	return &front{proxytest.Start(t, &hostproxy.Server{Router: &r}), roots, caFile}
}

// build compiles a command that go.mod lists as a tool.
func build(t *testing.T, pkg string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), filepath.Base(pkg))
	out, err := exec.Command("go", "build", "-o", program, pkg).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

// command returns a command that is killed after limit, or when the test ends.
func command(t *testing.T, limit time.Duration, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	return cmd
}
