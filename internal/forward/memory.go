package forward

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// bufferMemory is how many bytes all buffers of a Forwarder may hold together,
// unless one buffer may hold more. A body that does not fit is not buffered.
const bufferMemory = 64 << 20

// A Memory counts the bytes in buffers, up to a limit.
type Memory struct {
	most int64
	used atomic.Int64
}

// Take counts n bytes in, or reports that there is no room for them.
func (m *Memory) Take(n int64) bool {
	if m.used.Add(n) <= m.most {
		return true
	}
	m.used.Add(-n)
	return false
}

// Give counts n bytes out.
func (m *Memory) Give(n int64) { m.used.Add(-n) }

// checkBuffers checks the sizes of buffers.
func (c *Config) checkBuffers() error {
	var errs []error
	for name, n := range map[string]int64{"BufferRequests": c.BufferRequests, "BufferResponses": c.BufferResponses} {
		if n < 0 || n > maxBuffer {
			errs = append(errs, fmt.Errorf("field %s is %d: want 0 to %d bytes", name, n, maxBuffer))
		}
	}
	return errors.Join(errs...)
}

// maxBuffer is the largest buffer of one exchange.
const maxBuffer = 1 << 30

// NeedsBody reports whether requests with a body have to take the handler lane.
func (f *Forwarder) NeedsBody() bool { return len(f.Pages) > 0 || f.BufferRequests > 0 }
