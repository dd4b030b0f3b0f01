package main

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// visitors send requests until the returned func is called.
func visitors(r *running) (stop func()) {
	var over atomic.Bool
	var work sync.WaitGroup
	work.Go(func() {
		for !over.Load() {
			r.get()
		}
	})
	return func() { over.Store(true); work.Wait() }
}

// served returns how many requests v got, without health checks.
func served(v *version) (n int) {
	for _, q := range v.Seen() {
		if q.Target == "/" {
			n++
		}
	}
	return n
}

func TestTheGuardGoesBackByItself(t *testing.T) {
	t.Parallel() // mostly waiting
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr(), "-health", "/up")
	two.sick.Store(true)
	for range 40 {
		r.get()
	}
	stop := visitors(r)
	defer stop()
	_, err := r.do("app", "app.localhost", two.Addr(), "-guard", "15s")
	require.ErrorContains(t, err, "guard: the new targets are worse: ")
	assert.ErrorContains(t, err, "requests failed (0 of ")
	assert.ErrorContains(t, err, one.Addr()+" is in use again")
	assert.Equal(t, "one", r.says())
	assert.LessOrEqual(t, served(two), 50)
	s := r.state()
	assert.Equal(t, []string{one.Addr()}, s.Targets)
	assert.Empty(t, s.Previous)
	assert.Nil(t, s.Guard)

	_, err = r.do("canary", "app", two.Addr(), "-share", "1", "-guard", "15s")
	require.ErrorContains(t, err, "the canary at "+two.Addr()+" was ended")
	assert.Nil(t, r.state().Canary)

	two.sick.Store(false)
	assert.Contains(t, r.must("app", "app.localhost", two.Addr(), "-guard", "400ms"), " requests, and not worse than before")
	assert.Equal(t, "two", r.says())
	assert.Nil(t, r.state().Guard)
}

func TestTheGuardContinuesAfterARestart(t *testing.T) {
	t.Parallel()
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr(), "-health", "/up")
	for range 40 {
		r.get()
	}
	deploy := r.begin("app", "app.localhost", two.Addr(), "-guard", "1m")
	r.await("guard")
	_, err := r.do("app", "app.localhost", one.Addr())
	assert.ErrorContains(t, err, "is in progress")
	require.NoError(t, r.stop())
	assert.ErrorContains(t, (<-deploy).err, "is watched again afterwards")

	two.sick.Store(true)
	r = startIn(t, r.dir)
	assert.Contains(t, r.must("list"), "the watch of a deploy (guard)")
	proxytest.Eventually(t, "the guard", func() bool { return r.says() == "one" })
	proxytest.Eventually(t, "the end", func() bool { return r.row().InProgress == "" })
	assert.Equal(t, []string{one.Addr()}, r.state().Targets)
	assert.Nil(t, r.state().Guard)
	assert.LessOrEqual(t, served(two), 50)
}

func TestARollbackEndsTheGuard(t *testing.T) {
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr())
	deploy := r.begin("app", "app.localhost", two.Addr(), "-guard", "1m")
	r.await("guard")
	assert.Equal(t, "two", r.says())
	r.must("rollback", "app")
	assert.ErrorContains(t, (<-deploy).err, "guard: the watch was canceled by a rollback")
	assert.Equal(t, "one", r.says())
	assert.Nil(t, r.state().Guard)
}

func TestTheGuardReportsThatItCannotGoBack(t *testing.T) {
	t.Parallel()
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr(), "-health", "/up")
	deploy := r.begin("app", "app.localhost", two.Addr(), "-guard", "1m")
	r.await("guard")
	two.sick.Store(true)
	one.up.Store(false)
	for range 5 {
		r.get()
	}
	err := (<-deploy).err
	assert.ErrorContains(t, err, two.Addr()+" stays in use, because going back failed")
	assert.Equal(t, []string{two.Addr()}, r.state().Targets)
	assert.Equal(t, []string{one.Addr()}, r.state().Previous)
}

func TestTheGuardGoesBackEvenIfThatCannotBeStored(t *testing.T) {
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr(), "-health", "/up")
	for _, words := range [][]string{{"app", "app.localhost", two.Addr(), "-guard", "1m"}, {"canary", "app", two.Addr(), "-share", "1", "-guard", "1m"}} {
		two.sick.Store(false)
		deploy := r.begin(words...)
		r.await("guard")
		two.sick.Store(true)
		inTheWay := filepath.Join(r.dir, "state.json.new")
		require.NoError(t, os.MkdirAll(filepath.Join(inTheWay, "x"), 0o700))
		for range 10 {
			r.get()
		}
		err := (<-deploy).err
		assert.ErrorContains(t, err, "guard: the new targets are worse")
		assert.ErrorContains(t, err, "state: the state cannot be stored")
		assert.Equal(t, "one", r.says())
		require.NoError(t, os.RemoveAll(inTheWay))
		r.must("maintain", "app")
		r.must("resume", "app")
		s := r.state()
		assert.Equal(t, []string{one.Addr()}, s.Targets)
		assert.Nil(t, s.Guard)
		assert.Nil(t, s.Canary)
	}
}

func TestTheEndOfAGuardThatCannotBeStoredIsAnError(t *testing.T) {
	t.Parallel()
	r, one, two := start(t), newVersion(t, "one"), newVersion(t, "two")
	r.must("app", "app.localhost", one.Addr())
	deploy := r.begin("app", "app.localhost", two.Addr(), "-guard", "1s")
	r.await("guard")
	inTheWay := filepath.Join(r.dir, "state.json.new")
	require.NoError(t, os.MkdirAll(filepath.Join(inTheWay, "x"), 0o700))
	assert.ErrorContains(t, (<-deploy).err, two.Addr()+" is in use, and a restart would watch it again")
	require.NoError(t, os.RemoveAll(inTheWay))
	assert.Equal(t, "two", r.says())
}
