package exchange

import "sync"

// copyBuffers holds what bodies are copied through.
var Buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}
