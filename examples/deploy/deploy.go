package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy"
)

// deploy starts to deploy targets of an app, which may be new.
func (m *manager) deploy(q request) (*operation, error) {
	host, err := canonical(q.Host)
	if err != nil {
		return nil, err
	}
	a := m.apps[q.App]
	if a == nil {
		return m.create(q, host)
	}
	if err := m.mayDeploy(a, q, host); err != nil {
		return nil, err
	}
	if _, err := build(a.conf, q.Targets); err != nil {
		return nil, err
	}
	op := m.begin(a, "a deploy", func(op *operation) (string, error) {
		if err := m.awaitReady(op, q); err != nil {
			return "", err
		}
		return m.swap(op, change{to: q.Targets, guard: q.Guard})
	})
	op.cancels = true
	return op, nil
}

// mayDeploy returns an error if the request does not suit the app.
func (m *manager) mayDeploy(a *app, q request, host string) error {
	switch {
	case a.op != nil:
		return m.busy(a)
	case a.host != host:
		return fmt.Errorf("%q serves %q, not %q: choose another app, or remove this one first", a.name, a.Host, q.Host)
	case a.Canary != nil:
		return fmt.Errorf("%q has a canary at %s: end it first, by deploy canary %s -promote or -end", a.name, list(a.Canary.Targets), a.name)
	case q.Settings != nil && *q.Settings != a.Settings:
		return fmt.Errorf("%q has the settings of its first deploy (-health %q -drain %v -grace %v): leave these flags out, or remove the app first",
			a.name, a.Settings.Health, a.Settings.Drain, a.Settings.Grace)
	}
	return nil
}

// create starts the first deploy of an app.
func (m *manager) create(q request, host string) (*operation, error) {
	if other := m.owner(host); other != nil {
		return nil, fmt.Errorf("host %q belongs to app %q: choose another host, or deploy that app", q.Host, other.name)
	}
	if _, ok := m.apps[q.Host]; ok {
		return nil, fmt.Errorf("%q is the name of an app, not a host: is %q meant as a command?", q.Host, q.App)
	}
	a := &app{name: q.App, host: host, saved: saved{Host: q.Host, Settings: settings{Drain: 30 * time.Second}}}
	if q.Settings != nil {
		a.Settings = *q.Settings
	}
	a.conf = a.Settings
	if err := a.conf.check(); err != nil {
		return nil, err
	}
	up, err := build(a.conf, q.Targets)
	if err != nil {
		return nil, err
	}
	m.apps[a.name] = a
	op := m.begin(a, "the first deploy", func(op *operation) (string, error) {
		if err := m.awaitReady(op, q); err != nil {
			return "", err
		}
		if err := m.enter(op, "switch"); err != nil {
			return "", err
		}
		return m.add(a, up, q.Targets)
	})
	op.cancels = true
	return op, nil
}

// add stores a new app, and adds its route.
func (m *manager) add(a *app, up *hostproxy.Upstream, targets []string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.change(a, func(s *saved) { s.Targets = targets }); err != nil {
		return "", err
	}
	a.up = up
	if err := m.apply(a); err != nil {
		return "", errors.Join(err, m.change(a, func(s *saved) { s.Targets = nil }))
	}
	return fmt.Sprintf("%s: %s is in use for %s\n", a.name, list(targets), a.Host), nil
}

// awaitReady waits until the targets of q are ready. During that time, op can
// be canceled.
func (m *manager) awaitReady(op *operation, q request) error {
	if err := m.enter(op, "health"); err != nil {
		return err
	}
	probe, err := build(op.app.conf, q.Targets)
	if err != nil {
		return err
	}
	limit := q.Ready
	if limit <= 0 {
		limit = 30 * time.Second
	}
	ctx, cancel := context.WithTimeoutCause(op.ctx, limit, fmt.Errorf("not ready within %v", limit))
	defer cancel()
	defer func() { _ = probe.Drain(ctx) }() // ends the health checks
	if err := probe.Ready(ctx); err != nil {
		return &phaseError{"health", fmt.Errorf("%w; %s", err, m.inUse(op.app))}
	}
	return nil
}

// inUse describes the targets in use.
func (m *manager) inUse(a *app) string {
	return m.of(a).inUse()
}

func (s saved) inUse() string {
	if s.Targets == nil {
		return "nothing has changed"
	}
	return fmt.Sprintf("%s stays in use", list(s.Targets))
}

func list(targets []string) string { return strings.Join(targets, ", ") }

// check returns an error if a setting is invalid.
func (s settings) check() error {
	switch {
	case s.Drain <= 0:
		return fmt.Errorf("-drain %v: want more than 0, such as 30s", s.Drain)
	case s.Health != "" && !strings.HasPrefix(s.Health, "/"):
		return fmt.Errorf("-health %q: want a path, such as /up", s.Health)
	}
	return nil
}
