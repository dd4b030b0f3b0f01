package exchange

import (
	"context"
	"net/http"
)

// A Pass is what let a request through to a handler of the program.
type Pass uint8

// The passes.
const (
	PassAddress     Pass = 1 << iota // its address is on a list of clients that are served
	PassCredentials                  // it has shown who it is
)

type passKey struct{}

// Passed notes that q has p. It returns the request to go on with: q itself if q has an
// exchange, as behind a Router.
func Passed(q *http.Request, p Pass) *http.Request {
	ctx := q.Context()
	if x := FromContext(ctx); x != nil {
		x.Passes |= p
		return q
	}
	return q.WithContext(context.WithValue(ctx, passKey{}, PassesOf(ctx)|p))
}

// PassesOf returns the passes of the request with ctx.
func PassesOf(ctx context.Context) Pass {
	p, _ := ctx.Value(passKey{}).(Pass)
	if x := FromContext(ctx); x != nil {
		p |= x.Passes
	}
	return p
}
