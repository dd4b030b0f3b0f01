package main

import (
	"io"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheFlagSetsTheTrustedProxies(t *testing.T) {
	var p proxy
	require.NoError(t, p.flags().Parse([]string{"-trusted-proxies", "10.0.0.0/8, ::1", "-trusted-proxies", "192.0.2.1"}))
	p.configure()
	assert.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("192.0.2.1/32")},
		p.router.TrustedProxies)
	for _, bad := range []string{"", "10.0.0.0/33", "lb.internal", "10.0.0.0/8,", "fe80::1%eth0"} {
		fs := new(proxy).flags()
		fs.SetOutput(io.Discard)
		assert.ErrorContains(t, fs.Parse([]string{"-trusted-proxies", bad}), "want prefixes such as 10.0.0.0/8", bad)
	}
	assert.Equal(t, exitUsage, run([]string{"-trusted-proxies", "nix"}))
}
