package limit

import (
	"encoding/binary"
	"net/netip"
)

const (
	nat64  = 0x0064_ff9b << 32 // the first half of 64:ff9b::/96 (RFC 6052, 2.1)
	sixTo4 = 0x2002 << 48      // 2002::/16, with the IPv4 address in the next 32 bits (RFC 3056, 2)
)

// Key returns the /64 as which a client counts. An IPv4 address counts as the
// first /64 of its 6to4 prefix, which no other client can own. So IPv4 and IPv6
// share one key space without collisions.
//
// For an address in the NAT64 prefix, the IPv4 address in it counts: an
// IPv6-only server sees the whole IPv4 internet in that one /64.
func Key(client netip.Addr) uint64 {
	a := client.As16() // all zeroes for an invalid address; IPv4 is mapped
	prefix, rest := binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
	mapped := prefix == 0 && rest>>32 == 0xffff
	translated := prefix == nat64 && rest>>32 == 0
	if mapped || translated {
		return sixTo4 | rest&0xffff_ffff<<16
	}
	return prefix
}

// standIn returns the address that represents all addresses that count as one
// client: an IPv4 address, or the first of a /64.
func standIn(client netip.Addr) netip.Addr {
	k := Key(client)
	if k>>48 == sixTo4>>48 && k&0xffff == 0 {
		return netip.AddrFrom4([4]byte{byte(k >> 40), byte(k >> 32), byte(k >> 24), byte(k >> 16)})
	}
	var a [16]byte
	binary.BigEndian.PutUint64(a[:], k)
	return netip.AddrFrom16(a)
}
