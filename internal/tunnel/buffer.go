package tunnel

import "sync"

// Sizes of a buffer: small for a quiet direction, large for a busy one.
const (
	smallSize = 1 << 10
	largeSize = 32 << 10
)

var largeBuffers = sync.Pool{New: func() any { return new([largeSize]byte) }}

// A buffer is what a direction reads into. Most tunnels are quiet most of the
// time, so it takes a large buffer from the pool only while many bytes come.
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

// resize chooses the size for the next read. The last read returned n bytes,
// which are no longer needed.
func (b *buffer) resize(n int) {
	switch {
	case b.large == nil && n == smallSize:
		b.large = largeBuffers.Get().(*[largeSize]byte)
	case b.large != nil && n < largeSize/8:
		b.release()
	}
}

// release returns the large buffer to the pool.
func (b *buffer) release() {
	if b.large != nil {
		largeBuffers.Put(b.large)
		b.large = nil
	}
}
