package exchange

import "fmt"

// Limits on the interim responses of one exchange: a hostile target may send
// 1xx forever.
const (
	MaxInterim    = 32
	MaxInterimSum = 64 << 10 // bytes of their heads
)

// ErrInterim is the failure of a target that exceeds these limits.
var ErrInterim = fmt.Errorf("more than %d interim responses, or %d bytes of them", MaxInterim, MaxInterimSum)
