//go:build !linux || portable

package peek

// queued: no portable way is known, so that a peer which takes less than what
// is written at once in the time for it is cut off.
func queued(uintptr) int64 { return 0 }
