package forward

import (
	"errors"
	"fmt"
	"net/http"
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

// hookStatus is what the client is answered when a hook has failed: what it
// refused is no good answer of the target's, and a panic is a fault of ours.
func hookStatus(err error) int {
	var p *PanicError
	if errors.As(err, &p) {
		return http.StatusInternalServerError
	}
	return http.StatusBadGateway
}

// tell lets the user's ErrorHandler answer. What it panics with is answered like
// the failure of any hook, if the answer has not begun, and becomes the
// exchange's failure.
func (f *Forwarder) tell(w *watcher, q *http.Request, x *Exchange, fail *Failure) {
	var err error
	func() {
		defer Contain("ErrorHandler", &err)
		f.ErrorHandler(w, q, fail)
	}()
	if err == nil {
		return
	}
	x.Err = &Failure{Op: fail.Op, Target: fail.Target, Side: SideProxy, Err: fmt.Errorf("%w, about: %w", err, fail.Err)}
	if w.wrote {
		panic(http.ErrAbortHandler)
	}
	Reply(w, q, hookStatus(err), "proxy_internal_error")
}
