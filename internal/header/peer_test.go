package header_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/header"
)

func prefixes(t testing.TB, list ...string) (out []netip.Prefix) {
	t.Helper()
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		require.NoError(t, err)
		out = append(out, p)
	}
	return out
}

// addr reads an address; "" means the invalid one.
func addr(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

// forwarding.md, Headers: IPv6 and ports parse. Behaviours: oxy's Test_ipv6fix.
func TestParsePeerReadsIPAndUnixAddresses(t *testing.T) {
	tests := map[string]header.Peer{
		"192.0.2.1:8080":            {Addr: addr("192.0.2.1")},
		"192.0.2.1":                 {Addr: addr("192.0.2.1")},
		"[2001:db8::1]:8080":        {Addr: addr("2001:db8::1")},
		"[2001:db8::1]":             {Addr: addr("2001:db8::1")},
		"2001:db8::1":               {Addr: addr("2001:db8::1")},
		"[fe80::1%eth0]:80":         {Addr: addr("fe80::1")},
		"[::ffff:192.0.2.1]:80":     {Addr: addr("192.0.2.1")},
		"@":                         {Unix: true},
		"@abstract":                 {Unix: true},
		"/run/front.sock":           {Unix: true},
		"":                          {},
		"pipe":                      {},
		"example.com:80":            {},
		"192.0.2.1:":                {},
		"192.0.2.1:65536":           {},
		"192.0.2.1:-1":              {},
		"192.0.2.1:+1":              {},
		"192.0.2.256:80":            {},
		"192.0.2.01:80":             {},
		"192.0.2:80":                {},
		"[192.0.2.1]:80":            {},
		"[2001:db8::1":              {},
		"[2001:db8::1]x":            {},
		"[2001:db8::1]80":           {},
		"[]:80":                     {},
		"[fe80::1%]:80":             {},
		"192.0.2.1%eth0":            {},
		" 192.0.2.1":                {},
		strings.Repeat("1", 10_000): {},
	}
	for remote, peer := range tests {
		assert.Equal(t, peer, header.ParsePeer(remote), "%.40q", remote)
	}
}

type otherAddr string

func (otherAddr) Network() string  { return "other" }
func (a otherAddr) String() string { return string(a) }

func TestPeerOfReadsAnyNetAddr(t *testing.T) {
	assert.Equal(t, header.Peer{Addr: addr("192.0.2.1")}, header.PeerOf(&net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 1}))
	assert.Equal(t, header.Peer{Addr: addr("fe80::1")}, header.PeerOf(&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}))
	assert.Equal(t, header.Peer{Unix: true}, header.PeerOf(&net.UnixAddr{Net: "unix"}))
	assert.Equal(t, header.Peer{Addr: addr("192.0.2.1")}, header.PeerOf(otherAddr("192.0.2.1:5")))
	assert.Equal(t, header.Peer{}, header.PeerOf(otherAddr("pipe")))
	assert.Equal(t, header.Peer{}, header.PeerOf(nil))
}

func TestOnlyListedPeersAreTrusted(t *testing.T) {
	tests := []struct {
		name    string
		peer    string
		trusted []string
		want    bool
	}{
		{"no peer is trusted by default", "10.0.0.1:1", nil, false},
		{"an address within", "10.0.0.1:1", []string{"192.0.2.0/24", "10.0.0.0/8"}, true},
		{"an address outside", "11.0.0.1:1", []string{"10.0.0.0/8"}, false},
		{"a mapped address is the IPv4 one", "[::ffff:10.0.0.1]:1", []string{"10.0.0.0/8"}, true},
		{"a zone does not matter", "[fe80::1%eth0]:1", []string{"fe80::/10"}, true},
		{"all of IPv6 is not IPv4", "10.0.0.1:1", []string{"::/0"}, false},
		{"a unix peer where loopback is", "@", []string{"127.0.0.0/8"}, true},
		{"a unix peer where IPv6 loopback is", "@", []string{"::1/128"}, true},
		{"a unix peer elsewhere", "@", []string{"10.0.0.0/8"}, false},
		{"an unknown peer never", "", []string{"0.0.0.0/0", "::/0"}, false},
		{"a garbled peer never", "localhost", []string{"0.0.0.0/0", "::/0"}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			assert.Equal(t, test.want, header.ParsePeer(test.peer).TrustedBy(prefixes(t, test.trusted...)))
		})
	}
}

// forwarding.md, Headers: the client is the right-most untrusted address.
// Threats: CVE-2022-32148, XFF spoofing.
func TestClientIPIsTheRightmostUntrustedAddress(t *testing.T) {
	lan := []string{"10.0.0.0/8", "127.0.0.0/8", "2001:db8::/32"}
	tests := []struct {
		name    string
		peer    string
		trusted []string
		xff     []string
		want    string
	}{
		{"no field", "10.0.0.1:1", lan, nil, "10.0.0.1"},
		{"an untrusted peer is the client, regardless of the field", "192.0.2.9:1", lan, []string{"198.51.100.1"}, "192.0.2.9"},
		{"no peer is trusted", "10.0.0.1:1", nil, []string{"198.51.100.1"}, "10.0.0.1"},
		{"right-most untrusted", "10.0.0.1:1", lan, []string{"1.1.1.1, 198.51.100.1, 10.0.0.2"}, "198.51.100.1"},
		{"over several lines", "10.0.0.1:1", lan, []string{"1.1.1.1", "198.51.100.1", "10.0.0.3,10.0.0.2"}, "198.51.100.1"},
		{"all trusted: the left-most", "10.0.0.1:1", lan, []string{"10.0.0.4, 10.0.0.3", "10.0.0.2"}, "10.0.0.4"},
		{"IPv6", "[2001:db8::1]:1", lan, []string{"2001:db9::7"}, "2001:db9::7"},
		{"IPv6 in brackets with a port", "10.0.0.1:1", lan, []string{"[2001:db9::7]:4711"}, "2001:db9::7"},
		{"IPv4 with a port", "10.0.0.1:1", lan, []string{"198.51.100.1:4711"}, "198.51.100.1"},
		{"a zone is dropped", "10.0.0.1:1", lan, []string{"fe80::1%eth0"}, "fe80::1"},
		{"mapped IPv4 is IPv4, and trusted as such", "10.0.0.1:1", lan, []string{"198.51.100.1, ::ffff:10.0.0.7"}, "198.51.100.1"},
		{"empty entries are skipped", "10.0.0.1:1", lan, []string{"", "198.51.100.1, ,\t,", " "}, "198.51.100.1"},
		{"garbage stops at the peer", "10.0.0.1:1", lan, []string{"198.51.100.1, unknown"}, "10.0.0.1"},
		{"garbage stops at the last good address", "10.0.0.1:1", lan, []string{"198.51.100.1, x, 10.0.0.2"}, "10.0.0.2"},
		{"a quoted address is garbage", "10.0.0.1:1", lan, []string{`"198.51.100.1"`}, "10.0.0.1"},
		{"a long entry is garbage", "10.0.0.1:1", lan, []string{"198.51.100.1, " + strings.Repeat(" ", 200) + "10.0.0.2"}, "10.0.0.1"},
		{"a long run of white space before a comma is garbage", "10.0.0.1:1", lan, []string{"198.51.100.1" + strings.Repeat(" ", 200) + ", 10.0.0.2"}, "10.0.0.2"},
		{"more hops than the limit", "10.0.0.1:1", lan, []string{"198.51.100.1" + strings.Repeat(",10.0.0.2", 32)}, "10.0.0.2"},
		{"as many hops as are looked at", "10.0.0.1:1", lan, []string{"198.51.100.1" + strings.Repeat(",10.0.0.2", 31)}, "198.51.100.1"},
		{"commas count as hops", "10.0.0.1:1", lan, []string{"198.51.100.1" + strings.Repeat(",", 100_000)}, "10.0.0.1"},
		{"a trusted unix peer speaks for its client", "@", lan, []string{"198.51.100.1"}, "198.51.100.1"},
		{"a trusted unix peer without the field", "@", lan, nil, ""},
		{"an untrusted unix peer", "@", []string{"10.0.0.0/8"}, []string{"198.51.100.1"}, ""},
		{"no peer", "", []string{"0.0.0.0/0", "::/0"}, []string{"198.51.100.1"}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			peer, trusted := header.ParsePeer(test.peer), prefixes(t, test.trusted...)
			lines := make([][]byte, len(test.xff))
			for i, line := range test.xff {
				lines[i] = []byte(line)
			}
			assert.Equal(t, addr(test.want), header.ClientIP(peer, trusted, test.xff))
			assert.Equal(t, addr(test.want), header.ClientIP(peer, trusted, lines))
		})
	}
}

// FuzzClientIP checks that the result is a trusted address only if there is no
// usable address left of it, and that all addresses right of the result are
// trusted.
func FuzzClientIP(f *testing.F) {
	f.Add("10.0.0.1:1", "198.51.100.1, 10.0.0.2", "10.0.0.3")
	f.Add("@", "[2001:db8::1]:80,::ffff:10.1.1.1", "1.2.3.4:5")
	f.Add("10.0.0.1:1", "junk", ",,")
	trusted := prefixes(f, "10.0.0.0/8", "127.0.0.1/32", "2001:db8::/32")
	f.Fuzz(func(t *testing.T, remote, line1, line2 string) {
		peer := header.ParsePeer(remote)
		client := header.ClientIP(peer, trusted, []string{line1, line2})
		require.Equal(t, client, header.ClientIP(peer, trusted, [][]byte{[]byte(line1), []byte(line2)}))
		require.Empty(t, client.Zone())
		require.False(t, client.Is4In6())
		if !peer.TrustedBy(trusted) {
			require.Equal(t, peer.Addr, client)
			return
		}
		entries := strings.Split(line1+","+line2, ",")
		want := peer.Addr
		for i, hops := len(entries)-1, 0; i >= 0 && hops < 32; i, hops = i-1, hops+1 {
			entry := strings.Trim(entries[i], " \t")
			if entry == "" && len(entries[i]) <= 80 {
				continue
			}
			at := reference(entry)
			if len(entries[i]) > 70 || hops > 28 || !at.IsValid() {
				return // the table tests the limits; an invalid entry ends the walk
			}
			want = at
			if !(header.Peer{Addr: at}).TrustedBy(trusted) {
				break
			}
		}
		require.Equal(t, want, client)
	})
}

// reference reads an address as the standard library does.
func reference(s string) netip.Addr {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().WithZone("").Unmap()
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); !ok || !strings.Contains(inner, ":") {
			return netip.Addr{}
		}
		s = inner
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return a.WithZone("").Unmap()
}

// FuzzParsePeer checks that an address is read as by net/netip, or not at all.
func FuzzParsePeer(f *testing.F) {
	for _, seed := range []string{
		"192.0.2.1:80", "[2001:db8::1%eth0]:80", "::", "::1", "1::", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8",
		"1:2:3:4:5:6:7:8::", "1::2::3", ":1", "1:", ":::", "::ffff:1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7:1.2.3.4",
		"::1.2.3.4:5", "12345::", "1.2.3.4.5", "1..2.3", "0.0.0.0", "00.0.0.0", "fe80::1%", "[::1]:", "[::1]:99999", "::%%", "1.2.3.4::",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		peer := header.ParsePeer(s)
		if peer.Unix {
			require.True(t, s[0] == '@' || s[0] == '/')
			return
		}
		// net/netip accepts more: any length, a bracket in a zone, any number
		// of zeros before a port.
		stricter := len(s) > 80 || strings.Count(s, "]") > 1 || strings.Contains(s, ":0")
		if !stricter || peer.Addr.IsValid() {
			require.Equal(t, reference(s), peer.Addr)
		}
	})
}

func TestClientIPDoesNotAllocate(t *testing.T) {
	trusted := prefixes(t, "10.0.0.0/8")
	peer := header.ParsePeer("10.0.0.1:1")
	xff := [][]byte{[]byte("1.1.1.1"), []byte("2001:db8::1, [::ffff:10.0.0.7]:80, 10.0.0.2:5")}
	want := addr("2001:db8::1")
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		if header.ClientIP(peer, trusted, xff) != want {
			t.Fail()
		}
	}))
}
