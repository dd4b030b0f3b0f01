package exchange

import (
	"context"
	"net/http"
	"strings"

	"github.com/hostproxy/hostproxy/internal/status"
)

// A Pass is a check that let a request through to a handler of the program.
type Pass uint8

// The passes.
const (
	PassAddress     Pass = 1 << iota // its address is on a list of allowed clients
	PassCredentials                  // its credentials are valid
	PassLoopback                     // its address, of this machine, is on a list
)

type passKey struct{}

// PassTo lets next serve q, and adds p to its passes. Without an exchange,
// which a Router would have made, next gets a copy of q.
func PassTo(next http.Handler, w http.ResponseWriter, q *http.Request, p Pass) {
	ctx := q.Context()
	if l := loanOf(ctx); l != nil {
		l.passes.Or(uint32(p))
	} else if p != 0 {
		asked := q
		q = q.WithContext(context.WithValue(ctx, passKey{}, PassesOf(ctx)|p))
		defer ReturnForm(asked, q)
	}
	next.ServeHTTP(w, q)
}

// WayOf returns how q came to a handler of the program, for the status page.
func WayOf(q *http.Request) status.Arrival {
	ctx := q.Context()
	p := PassesOf(ctx)
	a := status.Arrival{Authenticated: p&PassCredentials != 0, Listed: p&PassAddress != 0, ListedPeer: p&PassLoopback != 0}
	if x := FromContext(ctx); x != nil {
		a.Listed = a.Listed || a.ListedPeer && x.Trusted
		a.Named = x.Pattern != "" && !strings.HasPrefix(x.Pattern+"/", "*/")
	}
	return a
}

// PassesOf returns the passes of the request with ctx.
func PassesOf(ctx context.Context) Pass {
	p, _ := ctx.Value(passKey{}).(Pass)
	if l := loanOf(ctx); l != nil {
		p |= Pass(l.passes.Load())
	}
	return p
}
