package forward

import (
	"errors"
	"net/http"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/limit"
)

// A hold keeps exchanges from the targets, as long as it is set in the
// Forwarder.
type hold struct {
	page *exchange.Page // the answer to them; nil means to wait
	over chan struct{}  // closed when the wait ends
	late time.Time      // when the wait ends without Resume
}

// Pause makes new exchanges wait until Resume, at most until d is over. After
// that, those that wait and later ones fail with 503. Exchanges beyond maxHeld
// fail with 503 immediately.
func (f *Forwarder) Pause(d time.Duration) {
	f.holdBy(&hold{over: make(chan struct{}), late: time.Now().Add(d)})
}

// Answer makes p the answer to new exchanges, until Resume. Exchanges that wait
// get it too.
func (f *Forwarder) Answer(p *exchange.Page) error {
	if err := p.Check(); err != nil {
		return err
	}
	f.holdBy(&hold{page: p, over: make(chan struct{})})
	return nil
}

// Resume ends Pause and Answer.
func (f *Forwarder) Resume() { f.holdBy(nil) }

// maintained reports whether exchanges are answered with a page.
func (f *Forwarder) maintained() bool {
	h := f.held.Load()
	return h != nil && h.page != nil
}

func (f *Forwarder) holdBy(h *hold) {
	if old := f.held.Swap(h); old != nil {
		close(old.over)
	}
	f.queue.Wake()
	f.waker.poke()
}

// Why waiting exchanges did not reach a target.
var (
	errPaused = errors.New("paused for too long: Resume was not called within the duration passed to Pause")
	errGone   = errors.New("client disconnected while the request was paused")
)

// waitWhilePaused waits until there is no hold, or returns the failure of an
// exchange that does not wait.
func (a *Attempts) waitWhilePaused() *exchange.Failure {
	for {
		h := a.f.held.Load()
		switch {
		case h == nil:
			return nil
		case h.page != nil:
			return &exchange.Failure{Op: "pick", Side: exchange.SideProxy, Status: h.page.Status, Reason: "destination_unavailable",
				RetryAfter: h.page.RetryAfter, Page: h.page}
		}
		if err := a.heldBy(h); err != nil {
			return a.unserved(err)
		}
	}
}

// maxHeld limits how many exchanges wait at a Forwarder for the end of a hold,
// or for its first targets. Each of them keeps a connection and its buffers.
const maxHeld = 4096

// heldBy waits until h is over, unless too many exchanges wait already.
func (a *Attempts) heldBy(h *hold) error {
	defer a.f.waiting.Add(-1)
	if a.f.waiting.Add(1) > maxHeld {
		return limit.ErrQueueFull
	}
	return a.await(h.wait)
}

func (h *hold) wait(gone <-chan struct{}) error {
	late := time.NewTimer(time.Until(h.late))
	defer late.Stop()
	select {
	case <-h.over:
		return nil
	case <-late.C:
		return errPaused
	case <-gone:
		return errGone
	}
}

// left reports whether a wait ended with err because the exchange has ended.
func left(err error) bool { return errors.Is(err, errGone) || errors.Is(err, limit.ErrQueueLeft) }

// unserved returns the failure of an exchange whose wait ended with err.
func (a *Attempts) unserved(err error) *exchange.Failure {
	f := &exchange.Failure{Op: "pick", Side: exchange.SideProxy, Status: http.StatusServiceUnavailable, Reason: "connection_limit_reached",
		RetryAfter: time.Second, Err: err}
	switch {
	case err == exchange.ErrDeadline, err == exchange.ErrCanceled:
		f.Status, f.Reason = exchange.Reason(f.Op, err)
		f.RetryAfter = 0
	case !left(err):
		if errors.Is(err, errPaused) {
			f.Reason = "destination_unavailable"
		}
	case a.killed():
		f.Side, f.Reason, f.Err = exchange.SideDrain, "destination_unavailable", exchange.ErrCut
	default:
		f.Side, f.Status, f.Reason = exchange.SideClient, exchange.StatusClientClosed, "connection_terminated"
	}
	return f
}
