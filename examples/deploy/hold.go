package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hostproxy/hostproxy"
)

// The kinds of a hold.
const (
	kindPause    = "pause"
	kindMaintain = "maintain"
	kindStop     = "stop"
)

// maxPause limits a pause.
const maxPause = time.Hour

// hold makes requests wait, or answers them with a page.
func (m *manager) hold(a *app, h hold) (string, error) {
	if a.Hold != nil && a.Hold.Kind == kindStop {
		return "", fmt.Errorf("%q is stopped: resume it first", a.name)
	}
	h.Since = time.Now()
	if err := h.check(); err != nil {
		return "", err
	}
	if err := m.change(a, func(s *saved) { s.Hold = &h }); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s: %s\n", a.name, h.words()), a.held()
}

// resume ends a hold.
func (m *manager) resume(a *app) (string, error) {
	if a.Hold == nil {
		return fmt.Sprintf("%s: requests were not held\n", a.name), nil
	}
	if err := m.change(a, func(s *saved) { s.Hold = nil }); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s: requests go to %s\n", a.name, list(a.Targets)), a.held()
}

// check returns an error if the hold is invalid.
func (h *hold) check() error {
	switch {
	case h.Kind == kindPause && (h.Until.IsZero() || h.Page != nil):
		return errors.New("a pause has an end and no page")
	case h.Kind == kindPause:
		return nil
	case h.Kind != kindMaintain && h.Kind != kindStop:
		return fmt.Errorf("a hold is %q: want pause, maintain or stop", h.Kind)
	case h.Page == nil:
		return fmt.Errorf("%s has no page", h.Kind)
	case h.Page.Status < 200 || h.Page.Status > 599 || h.Page.Status == 204 || h.Page.Status == 304:
		return fmt.Errorf("-status %d: want 200 to 599, except 204 and 304", h.Page.Status)
	case h.Page.RetryAfter < 0:
		return fmt.Errorf("-retry-after %v: want 0 or more", h.Page.RetryAfter)
	case len(h.Page.Body) > maxPage:
		return fmt.Errorf("the page has more than %d bytes: want a smaller one", maxPage)
	}
	return hostproxy.To("localhost:1").Maintain(h.Page.page())
}

func (p *page) page() hostproxy.Page {
	return hostproxy.Page{Status: p.Status, ContentType: p.Type, Body: []byte(p.Body), RetryAfter: p.RetryAfter}
}

// words describes what happens to requests.
func (h *hold) words() string {
	switch {
	case h == nil:
		return "serves"
	case h.Kind == kindPause && time.Until(h.Until) > 0:
		return "requests wait until " + h.Until.Format(time.TimeOnly)
	case h.Kind == kindPause:
		return "paused for too long: requests get 503 until deploy resume"
	case h.Kind == kindMaintain:
		return fmt.Sprintf("requests get the page of maintain, with %d", h.Page.Status)
	}
	return "stopped: requests get 503"
}

// stop starts to finish the app's requests. It answers further ones with 503.
func (m *manager) stop(a *app) (*operation, error) {
	p := page{Status: http.StatusServiceUnavailable, Body: "This site is stopped.\n"}
	up, err := build(a.conf, a.Targets)
	if err != nil {
		return nil, err
	}
	err = m.change(a, func(s *saved) {
		s.Hold, s.Canary, s.Guard = &hold{Kind: kindStop, Page: &p, Since: time.Now()}, nil, nil
	})
	if err != nil {
		return nil, err
	}
	canary := m.endCanary(a)
	old := a.up
	a.up = up
	// answers requests that wait
	err = errors.Join(m.apply(a), old.Maintain(hostproxy.Page{Body: []byte(p.Body)}))
	return m.ending(a, old, canary, "stop", "is stopped", err), nil
}

// remove starts to finish the app's requests, and forgets the app.
func (m *manager) remove(a *app) (*operation, error) {
	if err := m.change(a, func(s *saved) { s.Targets = nil }); err != nil {
		return nil, err
	}
	canary := m.endCanary(a)
	m.router.Remove(a.host)
	m.meter.Forget(a.host)
	// answers requests that wait
	err := a.up.Maintain(hostproxy.Page{Body: []byte("This site was removed.\n")})
	return m.ending(a, a.up, canary, "remove", "was removed", err), nil
}

// ending waits for the requests at old and at the canary to end.
func (m *manager) ending(a *app, old *hostproxy.Upstream, canary <-chan error, what, done string, err error) *operation {
	limit := a.conf.Drain
	return m.begin(a, what, func(op *operation) (string, error) {
		m.settle(op)
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		left := old.Drain(ctx)
		return fmt.Sprintf("%s %s\n", a.name, done) + cutOff(left) + cutOff(<-canary), err
	})
}
