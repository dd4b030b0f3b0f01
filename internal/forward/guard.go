package forward

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/limit"
	"github.com/hostproxy/hostproxy/internal/status"
)

// NewGuard returns a Guard for a handler, the field of which is called name.
func NewGuard(name string, allow, deny []netip.Prefix, r *limit.Rule) (*Guard, error) {
	g := &Guard{Allow: allow, Deny: deny, Limit: r}
	return g, g.check(name + ".")
}

// Admit returns the handler that refuses the client's request q, or nil. Then
// the slots are to be freed at its end.
func (g *Guard) Admit(q *http.Request, client netip.Addr) (limit.Slots, http.Handler) {
	switch {
	case !g.permits(client):
		return nil, exchange.Refuse(http.StatusForbidden, "http_request_denied")
	case g.Limit == nil:
		return nil, nil
	}
	a := Attempts{Client: client, Asked: Request{HTTP: q}}
	if x := exchange.FromContext(q.Context()); x != nil {
		a.Asked.ID = x.Numbering.Name
	}
	return a.admit(g.Limit, time.Now())
}

// Pass returns by which list the client, whom g permits, has come through.
func (g *Guard) Pass(client netip.Addr) exchange.Pass {
	if len(g.Allow) == 0 {
		return 0
	}
	client = client.Unmap().WithZone("")
	for _, p := range g.Allow {
		if p.Contains(client) && !(p.Addr().IsLoopback() && p.Bits() >= loopbackBits) {
			return exchange.PassAddress
		}
	}
	return exchange.PassLoopback
}

// loopbackBits are those of 127.0.0.0/8. What is shorter is no list of
// addresses of this machine.
const loopbackBits = 8

// Explain adds to e what g, which is called name, would do with q, of which x
// is the exchange.
func (g *Guard) Explain(e *status.Explanation, name string, q *http.Request, x *exchange.Exchange) {
	(&explainer{e, q, x.Client, x.Start}).guard(g, name)
}
