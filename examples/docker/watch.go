package main

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxPause = 30 * time.Second
	// after this time, a container that ignores the stop signal gets traffic
	// again
	stopFor     = time.Minute
	maxStopping = 10_000 // how many of these containers are remembered
	atOnce      = 8      // containers that are inspected concurrently
)

// watch keeps the routes in step with the containers until ctx is done. While
// the daemon does not answer, the routes stay.
func (p *proxy) watch(ctx context.Context, e *engine) {
	defer e.client.CloseIdleConnections()
	pause, last := p.pause, ""
	for {
		began := time.Now()
		synced, err := p.follow(ctx, e)
		if ctx.Err() != nil {
			return
		}
		// otherwise a daemon that ends the events at once would be asked all
		// the time
		if synced && time.Since(began) > maxPause {
			pause, last = p.pause, ""
		}
		if synced {
			p.log.Info("the events have ended, connecting again", "cause", err)
		} else if text := err.Error(); text != last {
			p.log.Warn("cannot follow the containers; the routes stay as they are, and the daemon is asked again", "cause", err)
			last = text
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		pause = min(2*pause, maxPause)
	}
}

// follow connects to the events and reads all containers. It reads them again
// whenever an event may have changed something. It returns when the daemon
// fails. synced reports whether it has set the routes at least once.
func (p *proxy) follow(ctx context.Context, e *engine) (synced bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	read, err := e.events(ctx)
	if err != nil {
		return false, err
	}
	dirty, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- read(func(ev event) {
			if !p.note(ev) {
				return
			}
			select {
			case dirty <- struct{}{}:
			default: // a further one is already waiting
			}
		})
	}()
	for {
		complete, err := p.sync(ctx, e)
		if err != nil {
			cancel()
			<-ended
			return synced, err
		}
		if !synced {
			p.log.Info("following the containers", "daemon", e.name, "routes", len(p.live))
		}
		synced = true
		next := p.resync
		if !complete {
			next = min(next, 10*p.pause)
		}
		if err := p.await(next, dirty, ended); err != nil {
			return synced, err
		}
	}
}

// await waits until routes may have changed, at most for d. It also waits for
// the events that soon follow the first one. The error is why the events ended.
func (p *proxy) await(d time.Duration, dirty <-chan struct{}, ended <-chan error) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case err := <-ended:
		return err
	case <-dirty:
	}
	timer.Reset(p.gather)
	select {
	case <-timer.C:
	case err := <-ended:
		return err
	}
	select {
	case <-dirty:
	default:
	}
	return nil
}

// note remembers which containers are told to stop. It reports whether an event
// may change routes.
func (p *proxy) note(ev event) bool {
	action, _, _ := strings.Cut(ev.Action, ":") // exec_create: command, health_status: healthy
	switch {
	case strings.HasPrefix(action, "exec"):
		return false // health checks cause these events
	case slices.Contains([]string{"attach", "detach", "commit", "copy", "export", "resize", "top", "archive-path", "extract-to-dir"}, action):
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch signal := ev.Actor.Attributes.Signal; {
	case action == "kill" && slices.Contains([]string{"2", "3", "9", "15"}, signal):
		if len(p.stopping) < maxStopping {
			p.stopping[ev.Actor.ID] = time.Now()
		}
	case action == "start" || action == "restart":
		delete(p.stopping, ev.Actor.ID)
	}
	return true
}

// stops returns the containers that were told to stop recently.
func (p *proxy) stops() map[string]time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.stopping, func(_ string, since time.Time) bool { return time.Since(since) > stopFor })
	return maps.Clone(p.stopping)
}

// sync sets the routes to those of all containers. complete is false if the
// daemon did not answer for each container: those without an answer stay as
// they were.
func (p *proxy) sync(ctx context.Context, e *engine) (complete bool, err error) {
	if p.place, err = p.locate(ctx, e); err != nil {
		return false, err
	}
	ids, err := e.list(ctx)
	if err != nil {
		return false, err
	}
	containers, refusals := p.inspect(ctx, e, ids)
	if err := ctx.Err(); err != nil {
		return false, err
	}
	complete = len(refusals) == 0
	stopping := p.stops()
	var claims []*claim
	for _, c := range containers {
		_, stops := stopping[c.ID]
		l, err := newClaim(c, p.place, stops)
		if err != nil {
			refusals = append(refusals, refuse(c.Name, err))
			continue
		}
		claims = append(claims, l)
	}
	fixed := map[string]bool{}
	for pattern := range p.fixed {
		fixed[pattern] = true
	}
	routes, refused := resolve(claims, fixed, p.only)
	refusals = append(refusals, refused...)
	if err := p.apply(routes); err != nil {
		refusals, complete = append(refusals, refuse("", err)), false
	}
	p.tell(refusals)
	return complete, nil
}

// locate returns where the proxy runs: by -self, or else by what the daemon
// knows.
func (p *proxy) locate(ctx context.Context, e *engine) (place, error) {
	names, own := selves, own
	switch {
	case p.self == "host" || p.self == "" && !p.inside:
		return hostPlace(p.network), nil
	case p.self != "":
		names, own = func() []string { return []string{p.self} }, chosen
	}
	at, err := locate(ctx, e, names(), own, p.network)
	// the daemon may fail to answer for this container only
	if err != nil && p.place.id != "" {
		return p.place, nil
	}
	return at, err
}

// errHangs is the error of containers that the daemon is not asked for.
var errHangs = errors.New("the daemon did not answer for other containers in time")

// inspectAll returns the daemon's answer for each of ids, or an error. After
// several timeouts, it does not ask for the rest.
func inspectAll(ctx context.Context, e *engine, ids []string) ([]*container, []error) {
	answers, errs := make([]*container, len(ids)), make([]error, len(ids))
	turns := make(chan struct{}, atOnce)
	var late atomic.Int32
	var asking sync.WaitGroup
	for i, id := range ids {
		turns <- struct{}{}
		asking.Go(func() {
			defer func() { <-turns }()
			if late.Load() >= atOnce {
				errs[i] = errHangs
				return
			}
			answers[i], errs[i] = e.inspect(ctx, id)
			if timeout, ok := errors.AsType[net.Error](errs[i]); ok && timeout.Timeout() {
				late.Add(1)
			}
		})
	}
	asking.Wait()
	return answers, errs
}

// inspect returns the daemon's answers for ids. If the daemon does not answer
// for one, its last answer is used. Containers that are gone are left out.
func (p *proxy) inspect(ctx context.Context, e *engine, ids []string) (all []*container, refusals []refusal) {
	answers, errs := inspectAll(ctx, e, ids)
	seen := map[string]*container{}
	for i, id := range ids {
		c := answers[i]
		switch {
		case errors.Is(errs[i], errGone):
			continue
		case errs[i] != nil:
			refusals = append(refusals, refuse(id, errs[i]))
			if c = p.seen[id]; c == nil {
				continue
			}
		}
		seen[id] = c
		all = append(all, c)
	}
	p.seen = seen
	return all, refusals
}

// tell logs the refusals that were not logged yet.
func (p *proxy) tell(refusals []refusal) {
	told := map[refusal]bool{}
	for _, r := range refusals {
		if !p.told[r] && !told[r] {
			p.log.Warn("container refused", "container", r.container, "cause", r.reason)
		}
		told[r] = true
	}
	p.told = told
}
