package exchange

import (
	"fmt"
	"runtime/debug"
)

// A PanicError is a panic in a hook of the embedding program. It is the failure
// of one exchange, with the stack for whoever reads the log.
type PanicError struct {
	Hook  string // the field that holds it
	Value any
	Stack []byte
}

// Error returns what the hook panicked with, and where.
func (e *PanicError) Error() string {
	return fmt.Sprintf("panic in %s: %v\n%s", e.Hook, e.Value, e.Stack)
}

// Contain, deferred around a hook, makes a panic in it the error.
func Contain(hook string, err *error) {
	if p := recover(); p != nil {
		*err = &PanicError{hook, p, debug.Stack()}
	}
}
