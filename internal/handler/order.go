package handler

import (
	"net/http"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/header"
)

// order returns the order of the request's fields, which are in h: first as the
// client sent them, then the fields that the proxy adds, as on the fast lane.
// For fields that the proxy sets anew, the client's places do not count.
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

// answerOrder returns the order of the response's fields: first as the target
// sent them, then the fields that the proxy adds, as on the fast lane.
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
