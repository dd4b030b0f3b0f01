package limit

import (
	"encoding/binary"
	"net/netip"
)

const (
	nat64  = 0x0064_ff9b << 32 // the first half of 64:ff9b::/96 (RFC 6052, 2.1)
	sixTo4 = 0x2002 << 48      // 2002::/16, with the IPv4 address in the next 32 bits (RFC 3056, 2)
)

// Key returns the /64 that a client counts as. For an IPv4 address it is the
// first one of the same address in 6to4, which belongs to the same client if to
// anybody: so IPv4 and IPv6 share one key space without a collision.
//
// NAT64's prefix is looked into because a server with only IPv6 sees all of the
// IPv4 internet in that one /64.
func Key(client netip.Addr) uint64 {
	a := client.As16() // all zeroes for an invalid one, IPv4 mapped
	prefix, rest := binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
	mapped := prefix == 0 && rest>>32 == 0xffff
	translated := prefix == nat64 && rest>>32 == 0
	if mapped || translated {
		return sixTo4 | rest&0xffff_ffff<<16
	}
	return prefix
}

// standIn returns the address that stands for all that count as one client: an
// IPv4 address, or the first of a /64.
func standIn(client netip.Addr) netip.Addr {
	k := Key(client)
	if k>>48 == sixTo4>>48 && k&0xffff == 0 {
		return netip.AddrFrom4([4]byte{byte(k >> 40), byte(k >> 32), byte(k >> 24), byte(k >> 16)})
	}
	var a [16]byte
	binary.BigEndian.PutUint64(a[:], k)
	return netip.AddrFrom16(a)
}
