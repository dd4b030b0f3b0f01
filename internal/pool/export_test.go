package pool

// HoldsBuffer reports whether c has borrowed a buffer.
func HoldsBuffer(c *Conn) bool { return c.buf != nil }
