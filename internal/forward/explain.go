package forward

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/hostproxy/hostproxy/internal/balance"
	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/health"
	"github.com/hostproxy/hostproxy/internal/status"
)

// An explainer finds out what Forwarders would do with a request. It counts
// nothing, begins no work, and calls no hook.
type explainer struct {
	*status.Explanation
	q      *http.Request
	client netip.Addr
	now    time.Time
}

// Explain adds to e what f would do with q, whose exchange is x, if q arrived
// now.
func (f *Forwarder) Explain(e *status.Explanation, q *http.Request, x *exchange.Exchange) {
	a := &explainer{e, q, x.Client, x.Start}
	if fail := exchange.Check(q); fail != nil {
		e.Refuse(fail.Status, fail.Err.Error())
	}
	a.visit(f, "Upstream")
	name := "Upstream"
	if f.Diverts() {
		to := f.For(x.Client)
		if to == f {
			e.Rule("Upstream.Canary", status.Passes, "the client is not in the share of clients that the canary serves")
		} else {
			e.Rule("Upstream.Canary", status.Passes, "the client is in the share of clients that the canary serves")
			a.visit(to, "Canary")
			f, name = to, "Canary"
		}
	}
	a.sleep(f, name)
	a.choose(f)
}

// ExplainLoop adds a refusal of q to e if Via names the Router's pseudonym too
// often.
func ExplainLoop(e *status.Explanation, q *http.Request, name string) {
	if fail := exchange.Loop(q.Header["Via"], name); fail != nil {
		e.Refuse(fail.Status, fail.Err.Error())
	}
}

// visit explains what f does before it chooses a target or another Forwarder.
// name is what the explanation calls f.
func (a *explainer) visit(f *Forwarder, name string) {
	if f.inFlight.Load() >= draining {
		a.RefuseBy(name+".Drain", http.StatusServiceUnavailable, "%v", ErrDraining)
	}
	a.guard(&f.Guard, name)
	if h := f.held.Load(); h != nil {
		a.hold(f, h, name)
	}
	if most := int64(f.MaxInFlight); most > 0 {
		switch n := f.busy.Load(); {
		case n < most:
			a.Rule(name+".MaxInFlight", status.Passes, "requests in flight: %d of %d", n, most)
		default:
			a.queue(f, name, fmt.Sprintf("MaxInFlight is reached (%d of %d requests)", n, most))
		}
	}
}

// guard explains the lists and limits of a Guard.
func (a *explainer) guard(g *Guard, name string) {
	client := a.client.Unmap().WithZone("")
	if len(g.Deny) > 0 {
		if within(g.Deny, client) {
			a.RefuseBy(name+".Deny", http.StatusForbidden, "the client's address is on the list")
		} else {
			a.Rule(name+".Deny", status.Passes, "the client's address is not on the list")
		}
	}
	if len(g.Allow) > 0 {
		if within(g.Allow, client) {
			a.Rule(name+".Allow", status.Passes, "the client's address is on the list")
		} else {
			a.RefuseBy(name+".Allow", http.StatusForbidden, "the client's address is not on the list")
		}
	}
	if g.MaxBody > 0 {
		switch n := a.q.ContentLength; {
		case n > g.MaxBody:
			a.RefuseBy(name+".MaxRequestBody", http.StatusRequestEntityTooLarge, "the body has %d bytes; the limit is %d", n, g.MaxBody)
		case n < 0:
			a.Rule(name+".MaxRequestBody", status.Passes, "the length of the body is not known; the limit is %d bytes", g.MaxBody)
		default:
			a.Rule(name+".MaxRequestBody", status.Passes, "the body has %d bytes; the limit is %d", n, g.MaxBody)
		}
	}
	ExplainLimit(a.Explanation, name+".RateLimit", g.Limit, a.q, a.client, a.now)
}

// hold explains Pause and Maintain.
func (a *explainer) hold(f *Forwarder, h *hold, name string) {
	switch left := h.late.Sub(a.now); {
	case h.page != nil:
		a.RefuseBy(name+".Maintain", h.page.Status, "every request gets the page passed to Maintain, until Resume")
	case left <= 0:
		a.RefuseBy(name+".Pause", http.StatusServiceUnavailable, "%v", errPaused)
	case f.waiting.Load() >= maxHeld:
		a.RefuseBy(name+".Pause", http.StatusServiceUnavailable, "the limit of %d waiting requests is reached", maxHeld)
	default:
		a.DeferBy(name+".Pause", "the request waits for Resume, at most %v", left.Round(time.Millisecond))
	}
}

// sleep explains Wake.
func (a *explainer) sleep(f *Forwarder, name string) {
	if f.waker == nil {
		return
	}
	switch state, err := f.waker.foresee(a.now); {
	case state == "":
		a.Rule(name+".Wake", status.Passes, "the targets are awake")
	case err != nil:
		a.RefuseBy(name+".Wake", (&Attempts{f: f}).unawake(err).Status, "%v", err)
	case f.waiting.Load() >= f.maxAsleep():
		a.RefuseBy(name+".Wake", http.StatusServiceUnavailable, "the targets are %s, and the limit of %d waiting requests is reached", state, f.maxAsleep())
	default:
		a.DeferBy(name+".Wake", "the targets are %s; the request waits until they serve; limit of each call of Start and Stop: %v", state, f.waker.Timeout)
	}
}

// queue explains what happens to a request for which there is no room. why
// begins with the name of a field of f.
func (a *explainer) queue(f *Forwarder, name, why string) {
	if n := f.queue.Len(); n < f.queue.Max {
		a.DeferBy(name+".Queue", "%s; the request waits in the queue; requests ahead of it: %d; longest wait: %v", why, n, f.queue.Wait)
		return
	}
	a.RefuseBy(name+".Queue", http.StatusServiceUnavailable, "%s; the queue is full (%d of %d requests)", why, f.queue.Len(), f.queue.Max)
}

// choose explains which targets of f may get the request.
func (a *explainer) choose(f *Forwarder) {
	if a.q.Method == http.MethodConnect && f.UpgradeProtocol(a.q) == "" {
		a.RefuseBy("Upstream.Upgrades", http.StatusNotImplemented, "the protocol of the CONNECT request is not on the list")
	}
	if f.Translates() {
		a.prefix(f)
	}
	s := f.set.Load()
	if len(s.targets) == 0 {
		a.DeferBy("Upstream.Discover", "no target has been found yet")
		return
	}
	at := len(a.Targets)
	var out []int // positions of the targets that cannot be chosen
	full := 0
	for i, t := range s.targets {
		why := s.whyNot(i, a.now)
		if why != "" {
			out = append(out, i)
		}
		if t.node.Full() && !t.node.Suspended(a.now) && !s.idle(i) {
			full++
		}
		a.Targets = append(a.Targets, status.Choice{Name: t.Name, Why: why})
	}
	all := len(out) == len(s.targets) && !f.FailClosed
	if all {
		out = a.tryAll(s, at)
	}
	switch {
	case len(out) < len(s.targets):
		a.prefer(f, s, out, all)
	case full > 0:
		a.queue(f, "Upstream", "MaxTargetInFlight is reached at every available target")
	default:
		a.RefuseBy("Upstream.Targets", http.StatusServiceUnavailable, "%v", errNoTarget)
	}
}

// whyNot returns why the target at i is not eligible, or "" if it is.
func (s *set) whyNot(i int, now time.Time) string {
	t := s.targets[i]
	h := t.Health()
	switch {
	case s.idle(i):
		return "its weight is 0"
	case t.node.Suspended(now) && h.State == health.Open:
		return "its breaker is open: " + h.Reason
	case t.node.Suspended(now):
		return "it is down: " + h.Reason
	case t.node.Full():
		return fmt.Sprintf("it is full (requests in flight: %d)", t.InFlight())
	case !t.monitor.Admits(now):
		return "its breaker is half-open, and its trial requests are in flight: " + h.Reason
	}
	return ""
}

// idle reports whether the target at i gets no requests since its weight is 0.
func (s *set) idle(i int) bool { return s.weighted && s.endpoints[i].Weight == 0 }

// tryAll makes targets that are down eligible: when none is up, all are tried
// as if they were. It returns the positions of those that stay ineligible. The
// first target is at position at of the explanation.
func (a *explainer) tryAll(s *set, at int) (out []int) {
	for i, t := range s.targets {
		if s.idle(i) || t.node.Full() {
			out = append(out, i)
			continue
		}
		c := &a.Targets[at+i]
		a.Rule("Upstream.FailClosed", status.Passes, "no target is up and FailClosed is false, so %s can be chosen although %s", c.Name, c.Why)
		c.Why = ""
	}
	return out
}

// prefer says how a target is chosen among those not in out, and which one it
// is, if that is certain.
func (a *explainer) prefer(f *Forwarder, s *set, out []int, all bool) {
	if f.Pick != nil {
		a.Selection = "chosen by Upstream.Pick"
		return
	}
	a.Selection = policyNames[min(f.Policy, balance.Hash)]
	key := uint64(0)
	if f.Keyed() {
		key = f.KeyOf(a.q, a.client)
	}
	i := -1
	switch {
	case all:
		i = s.choice.ForeseeAny(a.now, key, out)
	default:
		if i = a.sticks(f, s); i >= 0 && !slices.Contains(out, i) {
			a.Selection = "the target of the client's Sticky cookie"
			break
		}
		i = s.choice.Foresee(a.now, key, out)
	}
	if i >= 0 {
		a.Target = s.targets[i].Name
	}
}

// sticks returns the position of the target that the request's Sticky cookie
// names, or -1.
func (a *explainer) sticks(f *Forwarder, s *set) int {
	if !f.Sticks() {
		return -1
	}
	x := Attempts{f: f, set: s}
	x.PreferOf(a.q)
	if !x.known {
		return -1
	}
	return x.preferred
}

// policyNames describes what each policy chooses. Read-only.
var policyNames = [...]string{
	balance.LessBusy:   "the less busy of two drawn at random",
	balance.RoundRobin: "the next in turn",
	balance.Random:     "one drawn at random",
	balance.Least:      "the least busy one",
	balance.First:      "the first available one of Targets",
	balance.Hash:       "the one for the hash of the request's key",
}
