package proxytest

// NoLeaksWithin is NoLeaks with a patience of the caller's.
var NoLeaksWithin = noLeaks
