package handler

import (
	"net/http"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/header"
)

// order is that of the fields of the request, which are in h: as the client
// sent them, then what the proxy adds, as the fast lane does it. Of what the
// proxy sets anew, the client's own places do not count.
func (a *roundTrip) order(h http.Header) exchange.Order {
	names := exchange.NamesFrom(a.q.Context())
	if names.Keys == nil {
		return exchange.Order{} // sorted
	}
	hop := header.Hop{Trusted: a.x.Trusted, Prefix: a.f.Prefix.Strip}
	number := a.x.Numbering.Name
	_, agent := h["User-Agent"]
	return exchange.Order{
		EmptyAgent: agent && a.f.Rewrite == nil,
		Names: names.Without(func(name string) bool {
			c := header.Classify(name)
			return c&header.Forwarding != 0 && hop.Drops(c) || number != "" && header.SameVariable(name, number) ||
				header.Replaces(a.x.Set, name) || header.Replaces(a.set, name) || a.f.RequestHeader.Drops(name)
		}),
		Last: a.f.LastOf(number, a.x.Set, a.set),
	}
}

// answerOrder is that of the fields of the response: as the target sent them,
// then what the proxy adds, as the fast lane does it.
func (a *roundTrip) answerOrder() exchange.Order {
	number := ""
	if a.x.Numbering.Shown {
		number = a.x.Numbering.Name
	}
	return exchange.Order{
		Names: a.flight.order.Answer.Without(func(name string) bool {
			return name == "Trailer" || name == "Upgrade" || number != "" && header.SameVariable(name, number) || a.edit.Drops(name)
		}),
		Last: a.edit.LastOwnOf(number),
	}
}
