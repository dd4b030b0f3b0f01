package reload_test

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestTheModuleIsCompleteOutsideTheTree(t *testing.T) {
	text, err := os.ReadFile("cmd/proxy/main.go")
	require.NoError(t, err)
	proxytest.BuildOutside(t, string(text))
}

// rootsOf returns the root of the LocalCA in a storage. It waits until there is
// one.
func rootsOf(t *testing.T, storage string) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	proxytest.Eventually(t, "a root", func() bool {
		pem, err := os.ReadFile(filepath.Join(storage, "localca", "root.crt"))
		return err == nil && pool.AppendCertsFromPEM(pem)
	})
	return pool
}
