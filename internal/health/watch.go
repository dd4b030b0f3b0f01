package health

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Watch calls probe at the intervals of m's Config, the first time immediately,
// and reports each result to m. It returns when ctx is done. A probe fails if
// it panics, or returns an error, such as that of its context after Timeout.
// The next probe begins only when it has returned.
func Watch(ctx context.Context, m *Monitor, probe func(context.Context) error) {
	k := &m.config.Check
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := attempt(ctx, k.Timeout, probe)
		if ctx.Err() != nil {
			return // cut short: no result about the target
		}
		m.Probed(time.Now(), err)
		timer.Reset(jitter(k.Interval))
	}
}

// attempt calls probe with its timeout, and turns a panic into an error.
func attempt(ctx context.Context, patience time.Duration, probe func(context.Context) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a check: %v", p)
		}
	}()
	err = probe(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no response within %v", patience)
	}
	return err
}

// jitter returns d varied by up to a tenth, so that many targets are not all
// checked at once.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}
