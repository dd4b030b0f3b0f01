package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/deploy/guard"
)

// A manager owns the apps. It changes them one command at a time.
type manager struct {
	router *hostproxy.Router
	meter  *guard.Meter
	file   string // path of the state file
	log    *slog.Logger
	passOn func() error   // lets a new process take over
	work   sync.WaitGroup // operations, and drains that outlive them

	mu     sync.Mutex // guards the fields below, and the apps
	apps   map[string]*app
	frozen error // why commands are refused; nil if they are accepted
}

// An app is a route and its targets.
type app struct {
	name string
	host string // canonical
	conf settings
	saved
	op *operation // operation in progress; nil if none

	up   *hostproxy.Upstream // nil until the first deploy is done
	next *hostproxy.Upstream // Upstream of the canary; nil if there is none
	// sends requests with the canary's header or cookie to next; nil without a
	// canary
	side *hostproxy.Upstream
}

// The reasons to cancel an operation.
var (
	errHungUp     = errors.New("the client has disconnected")
	errRolledBack = errors.New("canceled by a rollback")
	errStopped    = errors.New("canceled by stop or remove")
	errOver       = errors.New("the proxy is about to end or to hand over")
)

// newManager returns a manager for the apps in the state file.
func newManager(r *hostproxy.Router, m *guard.Meter, file string, log *slog.Logger) (*manager, error) {
	s, err := load(file)
	if err != nil {
		return nil, err
	}
	all := &manager{router: r, meter: m, file: file, log: log, apps: map[string]*app{}}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(s.Apps)) {
		if err := all.restore(name, s.Apps[name]); err != nil {
			errs = append(errs, fmt.Errorf("app %q: %w", name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		text, _ := os.ReadFile(file)
		return nil, broken(file, text, err)
	}
	return all, nil
}

// restore adds an app from the state file.
func (m *manager) restore(name string, s saved) error {
	if err := errors.Join(checkName(name), s.check()); err != nil {
		return err
	}
	a := &app{name: name, conf: s.Settings, saved: s}
	if s.Next != nil {
		m.log.Warn("the proxy ended in the middle of a deploy; the old targets are in use", "app", name, "targets", s.Targets, "not", s.Next)
		a.Next = nil
	}
	var err error
	if a.host, err = canonical(s.Host); err != nil {
		return err
	}
	if other := m.owner(a.host); other != nil {
		return fmt.Errorf("host %q belongs to app %q", s.Host, other.name)
	}
	if a.up, err = build(s.Settings, s.Targets); err != nil {
		return err
	}
	m.apps[name] = a
	if s.Canary != nil {
		if a.next, err = build(s.Settings, s.Canary.Targets); err != nil {
			return err
		}
	}
	return m.apply(a)
}

// owner returns the app with this canonical host, or nil.
func (m *manager) owner(host string) *app {
	for _, a := range m.apps {
		if a.host == host {
			return a
		}
	}
	return nil
}

// canonical returns the Router's spelling of host.
func canonical(host string) (pattern string, err error) {
	var r hostproxy.Router
	if err := r.Set(host, http.NotFoundHandler()); err != nil {
		return "", err
	}
	for pattern = range r.All() {
	}
	return pattern, nil
}

// build returns an Upstream with these targets.
func build(s settings, targets []string) (*hostproxy.Upstream, error) {
	if len(targets) == 0 {
		return nil, errors.New("no targets: want one or more, such as localhost:4006")
	}
	u, err := hostproxy.NewUpstream(targets...)
	if err != nil {
		return nil, err
	}
	u.Health = &hostproxy.HealthCheck{Path: s.Health, Fall: 3}
	u.StreamGrace = s.Grace
	u.DrainTimeout = s.Drain
	u.ReadyTimeout = swapTimeout
	var r hostproxy.Router // used to check the fields
	if err := r.Set("*", u); err != nil {
		return nil, err
	}
	return u, r.Check()
}

// swapTimeout limits the wait for targets to be ready again that were ready a
// moment ago.
const swapTimeout = 3 * time.Second

// apply configures the Router by the state of a: its handler, and what holds
// its requests.
func (m *manager) apply(a *app) error {
	var h http.Handler = a.up
	if c := a.Canary; c != nil && c.selective() {
		if a.side == nil {
			var err error
			if a.side, err = build(a.conf, a.Targets); err != nil {
				return err
			}
			if err := a.side.Canary(a.next, 1); err != nil {
				return err
			}
		}
		h = &split{canary: *c, side: a.side, up: a.up}
	}
	if a.Canary != nil {
		if err := a.up.Canary(a.next, a.Canary.Share); err != nil {
			return err
		}
	}
	if err := a.held(); err != nil {
		return err
	}
	return m.router.Set(a.host, h)
}

// held makes the upstreams hold requests, or release them.
func (a *app) held() error {
	var errs []error
	for _, u := range []*hostproxy.Upstream{a.up, a.side} {
		switch {
		case u == nil:
		case a.Hold == nil:
			errs = append(errs, u.Resume())
		case a.Hold.Page != nil:
			errs = append(errs, u.Maintain(a.Hold.Page.page()))
		default:
			errs = append(errs, u.Pause(time.Until(a.Hold.Until)))
		}
	}
	return errors.Join(errs...)
}

// change applies edit to a's state and stores it. If that fails, nothing has
// changed. m.mu is held. An app without targets is not stored.
func (m *manager) change(a *app, edit func(*saved)) error {
	next := a.saved
	edit(&next)
	s := state{Version: stateVersion, Apps: map[string]saved{}}
	for name, other := range m.apps {
		if other.Targets != nil && other != a {
			s.Apps[name] = other.saved
		}
	}
	if next.Targets != nil {
		s.Apps[a.name] = next
	}
	if err := store(m.file, s); err != nil {
		return &phaseError{"state", fmt.Errorf("the state cannot be stored: %w", err)}
	}
	a.saved = next
	return nil
}

// with is change for a caller without m.mu.
func (m *manager) with(a *app, edit func(*saved)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.change(a, edit)
}

// note is with for a change that has already happened: if it cannot be stored,
// the next change stores it.
func (m *manager) note(a *app, edit func(*saved)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.change(a, edit)
	if err != nil {
		edit(&a.saved)
	}
	return err
}

// check returns an error if the state is not a valid state of an app.
func (s *saved) check() error {
	errs := []error{s.Settings.check()}
	if s.Hold != nil {
		errs = append(errs, s.Hold.check())
	}
	if s.Canary != nil {
		errs = append(errs, s.Canary.check())
	}
	if s.Guard != nil && s.Guard.Back == nil && s.Canary == nil {
		errs = append(errs, errors.New("the guard watches a canary that does not exist"))
	}
	return errors.Join(errs...)
}

// A phaseError names the phase in which a command failed.
type phaseError struct {
	phase string
	err   error
}

func (e *phaseError) Error() string { return e.phase + ": " + e.err.Error() }
func (e *phaseError) Unwrap() error { return e.err }

// freeze refuses commands from now on, for this reason. It waits until no
// operation can change the state any more.
func (m *manager) freeze(why error) {
	m.mu.Lock()
	m.frozen = why
	var ops []*operation
	for _, a := range m.apps {
		if a.op != nil {
			a.op.cancel(errOver)
			ops = append(ops, a.op)
		}
	}
	m.mu.Unlock()
	for _, op := range ops {
		<-op.changed
	}
}

// thaw accepts commands again, and resumes the watches of the guard.
func (m *manager) thaw() {
	m.mu.Lock()
	if m.frozen == errHandsOver {
		m.frozen = nil
	}
	m.mu.Unlock()
	m.watchAgain()
}

// wait waits until all operations and drains have ended, or ctx is done.
func (m *manager) wait(ctx context.Context) {
	done := make(chan struct{})
	go func() { m.work.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
