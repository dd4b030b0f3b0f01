package exchange

import "fmt"

// Limits of the interim responses of one exchange: a hostile target may send
// 1xx for ever.
const (
	MaxInterim    = 32
	MaxInterimSum = 64 << 10 // bytes of their heads
)

// ErrInterim is the failure of a target that sends more of them.
var ErrInterim = fmt.Errorf("more than %d interim responses, or %d bytes of them", MaxInterim, MaxInterimSum)
