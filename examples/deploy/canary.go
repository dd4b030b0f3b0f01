package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/deploy/guard"
)

// A split sends requests with the canary's header or cookie to side, which
// diverts them to the canary, and all others to up. side stands between so that
// no request fails when the canary ends: the library then keeps such a request
// at side.
type split struct {
	canary   canary
	side, up *hostproxy.Upstream
}

// ServeHTTP serves q.
func (s *split) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if s.canary.selects(q) {
		s.side.ServeHTTP(w, q)
		return
	}
	s.up.ServeHTTP(w, q)
}

// Unwrap shows the Router that the route leads to the same Upstream: WebSockets
// stay.
func (s *split) Unwrap() http.Handler { return s.up }

// selective reports whether requests choose the canary.
func (c *canary) selective() bool { return c.Header != "" || c.Cookie != "" }

func (c *canary) selects(q *http.Request) bool {
	if name, value, _ := strings.Cut(c.Header, "="); name != "" && slices.Contains(q.Header.Values(name), value) {
		return true
	}
	name, value, _ := strings.Cut(c.Cookie, "=")
	return name != "" && slices.ContainsFunc(q.CookiesNamed(name), func(k *http.Cookie) bool { return k.Value == value })
}

func (c *canary) check() error {
	for flag, text := range map[string]string{"header": c.Header, "cookie": c.Cookie} {
		if name, value, ok := strings.Cut(text, "="); text != "" && (!ok || name == "" || value == "" || strings.ContainsAny(name, " \t;,:\"")) {
			return fmt.Errorf("-%s %q: want a name and a value, such as X-Canary=1", flag, text)
		}
	}
	if c.Share == 0 && !c.selective() {
		return errors.New("a canary without clients: want -share 10%, -header X-Canary=1 or -cookie canary=1")
	}
	if !(c.Share >= 0 && c.Share <= 1) {
		return fmt.Errorf("the share of a canary is %v: want 0 to 1", c.Share)
	}
	return nil
}

// canary starts what the command asks for.
func (m *manager) canary(q request, a *app) (*operation, error) {
	changes := q.Share > 0 || q.Header != "" || q.Cookie != ""
	switch {
	case a.op != nil:
		return nil, m.busy(a)
	case q.Promote && q.End, (q.Promote || q.End) && (len(q.Targets) > 0 || changes):
		return nil, errors.New("want either targets and their clients, -promote or -end, and not several of these")
	case len(q.Targets) > 0 && a.Canary != nil:
		return nil, fmt.Errorf("%q has a canary at %s: end it first, by deploy canary %s -promote or -end", a.name, list(a.Canary.Targets), a.name)
	case len(q.Targets) == 0 && a.Canary == nil:
		return nil, fmt.Errorf("%q has no canary: want its targets, such as deploy canary %s localhost:4007 -share 10%%", a.name, a.name)
	case a.Hold != nil && a.Hold.Kind == kindStop:
		return nil, fmt.Errorf("%q is stopped: resume it first", a.name)
	case q.End:
		return m.dropCanary(a)
	case q.Promote:
		c := change{to: a.Canary.Targets, guard: q.Guard, promote: true}
		op := m.begin(a, "the promotion of a canary", func(op *operation) (string, error) { return m.swap(op, c) })
		op.cancels = true
		return op, nil
	}
	return m.setCanary(q, a)
}

// setCanary starts a canary, or changes its clients.
func (m *manager) setCanary(q request, a *app) (*operation, error) {
	c := canary{Targets: q.Targets, Share: q.Share, Header: q.Header, Cookie: q.Cookie}
	if a.Canary != nil {
		c.Targets = a.Canary.Targets
		if c.Share == 0 {
			c.Share = a.Canary.Share
		}
		if c.Header == "" {
			c.Header = a.Canary.Header
		}
		if c.Cookie == "" {
			c.Cookie = a.Canary.Cookie
		}
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	next, err := build(a.conf, c.Targets)
	if err != nil {
		return nil, err
	}
	for _, t := range guard.Names(a.up) {
		if slices.Contains(guard.Names(next), t) {
			return nil, fmt.Errorf("target %q is in use for all clients: a canary needs targets of its own", t)
		}
	}
	if a.Canary != nil {
		next = a.next
	}
	q.Targets = c.Targets
	op := m.begin(a, "a canary", func(op *operation) (string, error) { return m.runCanary(op, q, c, next) })
	op.cancels = true
	return op, nil
}

func (m *manager) runCanary(op *operation, q request, c canary, next *hostproxy.Upstream) (string, error) {
	a := op.app
	if err := m.awaitReady(op, q); err != nil {
		return "", err
	}
	if err := m.enter(op, "switch"); err != nil {
		return "", err
	}
	w, b, err := m.watch(a, c.Targets, q.Guard)
	if err != nil {
		return "", err
	}
	if w != nil {
		defer w.Stop()
	}
	if err := m.beginCanary(a, c, next, q.Guard, b, w); err != nil {
		return "", err
	}
	text := fmt.Sprintf("%s: %s is in use for %s\n", a.name, list(c.Targets), c.clients())
	if w == nil {
		return text, nil
	}
	verdict, err := m.guard(op, w)
	return text + verdict, err
}

// beginCanary stores the canary and sends its clients there.
func (m *manager) beginCanary(a *app, c canary, next *hostproxy.Upstream, d time.Duration, b guard.Baseline, w *guard.Watch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.change(a, func(s *saved) {
		s.Canary, s.Guard = &c, nil
		if d > 0 {
			s.Guard = &watched{Until: time.Now().Add(d), Baseline: b}
		}
	})
	if err != nil {
		return err
	}
	a.next = next
	if err := m.apply(a); err != nil || w == nil {
		return err
	}
	w.OnWorse(a.away(true))
	return nil
}

// clients describes the canary's clients.
func (c *canary) clients() string {
	var all []string
	if c.Share > 0 {
		all = append(all, fmt.Sprintf("%.4g %% of the clients", 100*c.Share))
	}
	if c.Header != "" {
		all = append(all, "the header "+c.Header)
	}
	if c.Cookie != "" {
		all = append(all, "the cookie "+c.Cookie)
	}
	return strings.Join(all, " and ")
}

// dropCanary starts to end a canary. Its requests finish.
func (m *manager) dropCanary(a *app) (*operation, error) {
	targets, kept := a.Canary.Targets, a.inUse()
	if err := m.change(a, func(s *saved) { s.Canary, s.Guard = nil, nil }); err != nil {
		return nil, err
	}
	drained := m.endCanary(a)
	return m.begin(a, "the end of a canary", func(op *operation) (string, error) {
		m.settle(op)
		return fmt.Sprintf("%s: the canary at %s has ended; %s\n", a.name, list(targets), kept) + cutOff(<-drained), nil
	}), nil
}

// endCanary sends no more requests to the canary. The result yields when its
// requests have ended. m.mu is held.
func (m *manager) endCanary(a *app) <-chan error {
	drained := make(chan error, 1)
	next := a.next
	if next == nil {
		drained <- nil
		return drained
	}
	errs := []error{a.up.Canary(nil, 0)}
	if a.side != nil {
		errs = append(errs, a.side.Canary(nil, 0))
	}
	errs = append(errs, m.router.Set(a.host, a.up))
	if err := errors.Join(errs...); err != nil {
		m.log.Error("the end of a canary", "app", a.name, "cause", err)
	}
	a.next, a.side = nil, nil
	limit := a.conf.Drain
	m.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		drained <- next.Drain(ctx)
	})
	return drained
}
