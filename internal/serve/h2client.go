package serve

import (
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/peek"
)

// client implements front.
func (st *stream) client(w *response) exchange.Client { return (*client2)(w) }

// A client2 is the client of a stream as a handler knows it. It stays valid
// after the stream has been returned to the pool.
type client2 response

// Left implements exchange.Client.
func (c *client2) Left() bool { return c.left.Load() }

// HungUp implements exchange.Client.
func (c *client2) HungUp() bool { return c.left.Load() }

// Mark implements exchange.Client.
func (c *client2) Mark() (m peek.Mark) {
	c.gate.Lock()
	defer c.gate.Unlock()
	if a := c.a.Load(); a != nil {
		st := a.f.(*stream)
		st.c.mu.Lock()
		defer st.c.mu.Unlock()
		m.Written = st.progress().UnixNano()
	}
	return m
}

// Excused implements exchange.Client.
func (c *client2) Excused() time.Duration {
	c.gate.Lock()
	defer c.gate.Unlock()
	if a := c.a.Load(); a != nil {
		return a.f.(*stream).src.Excused()
	}
	return 0
}

// Why implements exchange.Client.
func (c *client2) Why() error {
	c.gate.Lock()
	defer c.gate.Unlock()
	if a := c.a.Load(); a != nil {
		return a.f.why()
	}
	return nil
}

// why implements front.
func (st *stream) why() error {
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	if st.c.fault == nil {
		return st.c.c.Why()
	}
	return st.c.fault
}
