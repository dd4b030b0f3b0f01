package tunnel

import "sync"

// A quiet direction waits with the small size, a busy one works with the large.
const (
	smallSize = 1 << 10
	largeSize = 32 << 10
)

var largeBuffers = sync.Pool{New: func() any { return new([largeSize]byte) }}

// A buffer is what a direction reads into. Most tunnels are quiet most of the
// time, so that it takes a large one from the pool only while the bytes come in
// bulk.
type buffer struct {
	small [smallSize]byte
	large *[largeSize]byte
}

// room returns where to read to.
func (b *buffer) room() []byte {
	if b.large != nil {
		return b.large[:]
	}
	return b.small[:]
}

// resize chooses the size for the next read after one of n bytes, whose bytes
// are no longer needed.
func (b *buffer) resize(n int) {
	switch {
	case b.large == nil && n == smallSize:
		b.large = largeBuffers.Get().(*[largeSize]byte)
	case b.large != nil && n < largeSize/8:
		b.release()
	}
}

// release gives the large buffer back.
func (b *buffer) release() {
	if b.large != nil {
		largeBuffers.Put(b.large)
		b.large = nil
	}
}
