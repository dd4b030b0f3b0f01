package e2e_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// moment is a short limit, for tests that only need that it ends.
const moment = 150 * time.Millisecond

// patient is a limit that must not end too early: a busy machine may stop a
// process for a moment.
const patient = 10 * moment

// dawdle waits like a slow peer: for d, or longer on a busy machine. A test
// must not need that it takes no longer.
func dawdle(d time.Duration) { <-time.After(d) }

// happens reports whether what becomes true within d.
func happens(d time.Duration, what func() bool) bool {
	tick := time.NewTicker(d / 10)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
		if what() {
			return true
		}
	}
	return what()
}

// never checks that something does not happen within a moment. The proxy checks
// waiting requests every 50 ms.
func never(t testing.TB, what string, happened func() bool) {
	t.Helper()
	assert.False(t, happens(moment, happened), "%s must not happen", what)
}

// untilItSays calls do, which fails when its context ends, with longer and
// longer timeouts, until the error has the text. It returns that error.
func untilItSays(t testing.TB, text string, do func(context.Context) error) (err error) {
	t.Helper()
	for wait := moment / 3; wait < proxytest.Patience; wait *= 4 {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		err = do(ctx)
		cancel()
		if err == nil || strings.Contains(err.Error(), text) {
			break
		}
	}
	assert.ErrorContains(t, err, text)
	return err
}

// replaceAndCut replaces the targets of u by one that is ready. As soon as that
// is in use it cuts off requests in flight at the others.
func replaceAndCut(t testing.TB, u *hostproxy.Upstream, target string) error {
	t.Helper()
	ctx, cut := context.WithCancel(t.Context())
	defer cut()
	replaced := make(chan error, 1)
	go func() { replaced <- u.Replace(ctx, target) }()
	proxytest.Eventually(t, "the new target", func() bool { return slices.Collect(u.All())[0].String() == target })
	cut()
	return <-replaced
}
