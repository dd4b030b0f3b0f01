package proxyproto

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
)

// signature begins a header of version 2. After it come version and command,
// family and protocol, and the length of the rest.
const (
	signature = "\r\n\r\n\x00\r\nQUIT\n"
	fixed     = len(signature) + 4
)

// Versions and commands; families and protocols.
const (
	commandLocal = 0x20
	commandProxy = 0x21

	unspecified = 0x00
	tcp4        = 0x11
	tcp6        = 0x21
	unixStream  = 0x31
)

// Lengths of the addresses of a family.
const (
	lenTCP4 = 2*4 + 2*2
	lenTCP6 = 2*16 + 2*2
	lenUnix = 2 * 108
)

// missingV2 is Missing for bytes that begin with the signature.
func missingV2(b []byte) (int, error) {
	if len(b) > len(signature) && b[12] != commandLocal && b[12] != commandProxy {
		return 0, ErrVersion
	}
	if len(b) < fixed {
		return fixed - len(b), nil
	}
	n := fixed + int(binary.BigEndian.Uint16(b[14:]))
	if n > MaxV2 || n < len(b) {
		return 0, ErrLong
	}
	return n - len(b), nil
}

// parseV2 parses a whole header.
func parseV2(b []byte) (Header, error) {
	if b[12] == commandLocal { // "discard the protocol block including the family which is ignored"
		return Header{}, nil
	}
	var h Header
	rest := b[fixed:]
	switch n := len(rest); b[13] {
	case unspecified:
	case tcp4:
		if n < lenTCP4 {
			return Header{}, ErrShort
		}
		h, rest = addresses(rest, 4), rest[lenTCP4:]
	case tcp6:
		if n < lenTCP6 {
			return Header{}, ErrShort
		}
		h, rest = addresses(rest, 16), rest[lenTCP6:]
	case unixStream:
		if n < lenUnix {
			return Header{}, ErrShort
		}
		h, rest = Header{Kind: Unix}, rest[lenUnix:]
	default:
		return Header{}, ErrFamily
	}
	if err := checkTLVs(b, len(b)-len(rest)); err != nil {
		return Header{}, err
	}
	return h, nil
}

// addresses parses two addresses of size bytes each, and two ports.
func addresses(b []byte, size int) Header {
	src, _ := netip.AddrFromSlice(b[:size])
	dst, _ := netip.AddrFromSlice(b[size : 2*size])
	ports := b[2*size:]
	return Header{
		Kind:        TCP,
		Source:      netip.AddrPortFrom(src, binary.BigEndian.Uint16(ports)),
		Destination: netip.AddrPortFrom(dst, binary.BigEndian.Uint16(ports[2:])),
	}
}

// typeCRC32C is the type of the extension with the header's checksum.
const typeCRC32C = 0x03

// castagnoli is the table for the checksum. Read-only.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checkTLVs checks the extensions of the whole header b, which begin at at:
// their lengths, and the checksum if there is one.
func checkTLVs(b []byte, at int) error {
	for summed := false; at < len(b); {
		if len(b)-at < 3 {
			return ErrTLV
		}
		kind, n := b[at], int(binary.BigEndian.Uint16(b[at+1:]))
		if at += 3; n > len(b)-at {
			return ErrTLV
		}
		if kind == typeCRC32C {
			if n != 4 || summed {
				return ErrTLV
			}
			summed = true
			sum := crc32.Update(0, castagnoli, b[:at])
			sum = crc32.Update(sum, castagnoli, make([]byte, 4))
			sum = crc32.Update(sum, castagnoli, b[at+4:])
			if sum != binary.BigEndian.Uint32(b[at:]) {
				return ErrChecksum
			}
		}
		at += n
	}
	return nil
}

// AppendV2 appends h as a header of version 2, without extensions. The paths of
// Unix are empty.
func AppendV2(b []byte, h Header) []byte {
	b = append(b, signature...)
	switch {
	case h.Kind == Local:
		return append(b, commandLocal, unspecified, 0, 0)
	case h.Kind == Unix:
		return append(append(b, commandProxy, unixStream, 0, lenUnix), make([]byte, lenUnix)...)
	case h.Source.Addr().Is4():
		b = append(b, commandProxy, tcp4, 0, lenTCP4)
	default:
		b = append(b, commandProxy, tcp6, 0, lenTCP6)
	}
	b = append(b, h.Source.Addr().AsSlice()...)
	b = append(b, h.Destination.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, h.Source.Port())
	return binary.BigEndian.AppendUint16(b, h.Destination.Port())
}
