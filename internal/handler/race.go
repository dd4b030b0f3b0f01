package handler

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
)

// hedges reports whether the exchange may get a second attempt while the first
// one runs.
func (a *roundTrip) hedges() bool {
	return a.f.Hedge > 0 && a.body == nil && exchange.Hedgeable(a.q.Method) && a.f.UpgradeProtocol(a.q) == ""
}

// A race is a race between two attempts of an exchange in the handler lane.
type race struct {
	a      *roundTrip
	ctx    context.Context
	winner atomic.Pointer[rival] // the first that got a response from its target
}

// A rival is one of the two attempts.
type rival struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when the fields below are set
	res    *http.Response
	err    error
	dialed time.Duration // time spent connecting
	order  exchange.Order
}

// A dialing context notes how long its attempt took to connect.
type dialing struct {
	context.Context
	by *rival
}

// Dialed implements client.Dialing.
func (d dialing) Dialed(took time.Duration) { d.by.dialed += took }

// race performs an attempt, and a second one if the first is slow.
func (a *roundTrip) race() (*http.Response, error) {
	if a.done != nil {
		a.done()
	}
	r := &race{a: a}
	r.ctx, a.done = a.flight.cancelable()
	one := a.attempts.Target
	first := r.start(one)
	late := time.NewTimer(a.f.Hedge)
	defer late.Stop()
	select {
	case <-first.done:
		a.attempts.Dialed(first.dialed)
		return first.answer(a)
	case <-late.C:
	}
	var other *forward.Target
	if r.winner.Load() == nil {
		var err error
		if other, err = a.attempts.Fork(time.Now()); err != nil {
			first.drop()
			return nil, err
		}
	}
	if other != nil {
		if err := a.announce(); err != nil {
			first.drop()
			a.attempts.Join(one, a.classify(err))
			return nil, err
		}
	}
	if other == nil {
		<-first.done
		a.attempts.Dialed(first.dialed)
		return first.answer(a)
	}
	second := r.start(other)
	select {
	case <-first.done:
		r.awaitOther(first, second)
	case <-second.done:
		r.awaitOther(second, first)
	}
	a.attempts.Dialed(first.dialed)
	a.attempts.ForkDialed(second.dialed)
	if second.err == nil {
		return a.settle(second, other, a.lost(first.err))
	}
	return a.settle(first, one, a.lost(second.err))
}

// settle ends the race with the result of v, at won.
func (a *roundTrip) settle(v *rival, won *forward.Target, lost *exchange.Failure) (*http.Response, error) {
	a.attempts.Join(won, lost)
	a.tell()
	return v.answer(a)
}

// answer makes the result of v that of a.
func (v *rival) answer(a *roundTrip) (*http.Response, error) {
	a.flight.order = v.order
	return v.res, v.err
}

// drop gives up an attempt and its response.
func (v *rival) drop() {
	v.cancel()
	<-v.done
	if v.res != nil {
		v.res.Body.Close()
	}
}

// awaitOther waits for the other attempt, and cancels it if done has won.
func (r *race) awaitOther(done, other *rival) {
	if r.winner.Load() == done {
		other.cancel()
	}
	<-other.done
}

// lost returns why the losing attempt failed, or nil if it was given up.
func (a *roundTrip) lost(err error) *exchange.Failure {
	if errors.Is(err, forward.ErrGivenUp) || errors.Is(err, context.Canceled) {
		return nil
	}
	return a.classify(err)
}

// start begins an attempt at t.
func (r *race) start(t *forward.Target) *rival {
	v := &rival{done: make(chan struct{})}
	var ctx context.Context
	ctx, v.cancel = context.WithCancel(r.ctx)
	out, err := r.a.outgoing(dialing{exchange.WithOrder(ctx, &v.order), v}, t)
	if err != nil {
		v.err = err
		close(v.done)
		return v
	}
	go r.run(v, t, out)
	return v
}

// run performs v's attempt. The first response head decides the race. A
// ResponseWriter from a handler around this one may panic, which would end the
// program on this goroutine; the panic becomes v's error.
func (r *race) run(v *rival, t *forward.Target, out *http.Request) {
	defer close(v.done)
	defer exchange.Contain("ResponseWriter", &v.err)
	v.res, v.err = r.a.f.Do(t, out, func(status int, h http.Header) error {
		if !r.wins(v) {
			return forward.ErrGivenUp
		}
		return r.a.inform(&v.order, status, h)
	})
	if v.err == nil && !r.wins(v) {
		v.res.Body.Close()
		v.res, v.err = nil, forward.ErrGivenUp
	}
}

// wins reports whether v is the first that got a response from its target.
func (r *race) wins(v *rival) bool {
	return r.winner.CompareAndSwap(nil, v) || r.winner.Load() == v
}
