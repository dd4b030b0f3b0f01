package h2

import "github.com/hostproxy/hostproxy/internal/h1"

// fewFrames is how many frames any header block may have, in addition to the
// number of full ones that fit in MaxSize.
const fewFrames = 8

// A Block gathers the header block of one HEADERS frame and the CONTINUATION
// frames after it. The zero value is ready for use. A Block is empty between
// header blocks.
type Block struct {
	// limit of a List; 0 means h1.DefaultMaxHead. A block may have hugeness
	// times as many bytes, as sent.
	MaxSize int

	text   []byte
	frames int
}

// Add takes a piece of a HEADERS or CONTINUATION frame. It returns the header
// block when it is complete. The block is valid until the next Add, and until
// the parsed buffer changes. A block that is far larger than a List may be, or
// has too many frames, is not decoded and so is a connection error
// (CVE-2024-27316). A block that is a little too large is decoded, so that the
// client gets a 431, as over HTTP/1.x.
func (g *Block) Add(f *Frame) (block []byte, done bool, err error) {
	if f.Begins && f.Type == Headers {
		g.text, g.frames = g.text[:0], 0
	}
	if f.Begins {
		g.frames++
	}
	most := g.MaxSize
	if most <= 0 {
		most = h1.DefaultMaxHead
	}
	switch {
	case len(g.text)+len(f.Payload) > hugeness*most:
		return nil, false, errBlockSize
	case g.frames > fewFrames+most/DefaultMaxFrame:
		return nil, false, errBlockFrames
	case f.EndHeaders() && len(g.text) == 0:
		return f.Payload, true, nil
	}
	g.text = append(g.text, f.Payload...)
	return g.text, f.EndHeaders(), nil
}

// Release frees the memory. The header block must not be used afterwards.
func (g *Block) Release() { g.text, g.frames = nil, 0 }
