package forward

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/limit"
)

// A Guard says which clients an upstream serves, and limits their requests.
type Guard struct {
	Allow, Deny []netip.Prefix // clients; an empty Allow means all except Deny
	Limit       *limit.Rule    // nil means no limit
	MaxBody     int64          // bytes of a request's body; 0 means no limit
	Next        http.Handler   // for the owner: the handler that it guards; nil for an upstream
}

// check returns the errors in the lists. prefix goes before the lists' names in
// them.
func (g *Guard) check(prefix string) error {
	var errs []error
	for name, list := range map[string][]netip.Prefix{prefix + "Allow": g.Allow, prefix + "Deny": g.Deny} {
		for i, p := range list {
			switch {
			case !p.IsValid():
				errs = append(errs, fmt.Errorf("%s[%d] is the zero netip.Prefix or has too many bits: want one such as 10.0.0.0/8", name, i))
			case p.Addr().Is4In6() || p.Addr().Zone() != "":
				errs = append(errs, fmt.Errorf("%s[%d] is %s: want an IPv4 or IPv6 prefix, not IPv4 mapped to IPv6", name, i, p))
			}
		}
	}
	return errors.Join(errs...)
}

// guarded reports whether g restricts anything.
func (g *Guard) guarded() bool {
	return len(g.Allow) > 0 || len(g.Deny) > 0 || g.Limit != nil || g.MaxBody > 0
}

// permits reports whether the lists allow a client. A client with an unknown
// address is on no list.
func (g *Guard) permits(client netip.Addr) bool {
	client = client.Unmap().WithZone("")
	return !within(g.Deny, client) && (len(g.Allow) == 0 || within(g.Allow, client))
}

func within(list []netip.Prefix, a netip.Addr) bool {
	for i := range list {
		if list[i].Contains(a) {
			return true
		}
	}
	return false
}

// guard returns the refusal of a request that must not reach a target, or nil.
// The refusal is valid until the next exchange.
func (a *Attempts) guard() *exchange.Failure {
	g := &a.f.Guard
	if !g.permits(a.Client) {
		return a.refuse(http.StatusForbidden, "http_request_denied")
	}
	if g.MaxBody > 0 && a.Size > g.MaxBody {
		fail := a.refuse(http.StatusRequestEntityTooLarge, "http_request_error")
		fail.Op, fail.Side, fail.Err = "read", exchange.SideClient, exchange.ErrBodyTooLarge
		return fail
	}
	if g.Limit != nil {
		return a.Limit(g.Limit, a.now())
	}
	return nil
}

// Limit counts the exchange in r until Free. If r refuses it, Limit returns the
// refusal, which is valid until the next exchange.
func (a *Attempts) Limit(r *limit.Rule, now time.Time) *exchange.Failure {
	if slices.Contains(a.charged, r) {
		return nil // the other lane has counted it
	}
	who, fail := a.subject(r)
	if fail != nil {
		return fail
	}
	v := r.Take(who, now)
	if v.OK {
		a.charged = append(a.charged, r)
		if v.Slot.Held() {
			a.slots = append(a.slots, v.Slot)
		}
		return nil
	}
	a.lines = r.AppendFields(a.lines[:0], v)
	fail = a.refuse(http.StatusTooManyRequests, "http_request_denied")
	fail.Fields = a.lines
	return fail
}

// Limited counts q, whose exchange is x, in r. It returns a handler that
// refuses q if the limit is reached; otherwise nil, and the caller frees the
// slots at the end of q.
func Limited(x *exchange.Exchange, q *http.Request, r *limit.Rule) (limit.Slots, http.Handler) {
	if r.NeedsRequest() {
		if len(x.Set) > 0 {
			q = exchange.Replace(q, x.Set)
		}
		q = q.WithContext(exchange.NewContext(q.Context(), x)) // By.Func finds the exchange there
	}
	return (&Attempts{Client: x.Client, Asked: Request{HTTP: q, ID: x.Numbering.Name, Set: x.Set}, charged: x.Charged}).admit(r, x.Start)
}

// admit is Limited for an Attempts that has only the fields which Limit reads.
func (a *Attempts) admit(r *limit.Rule, now time.Time) (limit.Slots, http.Handler) {
	fail := a.Limit(r, now)
	switch {
	case fail == nil:
		return a.slots, nil
	case fail.Err != nil:
		return nil, fail.Handler()
	}
	return nil, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		fail.Tell(w)
		exchange.Reply(w, q, fail.Status, fail.Reason)
	})
}

// answerHere returns the proxy's own answer to an exchange that no target gets.
func (a *Attempts) answerHere() *exchange.Failure {
	fail := a.refuse(http.StatusOK, "")
	fail.Page = &exchange.Page{Status: fail.Status, ContentType: exchange.PlainText}
	fail.Fields = append(a.lines[:0], "Allow: "+exchange.Allow+"\r\n"...)
	return fail
}

// refuse returns a refusal by the proxy, which is not a target's failure.
func (a *Attempts) refuse(status int, reason string) *exchange.Failure {
	a.refusal = exchange.Failure{Op: "pick", Side: exchange.SideProxy, Status: status, Reason: reason}
	return &a.refusal
}
