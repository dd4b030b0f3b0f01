package forward

import "fmt"

// maxInterim bounds the interim responses of one exchange: a hostile target
// may send 1xx for ever.
const maxInterim = 32

var errInterim = fmt.Errorf("more than %d interim responses", maxInterim)
