package settings_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/settings"
)

// doubler compiles to twice its N, which must not be negative.
type doubler struct {
	N     int
	made  int // number of compilations
	twice settings.Compiled[int]
}

func (d *doubler) compile() (*int, error) {
	if d.N < 0 {
		return nil, errors.New("negative")
	}
	d.made++
	n := 2 * d.N
	return &n, nil
}

func (d *doubler) check() error { return d.twice.Check(d, d.compile) }

func (d *doubler) use(t *testing.T) int {
	t.Helper()
	n, err := d.twice.Use(d, d.compile)
	require.NoError(t, err)
	return *n
}

func TestChangesCountUntilTheFirstUse(t *testing.T) {
	d := &doubler{N: -1}
	assert.ErrorContains(t, d.check(), "negative")
	d.N = 1
	require.NoError(t, d.check())
	d.N = 2
	assert.Nil(t, d.twice.InUse())
	assert.Empty(t, d.twice.Late(d))
	assert.Equal(t, 4, d.use(t), "a change after the check counts")
	assert.Empty(t, d.twice.Late(d))

	d.N = -3
	assert.Equal(t, 4, d.use(t))
	assert.Equal(t, 4, *d.twice.InUse())
	assert.NoError(t, d.check(), "settings not in use are not checked")
	assert.Equal(t, []string{"N"}, d.twice.Late(d))
	d.N = 2
	assert.Empty(t, d.twice.Late(d))
}

func TestCheckedSettingsAreNotCompiledAgain(t *testing.T) {
	d := &doubler{N: 1}
	for range 3 {
		require.NoError(t, d.check())
	}
	d.use(t)
	d.use(t)
	assert.Equal(t, 1, d.made)
}

func TestSettingsCanBeCorrectedAfterAnError(t *testing.T) {
	d := &doubler{N: -1}
	_, err := d.twice.Use(d, d.compile)
	assert.ErrorContains(t, err, "negative")
	d.N = 1
	assert.Equal(t, 2, d.use(t))
}

func TestConcurrentFirstUsesCompileOnce(t *testing.T) {
	d := &doubler{N: 1}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { _, _ = d.twice.Use(d, d.compile) })
	}
	wg.Wait()
	assert.Equal(t, 1, d.made)
	assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = d.twice.Use(d, nil) }))
}

func TestAPeekPutsNothingInForce(t *testing.T) {
	d := &doubler{N: -1}
	peek := func() (*int, error) { return d.twice.Peek(d, d.compile) }
	_, err := peek()
	assert.ErrorContains(t, err, "negative")
	for d.N = range 3 {
		n, err := peek()
		require.NoError(t, err)
		assert.Equal(t, 2*d.N, *n)
		assert.Nil(t, d.twice.InUse())
	}
	n, _ := peek()
	used, _ := d.twice.Use(d, d.compile)
	assert.Same(t, n, used, "Use returns the value that Peek returned")
	d.N = 9
	n, _ = peek()
	assert.Same(t, n, used)
}
