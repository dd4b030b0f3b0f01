package balance

import (
	"encoding/binary"
	"math/bits"
)

// Odd constants whose bits have no pattern.
const (
	golden = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio
	silver = 0x6a09e667f3bcc909 // 2^64 divided by the silver ratio
)

// Key returns the key of b for [Hash], the same in every process and release.
// It is fast and spreads well, but anybody can compute it: a client that
// chooses b chooses the candidate, up to the limit of its load.
func Key(b []byte) uint64 {
	h := uint64(len(b)) * silver
	for ; len(b) >= 8; b = b[8:] {
		h = fold(h^binary.LittleEndian.Uint64(b)^silver, golden)
	}
	var rest uint64
	for i, c := range b {
		rest |= uint64(c) << (8 * i)
	}
	return mix(fold(h^rest^silver, golden))
}

// KeyString is [Key] of a string.
func KeyString(s string) uint64 { return Key([]byte(s)) } // does not copy; a test checks that

// fold multiplies to 128 bits and combines both halves.
func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// mix makes each bit of the result depend on each bit of x.
func mix(x uint64) uint64 {
	x = fold(x^x>>32, silver)
	return fold(x^x>>29, golden)
}
