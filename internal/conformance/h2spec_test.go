package conformance_test

import (
	"encoding/xml"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// TestH2Spec holds the Server to plain net/http in the same run: what net/http passes, the Server passes.
func TestH2Spec(t *testing.T) {
	program := build(t, "github.com/summerwind/h2spec/cmd/h2spec")

	reference := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok"))
	}))
	reference.EnableHTTP2 = true
	reference.StartTLS()
	t.Cleanup(reference.Close)
	proxy := newFront(t, hostproxy.To(proxytest.NewServer(t, nil).Addr()))

	want := h2spec(t, program, reference.Listener.Addr().String())
	got := h2spec(t, program, proxy.HTTPS)
	require.Len(t, got, len(want))
	require.Greater(t, len(want), 140, "h2spec has about 146 cases")
	for name, reason := range got {
		if want[name] == "" {
			assert.Empty(t, reason, name)
		}
	}
}

// h2spec runs all cases against addr and returns why each failed, "" if it did not.
func h2spec(t *testing.T, program, addr string) map[string]string {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	report := filepath.Join(t.TempDir(), "report.xml")
	// It exits with 1 when a case fails; the report says which.
	out, _ := command(t, 5*time.Minute, program, "-h", host, "-p", port, "-t", "-k", "-o", "3", "-j", report).CombinedOutput()
	text, err := os.ReadFile(report)
	require.NoError(t, err, "%s", out)

	var suites struct {
		Suite []struct {
			Package string `xml:"package,attr"`
			Case    []struct {
				Name    string `xml:"classname,attr"`
				Failure string `xml:"failure"`
				Error   string `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	require.NoError(t, xml.Unmarshal(text, &suites))
	result := map[string]string{}
	for _, s := range suites.Suite {
		for _, c := range s.Case {
			result[s.Package+": "+c.Name] = c.Failure + c.Error
		}
	}
	return result
}
