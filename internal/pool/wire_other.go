//go:build !unix || portable

package pool

// canProve: no portable way is known to read a socket without waiting, so
// connections carry one exchange each.
const canProve = false

func readNow(uintptr, []byte) (int, error) { return 0, errAgain }
