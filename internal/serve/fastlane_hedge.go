package serve

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/pool"
	"github.com/hostproxy/hostproxy/internal/proxyproto"
)

// hedges reports whether the request may also go to a second target if the
// first one is slow.
func (x *fastExchange) hedges(f *forward.Forwarder) bool {
	return f.Hedge > 0 && x.req.Framing() == h1.NoBody && exchange.Hedgeable(view(x.req.Method))
}

// hedge sends the request to up, and also to another target if up is slow.
func (x *fastExchange) hedge(f *forward.Forwarder, up *pool.Conn, deadline time.Time) (*pool.Conn, error) {
	late := time.Now().Add(f.Hedge)
	if !deadline.IsZero() && !late.Before(deadline) {
		return up, up.Ask(x.out)
	}
	_ = up.SetReadDeadline(late)
	if err := up.Ask(x.out); !isTimeout(err) || !up.Sent() {
		_ = up.SetReadDeadline(deadline)
		return up, err
	}
	return x.race(f, up, deadline)
}

// A rival is the second attempt of an exchange. It runs on a goroutine of its
// own, which ends before the exchange does. The first attempt that gets a
// response wins.
type rival struct {
	f      *forward.Forwarder
	target *forward.Target
	out    []byte // the request as it goes to target
	first  pool.Lease
	won    atomic.Bool // one of the attempts has won
	ctx    context.Context
	cancel context.CancelFunc

	mu    sync.Mutex // guards lease
	lease pool.Lease

	done chan struct{} // closes when what follows is known
	conn *pool.Conn
	err  error

	dialed time.Duration // time spent connecting
}

// A bothFailedError is the failure of the first of two attempts if both have
// failed. Both connections are closed.
type bothFailedError struct{ first exchange.AttemptError }

// Error implements error.
func (e *bothFailedError) Error() string { return e.first.Error() }

// Unwrap returns the failure of the first attempt.
func (e *bothFailedError) Unwrap() error { return &e.first }

// race waits for a response on up, and asks another target meanwhile. The
// returned connection has a response. If it is not up, up is closed.
func (x *fastExchange) race(f *forward.Forwarder, up *pool.Conn, deadline time.Time) (*pool.Conn, error) {
	_ = up.SetReadDeadline(deadline)
	first := x.attempts.Target
	other, _ := x.attempts.Fork(time.Now()) // this lane has no Pick, so no error
	if other == nil {
		return up, up.Fill()
	}
	if err := x.announceAttempt(); err != nil {
		return nil, x.giveUpBoth(f, up, err)
	}
	r := &rival{f: f, target: other, first: up.Lease(), done: make(chan struct{})}
	r.out = f.AppendRequest(nil, &x.req, other, &x.hop, &x.received)
	r.ctx, r.cancel = context.WithCancel(x.dialing(context.Background(), other))
	defer r.cancel()
	go r.run()
	err := up.Fill()
	if err == nil && r.wins() {
		r.giveUp()
		<-r.done
		x.attempts.ForkDialed(r.dialed)
		x.attempts.Join(first, nil)
		return up, nil
	}
	beaten := r.won.Load()
	up.Close()
	x.await(r)
	x.attempts.ForkDialed(r.dialed)
	if r.err != nil {
		x.attempts.Join(first, x.loss(f, r.err))
		return nil, &bothFailedError{exchange.AttemptError{Op: "read", Wrote: true, Err: err}}
	}
	x.watch(r.conn.Lease(), x.hit.Life, other, x.attempts.Around())
	if beaten {
		x.attempts.Join(other, nil)
	} else {
		x.attempts.Join(other, x.loss(f, err))
	}
	return r.conn, nil
}

// giveUpBoth ends the attempt on up and the second one, whose hook has failed
// with err.
func (x *fastExchange) giveUpBoth(f *forward.Forwarder, up *pool.Conn, err error) error {
	up.Close()
	x.unwatch()
	x.attempts.Join(x.attempts.Target, x.classify(f, err))
	return &bothFailedError{exchange.AttemptError{Op: "read", Wrote: true, Err: err}}
}

// await waits for the rival, or gives it up if the client has left.
func (x *fastExchange) await(r *rival) {
	x.unwatch()
	if x.left() || x.ended() || x.attempts.Target.Killed() {
		r.giveUp()
	}
	_ = x.Await(func(gone <-chan struct{}) error {
		select {
		case <-gone:
			r.giveUp()
		case <-r.done:
		}
		return nil
	})
	<-r.done
}

// loss returns why the losing attempt failed, or nil if it was given up.
func (x *fastExchange) loss(f *forward.Forwarder, err error) *exchange.Failure {
	if errors.Is(err, forward.ErrGivenUp) {
		return nil
	}
	return x.classify(f, err)
}

// wins reports whether the caller is the first with a response.
func (r *rival) wins() bool { return r.won.CompareAndSwap(false, true) }

// run asks the target, and again if a kept connection was dead.
func (r *rival) run() {
	defer close(r.done)
	for {
		conn, err := r.open()
		if err != nil {
			r.err = err
			return
		}
		err = r.ask(conn)
		if err == nil && r.wins() {
			r.conn = conn
			r.first.Abort()
			return
		}
		reused, wrote := conn.Reused(), conn.Wrote()
		conn.Close()
		switch {
		case err == nil || r.ctx.Err() != nil:
			r.err = forward.ErrGivenUp
			return
		case !reused || isTimeout(err):
			r.err = &exchange.AttemptError{Op: "read", Wrote: wrote, Err: err}
			return
		}
	}
}

// ask sends the request on conn and waits for a response. A panic in a foreign
// connection type becomes its error.
func (r *rival) ask(conn *pool.Conn) (err error) {
	defer exchange.Contain("a connection", &err)
	return conn.Ask(r.out)
}

// open takes a connection or dials one.
func (r *rival) open() (*pool.Conn, error) {
	conn := r.target.Pool.TakeFor(proxyproto.FromContext(r.ctx))
	if conn == nil {
		var err error
		start := time.Now()
		conn, err = dial(r.ctx, r.f, r.target)
		r.dialed = time.Since(start)
		if err != nil {
			if r.ctx.Err() != nil {
				err = forward.ErrGivenUp
			}
			return nil, err
		}
	}
	var deadline time.Time
	if r.f.ResponseHeaderTimeout > 0 {
		deadline = time.Now().Add(r.f.ResponseHeaderTimeout)
	}
	_ = conn.SetReadDeadline(deadline)
	_ = conn.SetWriteDeadline(deadline)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lease = conn.Lease()
	if r.ctx.Err() != nil {
		r.lease.Abort()
	}
	return conn, nil
}

// giveUp ends the attempt at any stage.
func (r *rival) giveUp() {
	r.cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lease.Abort()
}
