package hostname_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

func TestIsInternalFindsLocalNamesAndReservedAddresses(t *testing.T) {
	for _, host := range []string{
		"localhost", "app.localhost", "a.b.localhost", "test", "app.test", "db.internal", "printer.local", "nas.home.arpa", "home.arpa",
		"127.0.0.1", "127.9.9.9", "10.1.2.3", "172.31.0.1", "192.168.0.1", "169.254.1.1", "100.64.0.1", "0.0.0.0", "192.0.2.1",
		"198.19.0.1", "203.0.113.9", "224.0.0.1", "255.255.255.255",
		"::1", "::", "fe80::1", "fd00::1", "ff02::1", "2001:db8::1", "2002:a00::1", "3fff::1", "::ffff:10.0.0.1", "64:ff9b:1::1", "100::1", "5f00::1",
	} {
		assert.True(t, hostname.IsInternal(host), "%s is internal", host)
	}
	for _, host := range []string{
		"example.com", "localhost.example.com", "mylocalhost", "contest", "arpa", "not-home.arpa", "internal.example", "local.net", "tested",
		"1.1.1.1", "172.32.0.1", "100.128.0.1", "198.20.0.1", "11.0.0.1",
		"2606:4700::1111", "2a00:1450::1", "2001:4860:4860::8888", "::ffff:1.1.1.1",
	} {
		assert.False(t, hostname.IsInternal(host), "%s is public", host)
	}
}
