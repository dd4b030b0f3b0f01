package exchange

import "sync"

// Buffers holds buffers for copying bodies.
var Buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}
