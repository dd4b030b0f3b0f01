package conformance_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// interop lists the cases that grpc-go runs in its interop_test.sh. Read-only.
var interop = strings.Fields(`
	empty_unary large_unary client_streaming server_streaming ping_pong empty_stream timeout_on_sleeping_server
	cancel_after_begin cancel_after_first_response status_code_and_message special_status_message custom_metadata
	unimplemented_method unimplemented_service orca_per_rpc orca_oob rpc_soak channel_soak
`)

// grpc-go's own client and server run with the Server between them.
func TestGRPCInteroperabilityCasesPass(t *testing.T) {
	require.Len(t, interop, 18)
	client := build(t, "google.golang.org/grpc/interop/client")
	backend := grpcServer(t, build(t, "google.golang.org/grpc/interop/server"))
	proxy := newFront(t, hostproxy.To("h2c://"+backend))
	_, port, err := net.SplitHostPort(proxy.HTTPS)
	require.NoError(t, err)

	for _, name := range interop {
		t.Run(name, func(t *testing.T) {
			args := []string{"-server_host=localhost", "-server_port=" + port, "-use_tls", "-use_test_ca", "-ca_file=" + proxy.caFile, "-test_case=" + name}
			if strings.HasPrefix(name, "orca") {
				args = append(args, `-service_config_json={"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}`)
			}
			out, err := command(t, time.Minute, client, args...).CombinedOutput()
			assert.NoError(t, err, "%s", out)
		})
	}
}

// grpcServer starts the interop server on a free port. It returns its address
// once the server accepts connections.
func grpcServer(t *testing.T, program string) string {
	t.Helper()
	addr := proxytest.Free(t)
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	cmd := command(t, 5*time.Minute, program, "-port="+port)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	proxytest.Eventually(t, "the interop server", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return addr
}
