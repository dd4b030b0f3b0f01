package conformance_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

const wsHead = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

// curlBackend answers the requests of the cases below.
func curlBackend(w http.ResponseWriter, q *http.Request) {
	switch q.URL.Path {
	case "/sum":
		sum := sha256.New()
		n, err := io.Copy(sum, q.Body)
		fmt.Fprintf(w, "%d %x %v", n, sum.Sum(nil), err)
	case "/early":
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		_, _ = io.WriteString(w, "too large")
	case "/ws":
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = io.WriteString(c, wsHead+"\x81\x05hello\x88\x00")
			c.Close()
		}
	default:
		fmt.Fprintf(w, "%s %s %s", q.Method, q.RequestURI, q.Host)
	}
}

func TestCurlIsServedOverAllItsProtocols(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Fatal("curl is not installed: apt-get install curl")
	}
	backend := proxytest.NewServer(t, http.HandlerFunc(curlBackend))
	proxy := newFront(t, hostproxy.To(backend.Addr()))

	big := bytes.Repeat([]byte("0123456789abcdef"), 5<<16)
	upload := filepath.Join(t.TempDir(), "upload")
	require.NoError(t, os.WriteFile(upload, big, 0o600))
	sum := fmt.Sprintf("%d %x <nil>", len(big), sha256.Sum256(big))

	h1, h2 := []string{"--http1.1"}, []string{"--http2"}
	tests := []struct {
		about, path string
		args        []string
		want        string // status, version and body
	}{
		{"gets over HTTP/1.1", "/a%2Fb?c=d;e", h1, "200 1.1 GET /a%2Fb?c=d;e localhost"},
		{"gets over HTTP/2", "/a%2Fb?c=d;e", h2, "200 2 GET /a%2Fb?c=d;e localhost"},
		{"asks for the head over HTTP/1.1", "/", append(h1, "-I", "-o", "/dev/null"), "200 1.1 "},
		{"asks for the head over HTTP/2", "/", append(h2, "-I", "-o", "/dev/null"), "200 2 "},
		{"uploads 5 MiB over HTTP/1.1", "/sum", append(h1, "--data-binary", "@"+upload), "200 1.1 " + sum},
		{"uploads 5 MiB over HTTP/2", "/sum", append(h2, "--data-binary", "@"+upload), "200 2 " + sum},
		{"uploads in chunks", "/sum", append(h1, "-T", upload, "-H", "Transfer-Encoding: chunked"), "200 1.1 " + sum},
		{"waits for 100 Continue", "/sum", append(h1, "-T", upload, "-H", "Expect: 100-continue", "--expect100-timeout", "30"), "200 1.1 " + sum},
		{"is refused instead of 100 Continue", "/early", append(h1, "-T", upload, "-H", "Expect: 100-continue", "--expect100-timeout", "30"), "413 1.1 too large"},
		{"upgrades to a WebSocket", "/ws", append(h1, "-H", "Connection: Upgrade", "-H", "Upgrade: websocket",
			"-H", "Sec-WebSocket-Version: 13", "-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), "101 1.1 \x81\x05hello\x88\x00"},
	}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			out, err := curl(t, proxy, tt.path, tt.args...)
			require.NoError(t, err, "%s", out)
			assert.Equal(t, tt.want, string(out))
		})
	}
}

func TestCurlGetsA502WithoutABackend(t *testing.T) {
	proxy := newFront(t, hostproxy.To(proxytest.Refused(t)))
	out, err := curl(t, proxy, "/", "-f")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, 22, exit.ExitCode())
	assert.Contains(t, string(exit.Stderr)+string(out), "502")
}

// curl requests path and returns the status, the HTTP version and the body.
func curl(t *testing.T, proxy *front, path string, args ...string) ([]byte, error) {
	t.Helper()
	args = append(args, "-sS", "--cacert", proxy.caFile, "--connect-to", "localhost:443:"+proxy.HTTPS,
		"-w", "%{stderr}%{http_code} %{http_version} ", "https://localhost"+path)
	cmd := command(t, time.Minute, "curl", args...)
	var body, facts bytes.Buffer
	cmd.Stdout, cmd.Stderr = &body, &facts
	err := cmd.Run()
	return append(facts.Bytes(), body.Bytes()...), err
}
