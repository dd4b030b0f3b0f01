package h2

import "math/bits"

// huffmanLengths are the lengths of the codes of all bytes (RFC 7541, Appendix
// B). The code is canonical: its words follow from their lengths. Read-only.
var huffmanLengths = [256]uint8{
	13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
	28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
	6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
	5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
	13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
	7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
	15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
	6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
	20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
	24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
	22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
	21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
	26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
	19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
	20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
	26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
}

// The lengths of words.
const (
	shortest = 5
	quick    = 8 // a table finds the words up to this length
	longest  = 30
)

// A huffmanCode decodes the words of the code.
type huffmanCode struct {
	// quick has, for each value of the next quick bits, a byte and the length
	// of its word, or length 0 if the word is longer.
	quick [1 << quick]struct{ symbol, length uint8 }

	// For each length: limit is the first longer word, in the high bits of 32;
	// offset is what to add to a word to find its byte in symbol.
	limit  [longest + 1]uint64
	offset [longest + 1]int
	symbol [256]uint8 // in the order of their words
}

// huffman is the decoder of the code. Read-only.
var huffman = makeHuffman()

func makeHuffman() *huffmanCode {
	var h huffmanCode
	word, at := 0, 0
	for n := shortest; n <= longest; n++ {
		h.offset[n] = at - word
		for symbol, length := range huffmanLengths {
			if int(length) != n {
				continue
			}
			h.symbol[at] = uint8(symbol)
			if n <= quick {
				for i := range 1 << (quick - n) {
					e := &h.quick[word<<(quick-n)+i]
					e.symbol, e.length = uint8(symbol), length
				}
			}
			word++
			at++
		}
		h.limit[n] = uint64(word) << (32 - n)
		word <<= 1
	}
	return &h
}

// appendHuffman decodes src and appends the result.
func appendHuffman(dst, src []byte) ([]byte, error) {
	var acc uint64 // the next bits, left-aligned
	have := 0      // number of bits in acc
	for {
		for have <= 56 && len(src) > 0 {
			acc |= uint64(src[0]) << (56 - have)
			have += 8
			src = src[1:]
		}
		e := huffman.quick[acc>>(64-quick)]
		symbol, length := e.symbol, int(e.length)
		if length == 0 {
			symbol, length = huffman.long(uint32(acc >> 32))
		}
		if length > have || length == 0 {
			break
		}
		dst = append(dst, symbol)
		acc <<= length
		have -= length
	}
	// The remaining bits are padding: fewer than eight ones (RFC 7541, 5.2).
	if have > 7 || bits.LeadingZeros64(^acc) < have {
		return dst, errHuffman
	}
	return dst, nil
}

// long finds the word at the start of w if it is longer than quick. Its length
// is 0 at the beginning of EOS.
func (h *huffmanCode) long(w uint32) (symbol uint8, length int) {
	for n := quick + 1; n <= longest; n++ {
		if uint64(w) < h.limit[n] {
			return h.symbol[int(w>>(32-n))+h.offset[n]], n
		}
	}
	return 0, 0
}
