// Package discover finds the addresses of targets, and reports changes.
//
// A [Source] finds addresses; [Hosts] and [Services] ask DNS. [Run] runs a
// source, and restarts it when it ends.
package discover

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// An Endpoint is one address of a target.
type Endpoint struct {
	Target string // a URL
	Addr   string // host:port to dial; "" means the URL's
	Weight int
}

// A Source publishes the whole list of endpoints whenever it may have changed,
// until ctx is done or it fails. It must not change a list after publishing it.
type Source func(ctx context.Context, publish func([]Endpoint)) error

// MaxEndpoints limits a list; further endpoints are ignored.
const MaxEndpoints = 4096

// Limits of the pause before a source is restarted.
const (
	minPause = time.Second
	maxPause = time.Minute
)

// Run runs source until ctx is done. A source that returns or panics is
// restarted after a pause, which grows while it publishes nothing; its last
// list stays. Run calls apply with each list that differs from the one before,
// sorted and without duplicates. It never applies an empty list: a source that
// fails to find targets must not stop a service. It calls failed with each
// error.
func Run(ctx context.Context, source Source, apply func([]Endpoint) error, failed func(error)) {
	var last []Endpoint
	pause := minPause
	publish := func(es []Endpoint) {
		pause = minPause
		es = normal(es)
		switch {
		case len(es) == 0:
			failed(errors.New("no endpoints found; keeping the previous ones"))
			return
		case slices.EqualFunc(es, last, same):
			return
		}
		if err := apply(es); err != nil {
			failed(err)
			return
		}
		last = es
	}
	for ctx.Err() == nil {
		err := attempt(ctx, source, publish)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("the source has returned: it must run until its context is done")
		}
		failed(err)
		sleep(ctx, pause/2+rand.N(pause/2))
		pause = min(2*pause, maxPause)
	}
}

// attempt runs source once. A panic in it becomes an error.
func attempt(ctx context.Context, source Source, publish func([]Endpoint)) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in the source: %v", p)
		}
	}()
	return source(ctx, publish)
}

// normal returns es sorted, without duplicates, and at most MaxEndpoints.
func normal(es []Endpoint) []Endpoint {
	es = slices.Clone(es)
	slices.SortStableFunc(es, func(a, b Endpoint) int { return strings.Compare(a.key(), b.key()) })
	es = slices.CompactFunc(es, func(a, b Endpoint) bool { return a.key() == b.key() })
	return es[:min(len(es), MaxEndpoints)]
}

func (e Endpoint) key() string { return e.Target + " " + e.Addr }

func same(a, b Endpoint) bool { return a.key() == b.key() && a.Weight == b.Weight }

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// usable reports whether a service can have an address that DNS returned.
func usable(a netip.Addr) bool { return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() }
