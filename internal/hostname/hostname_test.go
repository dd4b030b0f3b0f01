package hostname_test

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

var (
	label63 = strings.Repeat("a", 63)
	name253 = label63 + "." + label63 + "." + label63 + "." + strings.Repeat("b", 61)
)

// Each row is another spelling of a host, from forwarding.md "Hostile Hosts" or
// from IDNA.
func TestSplitGivesEachHostOneSpelling(t *testing.T) {
	for _, c := range []struct{ what, in, host, port string }{
		{"a canonical name", "api.example.com", "api.example.com", ""},
		{"a single label", "localhost", "localhost", ""},
		{"upper case", "API.Example.COM", "api.example.com", ""},
		{"a trailing dot", "example.com.", "example.com", ""},
		{"a port", "example.com:8443", "example.com", "8443"},
		{"an empty port", "example.com:", "example.com", ""},
		{"the highest port", "example.com:65535", "example.com", "65535"},
		{"upper case, trailing dot and port", "Example.Com.:1", "example.com", "1"},
		{"underscores", "_acme.my_service", "_acme.my_service", ""},
		{"hyphens in third and fourth place", "r3---sn-x.example.com", "r3---sn-x.example.com", ""},
		{"a label of 63 bytes", label63, label63, ""},
		{"a name of 253 bytes", name253, name253, ""},
		{"a name of 253 bytes, a dot and a port", name253 + ".:443", name253, "443"},
		{"digits in a label that is not the last", "4.3.example2.com", "4.3.example2.com", ""},
		{"a last label that only begins with digits", "example.2x", "example.2x", ""},
		{"a last label that is no hexadecimal number", "example.0xg", "example.0xg", ""},
		{"IPv4", "192.0.2.1", "192.0.2.1", ""},
		{"IPv4 with a port", "192.0.2.1:80", "192.0.2.1", "80"},
		{"IPv4 with a trailing dot", "127.0.0.1.", "127.0.0.1", ""},
		{"IPv6", "[2001:db8::1]", "2001:db8::1", ""},
		{"IPv6 with a port", "[::1]:443", "::1", "443"},
		{"IPv6 with an empty port", "[::1]:", "::1", ""},
		{"IPv6 in a long spelling", "[2001:0DB8:0:0::0001]", "2001:db8::1", ""},
		{"IPv4 within IPv6 stays IPv6", "[::FFFF:192.0.2.1]", "::ffff:192.0.2.1", ""},
		{"an international name", "bücher.example", "xn--bcher-kva.example", ""},
		{"an international name with a port", "bücher.example:80", "xn--bcher-kva.example", "80"},
		{"an international name in upper case", "BÜCHER.Example.", "xn--bcher-kva.example", ""},
		{"an international name not composed", "bu\u0308cher.example", "xn--bcher-kva.example", ""},
		{"an international name with an underscore", "_x.bücher.example", "_x.xn--bcher-kva.example", ""},
		{"an encoded name", "xn--bcher-kva.example", "xn--bcher-kva.example", ""},
		{"an encoded name in upper case", "XN--BCHER-KVA.example", "xn--bcher-kva.example", ""},
		{"an ideographic full stop", "bücher。example", "xn--bcher-kva.example", ""},
		{"full width letters", "ｅｘａｍｐｌｅ.com", "example.com", ""},
		{"full width digits", "１２７.0.0.1", "127.0.0.1", ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			host, port, err := hostname.Split(c.in)
			require.NoError(t, err)
			assert.Equal(t, c.host, host)
			assert.Equal(t, c.port, port)

			host, err = hostname.Canonical(c.in)
			require.NoError(t, err)
			assert.Equal(t, c.host, host)

			again, err := hostname.Canonical(host)
			require.NoError(t, err)
			assert.Equal(t, host, again, "Canonical is idempotent")
		})
	}
}

// Hostile hosts from forwarding.md "Abuse" and from threats.md: CVE-2025-47912
// and 2026-25679 (brackets), CVE-2026-39821 (xn-- that decodes to ASCII),
// GO-2025-3503 (zones), CVE-2023-29406 (bytes that must not go upstream).
func TestCanonicalAndSplitRefuseInvalidHosts(t *testing.T) {
	for _, c := range []struct{ what, in, says string }{
		{"nothing", "", "empty"},
		{"a port only", ":80", "empty"},
		{"a dot", ".", "empty"},
		{"two dots", "..", "label must not be empty"},
		{"a leading dot", ".example.com", "label must not be empty"},
		{"leading dots", "..x", "label must not be empty"},
		{"an empty label", "a..b", "label must not be empty"},
		{"two trailing dots", "example.com..", "label must not be empty"},
		{"an ideographic empty label", "bücher。.", "label must not be empty"},
		{"a bracket that stays open", "[abcd::1", "closing bracket is missing"},
		{"a bracket that was never open", "abcd::1]", "needs brackets"},
		{"nothing in brackets", "[]", "brackets must hold an IPv6 address"},
		{"a name in brackets", "[example.com]", "brackets must hold an IPv6 address"},
		{"IPv4 in brackets", "[127.0.0.1]", "brackets must hold an IPv6 address"},
		{"a future address in brackets", "[v1.a]", "brackets must hold an IPv6 address"},
		{"brackets in brackets", "[[::1]]", "brackets must hold an IPv6 address"},
		{"a zone", "[fe80::1%eth0]", "brackets must hold an IPv6 address"},
		{"an escaped zone with a name in it", "[::1%25.example.com]:80", "brackets must hold an IPv6 address"},
		{"a name after brackets", "[::1].example.com", "a port is a number from 1 to 65535"},
		{"a bad port after brackets", "[::1]:x", "a port is a number from 1 to 65535"},
		{"IPv6 with a zone and without brackets", "fe80::1%eth0", "needs brackets"},
		{"two ports", "a:1:2", "needs brackets"},
		{"a port above 65535", "example.com:98777", "a port is a number from 1 to 65535"},
		{"a port that overflows", "example.com:18446744073709551696", "a port is a number from 1 to 65535"},
		{"port 0", "example.com:0", "a port is a number from 1 to 65535"},
		{"a port with leading zeros", "example.com:080", "a port is a number from 1 to 65535"},
		{"a port with a sign", "example.com:+80", "a port is a number from 1 to 65535"},
		{"a port that is a name", "example.com:http", "a port is a number from 1 to 65535"},
		{"a space before the port", "example.com :80", "character ' '"},
		{"userinfo", "user@example.com", "character '@'"},
		{"userinfo with a password", "user:pass@example.com", "a port is a number from 1 to 65535"},
		{"a quote", `"example.com"`, `character '"'`},
		{"a NUL", "example.com\x00", `character '\x00'`},
		{"a line end", "example.com\r\n", `character '\r'`},
		{"a space", "exa mple.com", "character ' '"},
		{"a path", "example.com/x", "without a scheme or a path"},
		{"a URL", "https://example.com", "without a scheme or a path"},
		{"a URL with a port", "https://example.com:8443/", "without a scheme or a path"},
		{"an escape", "ex%61mple.com", "character '%'"},
		{"a star", "*.example.com", "character '*'"},
		{"a hyphen at the start", "-a.example.com", "begin or end with a hyphen"},
		{"a hyphen at the end", "a-.example.com", "begin or end with a hyphen"},
		{"a label of 64 bytes", label63 + "a.com", "at most 63 bytes"},
		{"a name of 254 bytes", name253 + "b", "at most 253 bytes"},
		{"a name of 10 KB", strings.Repeat("abcdefghi.", 1024) + "com", "at most 253 bytes"},
		{"an international name of 10 KB", strings.Repeat("ü", 5120), "at most 253 bytes"},
		{"an international label that grows above 63 bytes", strings.Repeat("ü", 63), "at most 63 bytes"},
		{"an encoded label that decodes to ASCII", "xn--example-.com", "not a valid internationalized name"},
		{"the same in upper case", "XN--EXAMPLE-.com", "not a valid internationalized name"},
		{"an encoded label that decodes to nothing", "xn--.com", "label must not be empty"},
		{"an encoded label that does not decode", "xn--a!.com", "not a valid internationalized name"},
		{"an encoded label that decodes to upper case", "xn--bcher-2pa.com", "not a valid internationalized name"},
		{"an encoded label that decodes to something not composed", "xn--bucher-xyd.com", "not a valid internationalized name"},
		{"a joiner out of place", "a\u200db.example", "not a valid internationalized name"},
		{"left to right and right to left mixed", "אa.example", "not a valid internationalized name"},
		{"a symbol that stands for a right-to-left letter", "\u0568\u2137.example", "not a valid internationalized name"},
		{"bytes that are no UTF-8", "b\xffcher.example", "must be valid UTF-8"},
		{"a sign that turns into a slash", "a℀b.example", "character '/'"},
		{"a number", "1", "whose last label is a number must be an IPv4 address"},
		{"five numbers", "1.2.3.4.5", "whose last label is a number must be an IPv4 address"},
		{"three numbers", "127.0.1", "whose last label is a number must be an IPv4 address"},
		{"a name that ends in a number", "example.1", "whose last label is a number must be an IPv4 address"},
		{"a name that ends in a hexadecimal number", "example.0x7F", "whose last label is a number must be an IPv4 address"},
		{"a name that ends in 0x", "example.0x", "whose last label is a number must be an IPv4 address"},
		{"IPv4 in octal", "0177.0.0.1", "whose last label is a number must be an IPv4 address"},
		{"IPv4 with a leading zero", "127.0.0.01", "whose last label is a number must be an IPv4 address"},
		{"IPv4 above 255", "127.0.0.256", "whose last label is a number must be an IPv4 address"},
	} {
		t.Run(c.what, func(t *testing.T) {
			_, _, err := hostname.Split(c.in)
			require.ErrorContains(t, err, c.says)

			_, err = hostname.Canonical(c.in)
			assert.ErrorContains(t, err, c.says)

			dst, ok := hostname.AppendCanonical([]byte("kept"), []byte(c.in))
			assert.False(t, ok)
			assert.Equal(t, "kept", string(dst))
		})
	}
}

func TestRefusalQuotesTheInputAndCutsItWhenLong(t *testing.T) {
	_, err := hostname.Canonical("a b\n")
	require.ErrorContains(t, err, `host "a b\n": the character ' '`)

	_, err = hostname.Canonical(strings.Repeat("a ", 5000))
	assert.Less(t, len(err.Error()), 300)
	assert.ErrorContains(t, err, `"...: `)
}

func TestOnlyCanonicalTakesIPv6WithoutBrackets(t *testing.T) {
	host, err := hostname.Canonical("2001:DB8::0:1")
	require.NoError(t, err)
	assert.Equal(t, "2001:db8::1", host)

	_, _, err = hostname.Split("2001:db8::1")
	assert.ErrorContains(t, err, "an IPv6 address needs brackets")
}

func TestAppendCanonicalKnowsPlainHosts(t *testing.T) {
	for _, c := range []struct{ what, in, want string }{
		{"a canonical name", "api.example.com", "api.example.com"},
		{"upper case, trailing dot and port", "API.Example.com.:443", "api.example.com"},
		{"an underscore", "A_b.example", "a_b.example"},
		{"IPv4", "192.0.2.1:80", "192.0.2.1"},
	} {
		t.Run(c.what, func(t *testing.T) {
			got, ok := hostname.AppendCanonical([]byte("> "), []byte(c.in))
			require.True(t, ok)
			assert.Equal(t, "> "+c.want, string(got))
		})
	}
	for _, in := range []string{"bücher.example", "xn--bcher-kva.example", "[::1]", "::1"} {
		_, ok := hostname.AppendCanonical(nil, []byte(in))
		assert.False(t, ok, "%s needs Split", in)
	}
}

func TestAddrReadsWhatNetipReads(t *testing.T) {
	for _, host := range []string{
		"192.0.2.1", "192.0.2.256", "1", "::", "::a", "2001:db8::abcd", "fe80::1%eth0", "::ffff:192.0.2.1", "[::1]",
		"example.com", "example.c0", "a:b", "",
	} {
		want, err := netip.ParseAddr(host)
		got, ok := hostname.Addr(host)
		assert.Equal(t, err == nil, ok, host)
		assert.Equal(t, want, got, host)
	}
}

func TestHotPathsDoNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 256)
	for _, host := range []string{"api.example.com", "api.example.com:8443", "example.com.", "192.0.2.1:80", name253} {
		assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = hostname.Canonical(host) }), "Canonical(%s)", host)
		assert.Zero(t, testing.AllocsPerRun(100, func() { _, _, _ = hostname.Split(host) }), "Split(%s)", host)
		upper := []byte(strings.ToUpper(host))
		assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = hostname.AppendCanonical(buf, upper) }), "AppendCanonical(%s)", upper)
	}
	for _, host := range []string{"api.example.com", "192.0.2.1", name253} {
		assert.Zero(t, testing.AllocsPerRun(100, func() { _ = hostname.IsInternal(host) }), "IsInternal(%s)", host)
	}
}

func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{
		"", "example.com", "EXAMPLE.com.:443", "bücher。example:80", "xn--bcher-kva", "XN--EXAMPLE-.com", "[::1]:80", "::1", "1.2.3.4",
		"0x7f.1", "a..b", "a:1:2", "[::ffff:1.2.3.4]", "[fe80::1%25x]", "a_b.-c", "ab--c.ö.de", "1.2.3.4.", "a\u00ad.b", "..", "ß.de",
		"\u0568\u2137",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		host, err := hostname.Canonical(in)
		fast, ok := hostname.AppendCanonical(nil, []byte(in))
		if err != nil {
			require.Empty(t, host)
			require.False(t, ok, "AppendCanonical accepts what Canonical refuses")
			return
		}
		again, err := hostname.Canonical(host)
		require.NoError(t, err)
		require.Equal(t, host, again)
		require.LessOrEqual(t, len(host), 253)
		require.Empty(t, strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789-_.:"))
		if ok {
			require.Equal(t, host, string(fast))
		}
		requireSameAsURL(t, in, host)
	})
}

// requireSameAsURL requires that net/url reads the same host in an authority,
// as far as it can tell: it leaves names unchanged.
func requireSameAsURL(t *testing.T, in, host string) {
	_, port, err := hostname.Split(in)
	if err != nil {
		return // IPv6 without brackets is not an authority.
	}
	u, err := url.Parse("http://" + in + "/")
	require.NoError(t, err)
	require.Equal(t, port, u.Port())
	other, err := hostname.Canonical(u.Hostname())
	require.NoError(t, err)
	require.Equal(t, host, other)
}

func BenchmarkCanonical(b *testing.B) {
	for name, in := range map[string]string{
		"canonical": "tenant-1234.apps.example.com", "port": "tenant-1234.apps.example.com:8443", "mixed": "Tenant-1234.apps.example.com",
		"international": "bücher.example", "ipv6": "[2001:db8::1]:443", "refused": "tenant 1234.apps.example.com",
	} {
		b.Run("host="+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = hostname.Canonical(in)
			}
		})
	}
}

func BenchmarkAppendCanonical(b *testing.B) {
	buf, host := make([]byte, 0, 256), []byte("tenant-1234.apps.example.com:8443")
	b.ReportAllocs()
	for b.Loop() {
		_, _ = hostname.AppendCanonical(buf, host)
	}
}
