package forward

import "sync"

// copyBuffers holds what bodies are copied through.
var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}
