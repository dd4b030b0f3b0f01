package exchange

import (
	"fmt"
	"net/http"
)

// Limits on the interim responses of one exchange: a hostile target may send
// 1xx forever.
const (
	MaxInterim    = 32
	MaxInterimSum = 64 << 10 // bytes of their heads
)

// ErrInterim is the failure of a target that exceeds these limits.
var ErrInterim = fmt.Errorf("more than %d interim responses, or %d bytes of them", MaxInterim, MaxInterimSum)

// TakesInterim reports whether an interim response through w reaches the
// client. A writer that cannot be flushed keeps the response back, as that of
// http.TimeoutHandler does, and may take an interim one for the final one. What
// w wraps decides, if that is known.
func TakesInterim(w http.ResponseWriter) bool {
	for {
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return flushes(w)
		}
		w = outer.Unwrap()
	}
}
