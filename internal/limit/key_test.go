package limit_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/limit"
)

// addr parses an address; "" means the invalid one.
func addr(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

func TestAnIPv4AddressOrAnIPv6PrefixOf64BitsIsOneClient(t *testing.T) {
	tests := []struct {
		about, a, b string
		same        bool
	}{
		{"an IPv4 address", "192.0.2.1", "192.0.2.1", true},
		{"an IPv4 address and its IPv4-mapped form", "192.0.2.1", "::ffff:192.0.2.1", true},
		{"an IPv4 address and its NAT64 form", "192.0.2.1", "64:ff9b::192.0.2.1", true},
		{"an IPv4 address and its 6to4 network", "192.0.2.1", "2002:c000:201::1", true},
		{"neighbours in IPv4", "192.0.2.1", "192.0.2.2", false},
		{"IPv4 addresses that differ in the first byte", "192.0.2.1", "193.0.2.1", false},
		{"neighbours in IPv4-mapped form", "::ffff:192.0.2.1", "::ffff:192.0.2.2", false},
		{"neighbours in NAT64 form", "64:ff9b::192.0.2.1", "64:ff9b::192.0.2.2", false},
		{"an IPv4 address and the IPv6 address of the same bits", "192.0.2.1", "c000:201::", false},
		{"an IPv4 address and its deprecated IPv4-compatible form", "192.0.2.1", "::192.0.2.1", false},
		{"an IPv4 address and a local-use NAT64 form", "192.0.2.1", "64:ff9b:1::192.0.2.1", false},
		{"the two ends of a /64", "2001:db8:1:2::", "2001:db8:1:2:ffff:ffff:ffff:ffff", true},
		{"a /64 and the next", "2001:db8:1:2::1", "2001:db8:1:3::1", false},
		{"/64s that differ in the first byte", "2001:db8:1:2::1", "2101:db8:1:2::1", false},
		{"the two ends of a /64 next to NAT64", "64:ff9b:0:0:1::1", "64:ff9b:0:0:ffff::2", true},
		{"zones of one link", "fe80::1%eth0", "fe80::2%eth1", true},
		{"two without an address", "", "", true},
		{"one without an address and the first /64", "", "::1", true},
		{"one without an address and the IPv4 loopback", "", "127.0.0.1", false},
		{"one without an address and the unspecified IPv4 address", "", "0.0.0.0", false},
	}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			for _, order := range [][2]string{{tt.a, tt.b}, {tt.b, tt.a}} {
				l := newLimiter(t, limit.Config{Rate: 1, Burst: 1})
				now := time.Now()
				assert.True(t, l.Allow(addr(order[0]), now).OK)
				assert.Equal(t, !tt.same, l.Allow(addr(order[1]), now).OK)
				assert.False(t, l.Allow(addr(order[0]), now).OK)
			}
		})
	}
}

func TestClientsWithoutAnAddressShareOneLimitEvenInAFlood(t *testing.T) {
	const clients = 20_000
	l := newLimiter(t, limit.Config{Rate: 1, Burst: 1})
	now := time.Now()
	for n := range uint32(clients) {
		assert.Equal(t, n == 0, l.Allow(netip.Addr{}, now).OK)
		l.Allow(network(n), now)
	}
}
