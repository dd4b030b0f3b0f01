//go:build !unix || portable

package pool_test

// What a connection costs while it is kept: a goroutine, and the errors that
// end its reads when it is taken.
const (
	idleGoroutines = 1
	keptAllocs     = 2
)
