package forward

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/hostname"
	"github.com/hostproxy/hostproxy/internal/limit"
	"github.com/hostproxy/hostproxy/internal/status"
)

// NewBy checks a By, and returns it in its canonical form. It refuses
// hop-by-hop and framing fields, which are not in every lane's request, and
// forwarding fields, which a client can set to anything.
func NewBy(by limit.By) (limit.By, error) {
	n := 0
	for _, set := range []bool{by.Header != "", by.Cookie != "", by.Host, by.Func != nil} {
		if set {
			n++
		}
	}
	class := header.Classify(by.Header)
	switch {
	case n > 1:
		return by, errors.New("field By has more than one field set: set only Header, Cookie, Host or Func")
	case by.Header != "" && class&header.Host != 0:
		return by, fmt.Errorf("By.Header is %q: set By.Host to true, which counts by the canonical host", by.Header)
	case class&(header.Forwarding|header.Alias) != 0:
		return by, fmt.Errorf("By.Header is %q, which a client can set to anything: leave By empty to count by the client address, resolved through Router.TrustedProxies", by.Header)
	case by.Header != "" && header.CheckName("By.Header", by.Header) != nil:
		return by, header.CheckName("By.Header", by.Header)
	case by.Cookie != "" && !h1.ValidToken(by.Cookie):
		return by, fmt.Errorf("By.Cookie is %q: want the name of a cookie, such as session", by.Cookie)
	}
	by.Header = http.CanonicalHeaderKey(by.Header)
	return by, nil
}

// A Request is the request in which a By looks, in the form that its lane has.
type Request struct {
	HTTP *http.Request // nil in the fast lane
	Raw  *h1.Request   // nil in the handler lane
	Host string        // the canonical host of Raw
	// the field of the proxy's request identifier, which has another value each
	// time; "" means none
	ID string

	Set []header.Replacement // replacements by the hook Begin, not yet made in HTTP or Raw
}

// replaced reports whether the hook has set or removed the header of that name.
// It returns what the hook has set; nil if it has removed it.
func (r *Request) replaced(name string) (set *header.Replacement, ok bool) {
	for i := range r.Set {
		if s := &r.Set[i]; header.SameVariable(s.Name, name) {
			if s.Gone || !header.EqualFold(s.Name, name) {
				return nil, true
			}
			return s, true
		}
	}
	return nil, false
}

// find returns the key that by finds in the request, or "" if there is none. It
// is valid as long as the request's memory. The error is ErrOtherLane, or that
// of Func.
func (r *Request) find(by *limit.By) (string, error) {
	switch {
	case by.Func != nil:
		if r.HTTP == nil {
			return "", ErrOtherLane
		}
		return call(by.Func, r.HTTP)
	case by.Host:
		return r.host(), nil
	case by.Cookie == "" && (by.Header == "" || by.Header == r.ID):
		return "", nil
	}
	if set, ok := r.replaced(cmp.Or(by.Header, "Cookie")); ok {
		return findIn(set, by), nil
	}
	if r.HTTP != nil {
		return findOf(r.HTTP, by), nil
	}
	return r.findBytes(by), nil
}

// findIn is find in a header that a hook has set; nil means that it has removed
// it.
func findIn(set *header.Replacement, by *limit.By) string {
	switch {
	case set == nil:
		return ""
	case by.Header != "":
		return set.Value
	}
	v, _ := header.Cookie(set.Value, by.Cookie)
	return v
}

// call calls the user's func. A panic in it fails only this request.
func call(f func(*http.Request) string, q *http.Request) (text string, err error) {
	defer exchange.Contain("RateLimit.By.Func", &err)
	return f(q), nil
}

// host returns the canonical host, or "" if there is none.
func (r *Request) host() string {
	if r.HTTP == nil {
		return r.Host
	}
	host, _, err := hostname.Split(r.HTTP.Host)
	if err != nil {
		return ""
	}
	return host
}

// findOf is find in the handler lane.
func findOf(q *http.Request, by *limit.By) string {
	if by.Header != "" {
		if v := q.Header[by.Header]; len(v) > 0 {
			return v[0]
		}
		return ""
	}
	for _, line := range q.Header["Cookie"] {
		if v, ok := header.Cookie(line, by.Cookie); ok {
			return v
		}
	}
	return ""
}

// findBytes is findOf in the fast lane.
func (r *Request) findBytes(by *limit.By) string {
	for i := range r.Raw.Fields {
		switch fd := &r.Raw.Fields[i]; {
		case by.Header != "" && header.EqualFold(fd.Name, by.Header):
			return viewOf(fd.Value)
		case by.Cookie != "" && header.EqualFold(fd.Name, "Cookie"):
			if v, ok := header.Cookie(fd.Value, by.Cookie); ok {
				return viewOf(v)
			}
		}
	}
	return ""
}

// subject returns the subject for which r counts the exchange, or the failure
// to find it.
func (a *Attempts) subject(r *limit.Rule) (limit.Subject, *exchange.Failure) {
	text, err := a.Asked.find(&r.By)
	if err == nil {
		return limit.Subject{Client: a.Client, Text: text}, nil
	}
	fail := a.refuse(http.StatusInternalServerError, "proxy_internal_error")
	fail.Err = err
	return limit.Subject{}, fail
}

// Free gives back the exchange's places in limits of requests in flight.
func (a *Attempts) Free() {
	a.slots.Free()
	a.slots = a.slots[:0]
}

// Kept returns the places that Handover has kept for an exchange that another
// lane continues. The caller frees them when that lane is done, however the
// exchange ends there.
func (a *Attempts) Kept() limit.Slots {
	kept := a.kept
	a.kept = nil
	return kept
}

// ExplainLimit adds to e what the limit r, set by the field name, does with the
// client's request q. It takes no token and no place, and calls no func.
func ExplainLimit(e *status.Explanation, name string, r *limit.Rule, q *http.Request, client netip.Addr, now time.Time) {
	if r == nil {
		return
	}
	if r.NeedsRequest() {
		e.Rule(name, status.Unknown, "By.Func decides what the request counts for; Explain does not call it")
		return
	}
	text, _ := (&Request{HTTP: q}).find(&r.By)
	who, what := limit.Subject{Client: client, Text: text}, nameOf(&r.By, text)
	if most := r.MaxInFlight; most > 0 {
		if n := r.InFlight(who); n >= most {
			e.RefuseBy(name, http.StatusTooManyRequests, "requests in flight for %s: %d of %d", what, n, most)
			return
		} else if r.Rate == 0 {
			e.Rule(name, status.Passes, "requests in flight for %s: %d of %d", what, n, most)
			return
		}
	}
	switch d, known := r.Peek(who, now); {
	case !known:
		e.Rule(name, status.Unknown, "a Limiter decides; Explain does not call it")
	case d.OK:
		e.Rule(name, status.Passes, "requests left for %s: %d", what, d.Remaining)
	default:
		e.RefuseBy(name, http.StatusTooManyRequests, "too many requests for %s: the next one is allowed in %v", what, d.Retry.Round(time.Millisecond))
	}
}

// nameOf describes the subject of a request in which by has found text. It
// leaves out the text, which may be a secret.
func nameOf(by *limit.By, text string) string {
	part := ""
	switch {
	case by.Header != "":
		part = "header " + by.Header
	case by.Cookie != "":
		part = "cookie " + by.Cookie
	case by.Host:
		part = "host"
	default:
		return "the client"
	}
	if text == "" {
		return "the client (the request has no " + part + ")"
	}
	return "this value of the " + part
}
