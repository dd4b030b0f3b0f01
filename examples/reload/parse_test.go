package reload

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestKeysAreTheNamesOfFields(t *testing.T) {
	for name, want := range map[string]string{
		"ReadHeaderTimeout": "read_header_timeout", "MaxConnsPerClient": "max_conns_per_client", "CAFiles": "ca_files",
		"TLS": "tls", "H2C": "h2c", "GRPC": "grpc", "URI": "uri", "HSTS": "hsts", "DisableARI": "disable_ari", "CA": "ca",
		"HostPolicyTTL": "host_policy_ttl", "RequestID": "request_id", "MACKeyFile": "mac_key_file", "KeyID": "key_id",
		"DNS": "dns", "TestCA": "test_ca", "Targets": "targets", "SRV": "srv", "IncludeSubDomains": "include_sub_domains",
	} {
		assert.Equal(t, want, snake(name))
	}
}
