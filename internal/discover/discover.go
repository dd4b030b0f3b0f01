// Package discover finds out where targets are, and tells when that changes.
//
// A [Source] is anything that knows; [Hosts] and [Services] ask DNS. [Run]
// keeps a source going whatever happens to it.
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

// An Endpoint is one address that serves.
type Endpoint struct {
	Target string // a URL
	Addr   string // host:port to dial; "" means the URL's
	Weight int
}

// A Source publishes the whole list of endpoints whenever it may have changed,
// until ctx is done or something went wrong. It does not change what it has
// published.
type Source func(ctx context.Context, publish func([]Endpoint)) error

// MaxEndpoints bounds a list: more are cut off.
const MaxEndpoints = 4096

// Bounds of the wait before a source that returned is started again.
const (
	minPause = time.Second
	maxPause = time.Minute
)

// Run runs source until ctx is done. A source that returns or panics is started
// again after a pause, which grows while it publishes nothing; what it
// published last stays. apply gets each list that differs from the one before,
// sorted and without doubles, and empty ones never: a source that has lost
// sight of its targets must not stop a service. failed is told what went wrong.
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

// attempt runs source once. A panic in it is an error.
func attempt(ctx context.Context, source Source, publish func([]Endpoint)) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in the source: %v", p)
		}
	}()
	return source(ctx, publish)
}

// normal returns es sorted, without doubles, and not too many.
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

// usable reports whether a service can be at an address that DNS gave.
func usable(a netip.Addr) bool { return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() }
