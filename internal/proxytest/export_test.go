package proxytest

import "time"

// NoLeaksWithin is NoLeaks with a patience of the caller's.
var NoLeaksWithin = noLeaks

// UnkeptStandstills returns a watch that only its own callers keep.
func UnkeptStandstills() *Standstills { return &Standstills{last: time.Now()} }
