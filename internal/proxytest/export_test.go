package proxytest

import "time"

// NoLeaksWithin is NoLeaks with another patience.
var NoLeaksWithin = noLeaks

// UnkeptStandstills returns a watch without a goroutine of its own.
func UnkeptStandstills() *Standstills { return &Standstills{last: time.Now()} }
