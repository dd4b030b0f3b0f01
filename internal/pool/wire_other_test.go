//go:build !unix || portable

package pool_test

// The cost of a kept connection: a goroutine, and the errors that end its reads
// when it is taken.
const (
	idleGoroutines = 1
	keptAllocs     = 2
)
