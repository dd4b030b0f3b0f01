package proxyproto_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxyproto"
)

const signature = "\r\n\r\n\x00\r\nQUIT\n"

func tcp(src, dst string) proxyproto.Header {
	return proxyproto.Header{Kind: proxyproto.TCP, Source: netip.MustParseAddrPort(src), Destination: netip.MustParseAddrPort(dst)}
}

// v2 is a header of version 2.
func v2(command, family byte, block string) string {
	b := append([]byte(signature), command, family)
	return string(binary.BigEndian.AppendUint16(b, uint16(len(block)))) + block
}

// tlv is an extension.
func tlv(kind byte, value string) string {
	return string(binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(value)))) + value
}

// summed returns a header whose last extension is its checksum, with change
// applied to its bits.
func summed(command, family byte, block string, change uint32) string {
	h := v2(command, family, block+tlv(3, "\x00\x00\x00\x00"))
	sum := crc32.Checksum([]byte(h), crc32.MakeTable(crc32.Castagnoli)) ^ change
	return h[:len(h)-4] + string(binary.BigEndian.AppendUint32(nil, sum))
}

const (
	four = "\xc0\x00\x02\x01\xc6\x33\x64\x02\x01\x02\x01\xbb" // 192.0.2.1:258 to 198.51.100.2:443
	six  = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x01\x02\x01\xbb"
)

func TestParseReadsHeadersOfBothVersions(t *testing.T) {
	v4, v6 := tcp("192.0.2.1:258", "198.51.100.2:443"), tcp("[2001:db8::1]:258", "[2001:db8::2]:443")
	local, unix := proxyproto.Header{}, proxyproto.Header{Kind: proxyproto.Unix}
	for _, tt := range []struct {
		name, in string
		want     proxyproto.Header
		err      error
	}{
		{"v1, IPv4", "PROXY TCP4 192.0.2.1 198.51.100.2 258 443\r\n", v4, nil},
		{"v1, IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 258 443\r\n", v6, nil},
		{"v1, IPv6 in another spelling", "PROXY TCP6 2001:0DB8:0:0::0001 2001:db8::0:2 258 443\r\n", v6, nil},
		{"v1, IPv4-mapped", "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 0 65535\r\n", tcp("[::ffff:192.0.2.1]:0", "[2001:db8::2]:65535"), nil},
		{"v1, the longest", "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
			tcp("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"), nil},
		{"v1, unknown", "PROXY UNKNOWN\r\n", local, nil},
		{"v1, unknown with addresses", "PROXY UNKNOWN ffff::1 x y  z\r\n", local, nil},
		{"v1, unknown, of 107 bytes", "PROXY UNKNOWN " + strings.Repeat("x", 91) + "\r\n", local, nil},
		{"v1, unknown, of 108 bytes", "PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n", local, proxyproto.ErrLong},
		{"v1, no such family", "PROXY UDP4 192.0.2.1 198.51.100.2 258 443\r\n", local, proxyproto.ErrLine},
		{"v1, unknown and more", "PROXY UNKNOWNS 1 2\r\n", local, proxyproto.ErrLine},
		{"v1, lower case", "PROXY tcp4 192.0.2.1 198.51.100.2 258 443\r\n", local, proxyproto.ErrLine},
		{"v1, two spaces", "PROXY TCP4  192.0.2.1 198.51.100.2 258 443\r\n", local, proxyproto.ErrLine},
		{"v1, a space at the end", "PROXY TCP4 192.0.2.1 198.51.100.2 258 443 \r\n", local, proxyproto.ErrLine},
		{"v1, a port missing", "PROXY TCP4 192.0.2.1 198.51.100.2 258\r\n", local, proxyproto.ErrLine},
		{"v1, no carriage return", "PROXY TCP4 192.0.2.1 198.51.100.2 258 443\n", local, proxyproto.ErrLine},
		{"v1, a bare carriage return", "PROXY UNKNOWN \rx\r\n", local, proxyproto.ErrLine},
		{"v1, the wrong family", "PROXY TCP4 2001:db8::1 2001:db8::2 258 443\r\n", local, proxyproto.ErrAddress},
		{"v1, the wrong family", "PROXY TCP6 192.0.2.1 198.51.100.2 258 443\r\n", local, proxyproto.ErrAddress},
		{"v1, leading zeros in an address", "PROXY TCP4 192.0.2.01 198.51.100.2 258 443\r\n", local, proxyproto.ErrAddress},
		{"v1, leading zeros in a port", "PROXY TCP4 192.0.2.1 198.51.100.2 0258 443\r\n", local, proxyproto.ErrAddress},
		{"v1, a signed port", "PROXY TCP4 192.0.2.1 198.51.100.2 +25 443\r\n", local, proxyproto.ErrAddress},
		{"v1, a port too high", "PROXY TCP4 192.0.2.1 198.51.100.2 258 65536\r\n", local, proxyproto.ErrAddress},
		{"v1, a zone", "PROXY TCP6 fe80::1%eth0 2001:db8::2 258 443\r\n", local, proxyproto.ErrAddress},
		{"v1, a host", "PROXY TCP4 localhost 198.51.100.2 258 443\r\n", local, proxyproto.ErrAddress},

		{"v2, IPv4", v2(0x21, 0x11, four), v4, nil},
		{"v2, IPv6", v2(0x21, 0x21, six), v6, nil},
		{"v2, local", v2(0x20, 0x00, ""), local, nil},
		{"v2, local with what is to be ignored", v2(0x20, 0x11, "xyz"), local, nil},
		{"v2, unspecified", v2(0x21, 0x00, ""), local, nil},
		{"v2, unspecified with an extension", v2(0x21, 0x00, tlv(1, "h2")), local, nil},
		{"v2, unix", v2(0x21, 0x31, strings.Repeat("/", 216)), unix, nil},
		{"v2, extensions", v2(0x21, 0x11, four+tlv(1, "h2")+tlv(4, "")+tlv(0xee, "own")), v4, nil},
		{"v2, a checksum", summed(0x21, 0x11, four+tlv(4, "pad"), 0), v4, nil},
		{"v2, a wrong checksum", summed(0x21, 0x21, six, 1), local, proxyproto.ErrChecksum},
		{"v2, a checksum without addresses", summed(0x21, 0x00, "", 0), local, nil},
		{"v2, two checksums", summed(0x21, 0x11, four+tlv(3, "1234"), 0), local, proxyproto.ErrChecksum},
		{"v2, a short checksum", v2(0x21, 0x11, four+tlv(3, "123")), local, proxyproto.ErrTLV},
		{"v2, an extension longer than the header", v2(0x21, 0x11, four+"\x01\x00\x03h2"), local, proxyproto.ErrTLV},
		{"v2, a piece of an extension", v2(0x21, 0x11, four+"\x01\x00"), local, proxyproto.ErrTLV},
		{"v2, the longest", v2(0x21, 0x11, four+tlv(4, strings.Repeat("x", 4096-16-12-3))), v4, nil},
		{"v2, too long", v2(0x21, 0x11, four+tlv(4, strings.Repeat("x", 4097-16-12-3))), local, proxyproto.ErrLong},
		{"v2, version 1", v2(0x11, 0x11, four), local, proxyproto.ErrVersion},
		{"v2, no such command", v2(0x22, 0x11, four), local, proxyproto.ErrVersion},
		{"v2, UDP", v2(0x21, 0x12, four), local, proxyproto.ErrFamily},
		{"v2, unix datagrams", v2(0x21, 0x32, strings.Repeat("/", 216)), local, proxyproto.ErrFamily},
		{"v2, no such family", v2(0x21, 0x41, four), local, proxyproto.ErrFamily},
		{"v2, short IPv4", v2(0x21, 0x11, four[1:]), local, proxyproto.ErrShort},
		{"v2, short IPv6", v2(0x21, 0x21, six[1:]), local, proxyproto.ErrShort},
		{"v2, short unix", v2(0x21, 0x31, strings.Repeat("/", 215)), local, proxyproto.ErrShort},

		{"nothing", "", local, proxyproto.ErrShort},
		{"a piece", "PROXY TCP4 192.", local, proxyproto.ErrShort},
		{"more than a header, v1", "PROXY UNKNOWN\r\nGET /", local, proxyproto.ErrLine},
		{"more than a header, v2", v2(0x20, 0, "") + "G", local, proxyproto.ErrLong},
		{"a request", "GET / HTTP/1.1\r\n", local, proxyproto.ErrNone},
		{"a ClientHello", "\x16\x03\x01\x02\x00\x01\x00\x01", local, proxyproto.ErrNone},
		{"one byte of something else", "G", local, proxyproto.ErrNone},
		{"the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", local, proxyproto.ErrNone},
		{"a signature that goes wrong", "\r\n\r\n\x00\r\nQUIX", local, proxyproto.ErrNone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, err := proxyproto.Parse([]byte(tt.in))
			assert.Equal(t, tt.err, err)
			assert.Equal(t, tt.want, h)
		})
	}
}

func TestOfUsesIPv6ForMixedPairs(t *testing.T) {
	ap := netip.MustParseAddrPort
	v4, mapped, v6 := ap("192.0.2.1:258"), ap("[::ffff:192.0.2.1]:258"), ap("[2001:db8::1%eth0]:6")
	assert.Equal(t, tcp("192.0.2.1:258", "192.0.2.1:258"), proxyproto.Of(v4, mapped), "IPv4 is written as such")
	assert.Equal(t, tcp("[::ffff:192.0.2.1]:258", "[2001:db8::1]:6"), proxyproto.Of(v4, v6), "a mixed pair is IPv6, without zones")
	assert.Zero(t, proxyproto.Of(netip.AddrPort{}, v4))
	assert.Zero(t, proxyproto.Of(v4, netip.AddrPort{}))
}

// read reads a header from the start of stream as a server does, in pieces of
// at most size bytes, and returns the number of bytes read.
func read(stream []byte, size int) (h proxyproto.Header, taken int, err error) {
	for {
		n, err := proxyproto.Missing(stream[:taken])
		switch {
		case err != nil:
			return h, taken, err
		case n == 0:
			h, err = proxyproto.Parse(stream[:taken])
			return h, taken, err
		case taken == len(stream):
			return h, taken, proxyproto.ErrShort
		}
		taken = min(taken+min(n, size), len(stream))
	}
}

func TestNoByteAfterAHeaderIsRead(t *testing.T) {
	for _, h := range []proxyproto.Header{{}, {Kind: proxyproto.Unix}, tcp("1.1.1.1:1", "2.2.2.2:2"), tcp("192.168.101.102:65535", "192.168.101.103:65535"),
		tcp("[::]:0", "[::]:0"), tcp("[2001:db8:1:2:3:4:5:6]:65535", "[2001:db8:1:2:3:4:5:7]:443")} {
		for _, head := range [][]byte{proxyproto.AppendV1(nil, h), proxyproto.AppendV2(nil, h)} {
			for size := 1; size <= len(head)+1; size++ {
				got, taken, err := read(append(bytes.Clone(head), "GET / HTTP/1.1\r\n\r\n"...), size)
				require.NoError(t, err)
				assert.Equal(t, len(head), taken)
				if h.Kind == proxyproto.TCP || head[0] != 'P' {
					assert.Equal(t, h, got)
				}
			}
			for n := range head {
				_, _, err := read(head[:n], 1)
				assert.Equal(t, proxyproto.ErrShort, err, "a part of a header is not refused")
			}
		}
	}
}

func TestReadingALineTakesFewReads(t *testing.T) {
	head := proxyproto.AppendV1(nil, tcp("192.168.101.102:65535", "192.168.101.103:65535"))
	reads := 0
	for b := 0; b < len(head); reads++ {
		n, err := proxyproto.Missing(head[:b])
		require.NoError(t, err)
		b += n
	}
	assert.LessOrEqual(t, reads, 16)
}

// FuzzParse checks that Parse accepts only headers that Append would write.
// Exceptions are extensions, paths, bytes that LOCAL and UNKNOWN ignore, and
// spellings of IPv6. It also checks that reading in pieces has the same result.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"PROXY TCP4 192.0.2.1 198.51.100.2 258 443\r\nGET /", "PROXY TCP6 ::1 2001:db8::2 258 443\r\n", "PROXY UNKNOWN\r\n", "PROXY UNKNOWN x\r\n",
		v2(0x21, 0x11, four), v2(0x21, 0x21, six+tlv(1, "h2")), v2(0x20, 0, ""), v2(0x21, 0x31, strings.Repeat("/", 216)), summed(0x21, 0x11, four, 0),
		summed(0x21, 0x11, four, 1), "GET / HTTP/1.1\r\n\r\n", "PROXY TCP6 :A  0 A\r\nz", "PROXY TCP4 192.0.2.1 198.51.100.2 258 \r\nz",
	} {
		f.Add([]byte(s), 3)
		f.Add([]byte(s), 7)
	}
	f.Fuzz(func(t *testing.T, stream []byte, size int) {
		h, taken, err := read(stream, len(stream)+1)
		if size > 0 {
			again, also, same := read(stream, size)
			// of several faults, pieces may show another one first
			require.Equal(t, err == nil, same == nil, "%v, in pieces %v", err, same)
			require.Equal(t, h, again)
			if err == nil {
				require.Equal(t, taken, also)
			}
		}
		if err != nil {
			return
		}
		head := stream[:taken]
		if head[0] == 'P' {
			require.Equal(t, bytes.Index(stream, []byte("\r\n"))+2, taken, "the end of the line is the end of the header")
		}
		require.LessOrEqual(t, taken, proxyproto.MaxV2)
		v1, v2 := proxyproto.AppendV1(nil, h), proxyproto.AppendV2(nil, h)
		for _, b := range [][]byte{v1, v2} {
			again, err := proxyproto.Parse(b)
			require.NoError(t, err)
			if h.Kind != proxyproto.Unix || b[0] != 'P' {
				require.Equal(t, h, again)
			}
		}
		switch {
		case head[0] != 'P' && h.Kind == proxyproto.TCP:
			require.Equal(t, v2[:14], head[:14])
			require.Equal(t, v2[16:], head[16:len(v2)])
		case head[0] == 'P' && h.Kind == proxyproto.TCP && h.Source.Addr().Is4():
			require.Equal(t, string(v1), string(head))
		case head[0] == 'P' && h.Kind == proxyproto.TCP:
			require.Equal(t, strings.Count(string(v1), " "), strings.Count(string(head), " "))
		}
	})
}

// FuzzRoundTrip checks that Parse reads what Append writes, with and without
// extensions.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte(four[:4]), []byte(four[4:8]), uint16(1), uint16(2), []byte("x"))
	f.Add([]byte(six[:16]), []byte(four[4:8]), uint16(0), uint16(65535), []byte{})
	f.Fuzz(func(t *testing.T, src, dst []byte, from, to uint16, value []byte) {
		a, ok1 := netip.AddrFromSlice(src)
		b, ok2 := netip.AddrFromSlice(dst)
		if !ok1 || !ok2 {
			return
		}
		h := proxyproto.Of(netip.AddrPortFrom(a, from), netip.AddrPortFrom(b, to))
		require.Equal(t, proxyproto.TCP, h.Kind)
		for _, head := range [][]byte{proxyproto.AppendV1(nil, h), proxyproto.AppendV2(nil, h)} {
			got, err := proxyproto.Parse(head)
			require.NoError(t, err)
			require.Equal(t, h, got)
			if head[0] == 'P' {
				require.LessOrEqual(t, len(head), proxyproto.MaxV1)
			} else if len(value) < 1000 {
				head = append(head, tlv(0xe0, string(value))...)
				binary.BigEndian.PutUint16(head[14:], uint16(len(head)-16))
				got, err := proxyproto.Parse(head)
				require.NoError(t, err)
				require.Equal(t, h, got)
			}
		}
	})
}
