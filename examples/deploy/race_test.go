package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/deploy/guard"
)

// interrupted returns a manager whose app has a canceled operation that has not
// ended yet. wake ends the operation, and returns the error of the command that
// canceled it.
func interrupted(t *testing.T, word string) (m *manager, a *app, wake func() error) {
	t.Helper()
	var r hostproxy.Router
	m, err := newManager(&r, new(guard.Meter), filepath.Join(short(t), "state.json"), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { m.wait(context.Background()); assert.NoError(t, r.Close()) })
	one, two := newVersion(t, "one"), newVersion(t, "two")
	for _, v := range []*version{one, two} {
		op, _, err := m.start(request{Command: "deploy", App: "app", Host: "app.localhost", Targets: []string{v.Addr()}})
		require.NoError(t, err)
		<-op.done
		require.NoError(t, op.err)
	}
	m.mu.Lock()
	a = m.apps["app"]
	op := &operation{app: a, what: "a deploy", phase: "guard", cancels: true, changed: make(chan struct{})}
	op.ctx, op.cancel = context.WithCancelCause(t.Context())
	a.op = op
	m.mu.Unlock()
	result := make(chan error, 1)
	go func() {
		op, _, err := m.start(request{Command: word, App: "app"})
		if err == nil && op != nil {
			<-op.done
			err = op.err
		}
		result <- err
	}()
	<-op.ctx.Done() // the command now waits for the end of op
	return m, a, func() error {
		m.mu.Lock()
		if a.op == op {
			a.op = nil
		}
		m.mu.Unlock()
		close(op.changed)
		return <-result
	}
}

func TestAnAppThatWasRemovedMeanwhileIsNotRolledBackOrStopped(t *testing.T) {
	for _, word := range []string{"rollback", "stop", "remove"} {
		m, a, wake := interrupted(t, word)
		m.mu.Lock()
		a.op = nil
		op, err := m.remove(a)
		m.mu.Unlock()
		require.NoError(t, err)
		<-op.done
		assert.ErrorContains(t, wake(), `"app" was removed meanwhile`, word)
		s, err := load(m.file)
		require.NoError(t, err)
		assert.Empty(t, s.Apps, word)
	}
}

func TestACommandThatHasWaitedChangesNothingAfterAHandOver(t *testing.T) {
	for _, word := range []string{"rollback", "stop", "remove"} {
		m, _, wake := interrupted(t, word)
		before, err := os.ReadFile(m.file)
		require.NoError(t, err)
		m.mu.Lock()
		m.frozen = errHandsOver
		m.mu.Unlock()
		assert.ErrorIs(t, wake(), errHandsOver, word)
		now, err := os.ReadFile(m.file)
		require.NoError(t, err)
		assert.Equal(t, string(before), string(now), "the state file belongs to another process")
	}
}
