package serve

import (
	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/header"
)

// announce calls the hook for the start of the exchange.
func (x *fastExchange) announce() (fail *exchange.Failure) {
	x.describe(&x.rec)
	x.set, fail = x.beginning.Begin(x.from.s.Lane.Hooks, &x.rec, x)
	x.hop.Set, x.attempts.Asked.Set = x.set, x.set
	return fail
}

// announceAttempt calls the hook for the start of the attempt. If the hook
// fails, the attempt fails.
func (x *fastExchange) announceAttempt() error {
	hooks := x.from.s.Lane.Hooks
	if t := x.rec.Latest(); t != nil {
		t.Whole = x.upload.body.Whole()
	}
	if !hooks.Tries() {
		return nil
	}
	if x.rec.Pattern = x.hit.Pattern; x.rec.Proto == "" {
		x.describe(&x.rec)
	}
	set, err := x.beginning.BeginAttempt(hooks, &x.rec, x, x.set)
	if err != nil {
		return &exchange.AttemptError{Op: "read", Err: err}
	}
	x.hop.Set = set
	return nil
}

// Value implements exchange.Said.
func (x *fastExchange) Value(name string) (value string) {
	n := 0
	for i := range x.req.Fields {
		fd := &x.req.Fields[i]
		switch {
		case !header.EqualFold(fd.Name, name):
			continue
		case n == 0:
			value = string(fd.Value)
		default:
			value += ", " + string(fd.Value)
		}
		n++
	}
	return value
}
