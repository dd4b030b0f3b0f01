// Package proxyprotocol_test compares this library's PROXY protocol with
// github.com/pires/go-proxyproto: each reads what the other one writes, as
// bytes and over real connections. differences_test.go lists the differences
// and the reasons.
package proxyprotocol_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"net"
	"net/netip"
	"testing"

	theirs "github.com/pires/go-proxyproto"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	ours "github.com/hostproxy/hostproxy/internal/proxyproto"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// readOurs reads a header from the front of stream like the Server, and returns
// its size in bytes.
func readOurs(stream []byte) (h ours.Header, size int, err error) {
	for {
		n, err := ours.Missing(stream[:size])
		switch {
		case err != nil:
			return h, size, err
		case n == 0:
			h, err = ours.Parse(stream[:size])
			return h, size, err
		case size+n > len(stream):
			return h, size, ours.ErrShort
		}
		size += n
	}
}

// readTheirs does the same with go-proxyproto.
func readTheirs(stream []byte) (h *theirs.Header, size int, err error) {
	r := bufio.NewReader(bytes.NewReader(stream))
	if h, err = theirs.Read(r); err != nil {
		return nil, 0, err
	}
	rest, err := io.ReadAll(r)
	return h, len(stream) - len(rest), err
}

// said returns the meaning of a go-proxyproto header for the connection.
func said(t testing.TB, h *theirs.Header) ours.Header {
	t.Helper()
	if h.Command.IsLocal() {
		return ours.Header{}
	}
	switch src := h.SourceAddr.(type) {
	case *net.TCPAddr:
		dst := h.DestinationAddr.(*net.TCPAddr)
		return ours.Header{Kind: ours.TCP, Source: addrPort(t, src), Destination: addrPort(t, dst)}
	case *net.UnixAddr:
		if src.Net == "unix" {
			return ours.Header{Kind: ours.Unix}
		}
	}
	t.Fatalf("no meaning for %+v", h)
	return ours.Header{}
}

// addrPort keeps the address family, unlike net.TCPAddr.AddrPort.
func addrPort(t testing.TB, a *net.TCPAddr) netip.AddrPort {
	t.Helper()
	addr, ok := netip.AddrFromSlice(a.IP)
	require.True(t, ok, "%v", a.IP)
	return netip.AddrPortFrom(addr, uint16(a.Port))
}

// made returns the header that go-proxyproto writes for a connection.
func made(t testing.TB, version byte, src, dst net.Addr, tlvs ...theirs.TLV) []byte {
	t.Helper()
	h := theirs.HeaderProxyFromAddrs(version, src, dst)
	require.NoError(t, h.SetTLVs(tlvs))
	b, err := h.Format()
	require.NoError(t, err)
	return b
}

// summed adds a checksum extension, which go-proxyproto leaves to its users.
func summed(b []byte) []byte {
	b = append(bytes.Clone(b), byte(theirs.PP2_TYPE_CRC32C), 0, 4, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(b[14:], uint16(len(b)-16))
	binary.BigEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func tcp(s string) *net.TCPAddr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

// pairs has the two ends of connections. Read-only.
var pairs = []struct{ src, dst string }{
	{"192.0.2.1:258", "198.51.100.2:443"}, {"0.0.0.0:0", "255.255.255.255:65535"}, {"[2001:db8::1]:6", "[2001:db8:1:2:3:4:5:6]:443"},
	{"[::]:0", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"}, {"192.0.2.1:258", "[2001:db8::2]:443"}, {"[::ffff:192.0.2.1]:258", "[2001:db8::2]:443"},
}

func TestTheyReadTheHeadersThatWeWrite(t *testing.T) {
	heads := []ours.Header{{}, {Kind: ours.Unix}}
	for _, p := range pairs {
		heads = append(heads, ours.Of(netip.MustParseAddrPort(p.src), netip.MustParseAddrPort(p.dst)))
	}
	for _, want := range heads {
		for version := 1; version <= 2; version++ {
			b := ours.Append(nil, version, &want)
			h, size, err := readTheirs(append(b, "GET / HTTP/1.1\r\n"...))
			require.NoError(t, err, "%q", b)
			assert.Equal(t, len(b), size)
			assert.EqualValues(t, version, h.Version)
			if version == 1 && want.Kind == ours.Unix {
				want = ours.Header{} // version 1 cannot express it
			}
			assert.Equal(t, want, said(t, h), "%q", b)
		}
	}
}

func TestWeReadTheHeadersThatTheyWrite(t *testing.T) {
	extensions := []theirs.TLV{
		{Type: theirs.PP2_TYPE_ALPN, Value: []byte("h2")}, {Type: theirs.PP2_TYPE_AUTHORITY, Value: []byte("a.test")}, {Type: theirs.PP2_TYPE_NOOP, Value: make([]byte, 300)},
		{Type: theirs.PP2_TYPE_UNIQUE_ID}, {Type: theirs.PP2_TYPE_SSL, Value: []byte("\x01\x00\x00\x00\x00\x21\x00\x07TLSv1.3")}, {Type: theirs.PP2_TYPE_MIN_CUSTOM, Value: []byte{0xff}},
	}
	for _, p := range pairs {
		src, dst := tcp(p.src), tcp(p.dst)
		want := ours.Of(src.AddrPort(), dst.AddrPort())
		for _, b := range [][]byte{made(t, 1, src, dst), made(t, 2, src, dst), made(t, 2, src, dst, extensions...), summed(made(t, 2, src, dst)), summed(made(t, 2, src, dst, extensions...))} {
			h, size, err := readOurs(append(b, "GET / HTTP/1.1\r\n"...))
			require.NoError(t, err, "%q", b)
			assert.Equal(t, len(b), size)
			assert.Equal(t, want, h, "%q", b)
		}
	}
	a, b := &net.UnixAddr{Net: "unix", Name: "/run/client.sock"}, &net.UnixAddr{Net: "unix", Name: "/run/front.sock"}
	for _, tt := range []struct {
		head []byte
		kind ours.Kind
	}{
		{made(t, 2, a, b), ours.Unix}, {summed(made(t, 2, a, b, extensions...)), ours.Unix}, {made(t, 1, a, b), ours.Local},
		{made(t, 1, nil, nil), ours.Local}, {made(t, 2, nil, nil), ours.Local}, {made(t, 2, nil, nil, extensions...), ours.Local},
	} {
		h, size, err := readOurs(tt.head)
		require.NoError(t, err, "%q", tt.head)
		assert.Equal(t, len(tt.head), size)
		assert.Equal(t, ours.Header{Kind: tt.kind}, h, "%q", tt.head)
	}
}

// FuzzWrittenIsRead checks that each of the two reads the same addresses that
// the other one writes.
func FuzzWrittenIsRead(f *testing.F) {
	f.Add([]byte{192, 0, 2, 1}, []byte{198, 51, 100, 2}, uint16(1), uint16(2), byte(1), []byte("h2"))
	f.Add(make([]byte, 16), []byte{1, 2, 3, 4}, uint16(0), uint16(65535), byte(3), []byte{})
	f.Fuzz(func(t *testing.T, from, to []byte, port1, port2 uint16, kind byte, value []byte) {
		a, ok1 := netip.AddrFromSlice(from)
		b, ok2 := netip.AddrFromSlice(to)
		if !ok1 || !ok2 || kind == byte(theirs.PP2_TYPE_CRC32C) || len(value) > 4000 {
			return
		}
		src, dst := netip.AddrPortFrom(a, port1), netip.AddrPortFrom(b, port2)
		want := ours.Of(src, dst)
		for version := 1; version <= 2; version++ {
			h, _, err := readTheirs(ours.Append(nil, version, &want))
			require.NoError(t, err)
			require.Equal(t, want, said(t, h))
		}
		// If both addresses are IPv4 within IPv6, both libraries write IPv4.
		x, y := net.TCPAddrFromAddrPort(src), net.TCPAddrFromAddrPort(dst)
		for _, head := range [][]byte{made(t, 1, x, y), made(t, 2, x, y), made(t, 2, x, y, theirs.TLV{Type: theirs.PP2Type(kind), Value: value})} {
			h, size, err := readOurs(head)
			require.NoError(t, err, "%q", head)
			require.Equal(t, len(head), size)
			require.Equal(t, want, h)
		}
	})
}

// FuzzAlike checks that both read the same from any bytes, or both refuse them,
// except for the known differences.
func FuzzAlike(f *testing.F) {
	for _, p := range pairs {
		h := ours.Of(netip.MustParseAddrPort(p.src), netip.MustParseAddrPort(p.dst))
		f.Add(ours.AppendV1(nil, h))
		f.Add(summed(ours.AppendV2(nil, h)))
	}
	for _, d := range differences {
		f.Add(d.example)
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		h1, size1, err1 := readOurs(stream)
		h2, size2, err2 := readTheirs(stream)
		if d := differenceOf(stream, err1, err2); d != nil {
			return
		}
		require.Equal(t, err1 == nil, err2 == nil, "ours: %v, theirs: %v: %q", err1, err2, stream)
		if err1 == nil {
			require.Equal(t, size2, size1, "%q", stream)
			require.Equal(t, said(t, h2), h1, "%q", stream)
		}
	})
}
