package forward

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/limit"
	"github.com/hostproxy/hostproxy/internal/status"
)

// NewGuard returns a Guard for a handler. Errors name its fields as name.Allow
// and so on.
func NewGuard(name string, allow, deny []netip.Prefix, r *limit.Rule) (*Guard, error) {
	g := &Guard{Allow: allow, Deny: deny, Limit: r}
	return g, g.check(name + ".")
}

// Admit returns a handler that refuses the client's request q, or nil if q may
// pass. Then the caller frees the slots at the end of q.
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

// Pass returns which list of g contains the client, which g permits.
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

// loopbackBits is the length of 127.0.0.0/8. A shorter prefix is no list of
// addresses of this machine.
const loopbackBits = 8

// Explain adds to e what g would do with q, whose exchange is x. name is what
// the explanation calls g.
func (g *Guard) Explain(e *status.Explanation, name string, q *http.Request, x *exchange.Exchange) {
	(&explainer{e, q, x.Client, x.Start}).guard(g, name)
}
