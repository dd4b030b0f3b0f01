package settings

import (
	"sync"
	"sync/atomic"
)

// A Compiled is the compiled form of a struct's fields, made once, at first
// use. Its zero value is ready to use, and its methods may be called
// concurrently. Each takes the struct's address and the function that compiles
// it; these two must always be the same.
type Compiled[T any] struct {
	inUse atomic.Pointer[T]

	mu    sync.Mutex
	draft *T       // compiled, but not in use yet
	from  Snapshot // the fields from which draft or inUse was compiled
}

// Check returns the errors of the fields; nil once they are in use.
func (c *Compiled[T]) Check(fields any, compile func() (*T, error)) error {
	if c.inUse.Load() != nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inUse.Load() != nil {
		return nil
	}
	return c.prepare(fields, compile)
}

// Use returns the compiled form; the first call puts the fields in force. An
// error is not kept: the next call tries again.
//
// Hot path: one atomic load.
func (c *Compiled[T]) Use(fields any, compile func() (*T, error)) (*T, error) {
	if t := c.inUse.Load(); t != nil {
		return t, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.inUse.Load(); t != nil {
		return t, nil
	}
	if err := c.prepare(fields, compile); err != nil {
		return nil, err
	}
	c.inUse.Store(c.draft)
	return c.draft, nil
}

// Apply is Use for a caller that needs only the error.
func (c *Compiled[T]) Apply(fields any, compile func() (*T, error)) error {
	_, err := c.Use(fields, compile)
	return err
}

// prepare sets draft to the compiled form of the fields. c.mu is held.
func (c *Compiled[T]) prepare(fields any, compile func() (*T, error)) error {
	if c.draft != nil && len(c.from.Changed(fields)) == 0 {
		return nil
	}
	t, err := compile()
	if err != nil {
		return err
	}
	c.draft, c.from = t, Take(fields)
	return nil
}

// Peek returns the compiled form in use. If there is none, it compiles the
// fields as they are now, without putting them in force.
func (c *Compiled[T]) Peek(fields any, compile func() (*T, error)) (*T, error) {
	if t := c.inUse.Load(); t != nil {
		return t, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.inUse.Load(); t != nil {
		return t, nil
	}
	if err := c.prepare(fields, compile); err != nil {
		return nil, err
	}
	return c.draft, nil
}

// InUse returns the compiled form in use, or nil.
func (c *Compiled[T]) InUse() *T { return c.inUse.Load() }

// Late returns the names of the fields that have changed since the fields were
// put in force: these changes have no effect.
func (c *Compiled[T]) Late(fields any) []string {
	if c.inUse.Load() == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.from.Changed(fields)
}
