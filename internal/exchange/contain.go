package exchange

import (
	"fmt"
	"runtime/debug"
)

// A PanicError is a panic in a hook of the embedding program. It is the failure
// of one exchange, and has the stack for the log.
type PanicError struct {
	Hook  string // field that holds the hook
	Value any
	Stack []byte
}

// Error returns the value of the panic and the stack.
func (e *PanicError) Error() string {
	return fmt.Sprintf("panic in %s: %v\n%s", e.Hook, e.Value, e.Stack)
}

// Contain turns a panic in a hook into an error. It must be deferred around the
// hook.
func Contain(hook string, err *error) {
	if p := recover(); p != nil {
		*err = &PanicError{hook, p, debug.Stack()}
	}
}
