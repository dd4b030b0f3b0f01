package serve

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// run forwards a request that was parsed and has a route.
func (x *fastExchange) run() step {
	x.begin()
	next := x.admitted()
	if next == other { // the record is not complete
		return next
	}
	if x.asked && x.fail == nil && x.attempts.Forwarder().Mirrors() {
		x.mirror()
	}
	x.finish()
	if x.hit.Life.Err() != nil {
		x.from.s.Lane.Retired(x.hit.Route)
	}
	x.upload.release()
	if next == drain {
		next = x.drainBody()
	}
	x.front.body().release() // only now: the record uses bytes that this overwrites
	return next
}

// admitted calls admit. It also reports an exchange that does not return,
// because of a panic in the program's own connection type or of runtime.Goexit
// in a hook.
func (x *fastExchange) admitted() (next step) {
	returned := false
	defer func() {
		if !returned {
			x.rec.Status = cmp.Or(x.rec.Status, http.StatusInternalServerError)
			x.fail = &exchange.Failure{Op: "read", Target: x.rec.Target, Side: exchange.SideProxy, Err: errNoReturn}
			x.finish()
		}
	}()
	next = x.admit()
	returned = true
	return next
}

var errNoReturn = errors.New("a hook or a connection of the program panicked, or ended its goroutine")

// admit forwards the request, unless the client is over its limit or the
// request is in a loop.
func (x *fastExchange) admit() step {
	if x.from.s.Lane.Hooks.Begins() {
		if fail := x.announce(); fail != nil {
			x.hit.Pattern = "" // regardless of its route
			return x.answer(fail)
		}
	}
	if rule := x.from.s.Lane.Limit; rule != nil {
		if fail := x.attempts.Limit(rule, x.start); fail != nil {
			x.hit.Pattern = "" // regardless of its route
			return x.answer(fail)
		}
	}
	if fail := exchange.LoopBytes(&x.req, x.hop.Name); fail != nil {
		x.attempts.Free()
		return x.answer(fail)
	}
	return x.forward()
}

// begin resets the state of the last exchange.
func (x *fastExchange) begin() {
	x.start = time.Now()
	x.fail, x.asked, x.sent, x.lost = nil, false, false, false
	x.dial = 0
	x.rec = exchange.Record{Start: x.start}
	x.front.patience(atMost(writeStall, x.hit.Upstream.IdleTimeout))
	x.renew()
	x.upload.reset(x)
	x.hop.Peer, x.hop.Scheme, x.hop.Version, x.hop.Name = x.from.peer, x.from.scheme(), x.proto()[len("HTTP/"):], x.from.s.Lane.Name
	x.hop.Trusted = x.from.trusted
	x.hop.Client = x.client()
	if x.scheme = x.hop.Scheme; x.from.trusted {
		x.scheme = x.received.Scheme(x.scheme) // client has noted it
	}
	x.attempts.Client, x.attempts.Size = x.hop.Client, x.req.ContentLength
	x.attempts.Asked = forward.Request{Raw: &x.req, Host: view(x.host), ID: x.from.s.Lane.Numbering.Name}
	if x.set, x.hop.Set = nil, nil; x.from.s.Lane.Hooks.Timed() {
		x.attempts.Timed()
	}
	x.identify()
}

// identify gives the request its identifier.
func (x *fastExchange) identify() {
	name := x.from.s.Lane.Numbering.Name
	if name == "" {
		return
	}
	var fields []h1.Field
	if x.from.trusted {
		fields = x.req.Fields
	}
	x.rec.RequestID = x.ids.Of(fields, name)
	x.hop.ID = header.RequestID{Name: name, Value: x.rec.RequestID}
}

// shown returns the identifier for the client, if it gets one.
func (x *fastExchange) shown() header.RequestID {
	if x.from.s.Lane.Numbering.Shown {
		return x.hop.ID
	}
	return header.RequestID{}
}

// atMost returns the shorter of two limits. A b of zero means no limit.
func atMost(a, b time.Duration) time.Duration {
	if b > 0 && b < a {
		return b
	}
	return a
}

func (x *fastExchange) forward() step {
	defer x.attempts.End()
	if fail := x.attempts.Begin(&x.rec, x); fail != nil {
		return x.failBy(x.attempts.Forwarder(), fail)
	}
	f := x.attempts.Forwarder()
	x.edit = f.EditIn(x.from.s.Lane.Heads.For(x.scheme))
	up, n, fail := x.reach(f)
	if fail != nil {
		if !x.asked && x.upload.body.Replays() && f.Refuses(x.attempts.Target, fail.Err) {
			next := x.handOver() // the handler lane speaks HTTP/2
			if next == other {
				x.known.Untried()
			}
			return next
		}
		return x.failBy(f, fail)
	}
	if page := x.pageOf(f, x.res.Status); page != nil {
		return x.respondBy(f, up, n, page)
	}
	next := x.respond(f, up, n)
	x.unwatch()
	return next
}

// mirror sends a copy of the request, if its whole body is still stored.
func (x *fastExchange) mirror() {
	if !x.upload.body.Whole() || !x.upload.body.Replays() {
		return
	}
	e := exchange.Exchange{Via: x.from.peer, Name: x.hop.Name, Trusted: x.from.trusted, Numbering: x.from.s.Lane.Numbering}
	e.RequestID, e.Set = x.rec.RequestID, x.hop.Set
	e.Client, e.Peer, e.Scheme = x.hop.Client, x.from.peer.Addr, x.from.scheme()
	h := x.introduction()
	e.Origin = &h
	x.attempts.Forwarder().CopyBytes(&x.req, x.upload.body.Kept(), &e)
}

// Await implements forward.Party. The sweeper notices if the client leaves.
func (x *fastExchange) Await(wait func(gone <-chan struct{}) error) error {
	gone := make(chan struct{})
	x.wait(gone, x.hit.Life, x.attempts.Forwarder(), x.attempts.Around())
	defer x.unwatch()
	return wait(gone)
}

// Place implements forward.Party.
func (x *fastExchange) Place(f *forward.Forwarder) *exchange.Failure {
	x.front.patience(atMost(writeStall, f.IdleTimeout))
	x.hop.RFC7239, x.hop.Prefix = f.Forwarded, f.Prefix.Strip
	if fail := f.Prefix.Admit(view(x.req.Path)); fail != nil {
		return fail
	}
	x.upload.body.Bound(x.attempts.MaxBody())
	if f.Keyed() {
		x.attempts.Key = f.KeyBytes(&x.attempts.Asked, x.hop.Client)
	}
	if f.Sticks() {
		x.attempts.PreferBytes()
	}
	return nil
}

// reach sends the request to targets until one responds. It returns the
// connection and the length of the response's head.
func (x *fastExchange) reach(f *forward.Forwarder) (*pool.Conn, int, *exchange.Failure) {
	for {
		up, n, err := x.attempt(f)
		next, fail := x.attempts.Next(x.outcome(f, up, err))
		if next == forward.NextAnswer {
			return up, n, nil
		}
		if up != nil {
			up.Close()
		}
		if next == forward.NextFailure {
			return nil, 0, fail
		}
		x.unwatch()
		x.upload.halt()
		if next == forward.NextLane {
			return nil, 0, fail
		}
	}
}

// attempt sends the request to the target and reads the head of its response.
func (x *fastExchange) attempt(f *forward.Forwarder) (*pool.Conn, int, error) {
	if err := x.announceAttempt(); err != nil {
		return nil, 0, err
	}
	up, err := x.ask(f, x.attempts.Target)
	if err != nil {
		return nil, 0, err
	}
	x.asked = true
	n, err := x.readHead(f, up)
	if err != nil {
		up.Close()
		return nil, 0, &exchange.AttemptError{Op: "read", Wrote: true, Err: err}
	}
	return up, n, nil
}

// outcome describes how an attempt ended.
func (x *fastExchange) outcome(f *forward.Forwarder, up *pool.Conn, err error) forward.Outcome {
	o := forward.Outcome{Wrote: true, Idempotent: exchange.Idempotent(view(x.req.Method)), Begun: x.sent}
	if err == nil {
		o.Status = x.res.Status
		o.Whole = x.attempts.Retries(o.Status) && x.upload.body.Rewind()
		return o
	}
	o.Whole = x.upload.body.Rewind()
	x.unwatch()
	f.Refuses(x.attempts.Target, err) // otherwise it would never be asked while others respond
	o.Failure = x.classify(f, err)
	var ae *exchange.AttemptError
	if errors.As(err, &ae) {
		o.Wrote = ae.Wrote
	}
	x.asked = x.asked || o.Wrote
	return o
}

// ask sends the request to t and waits for the first bytes of the response. It
// replaces a kept connection that turns out dead. That is safe if nothing was
// written, and for idempotent requests that are stored whole if no response
// began (RFC 9110, 9.2.2).
func (x *fastExchange) ask(f *forward.Forwarder, t *forward.Target) (*pool.Conn, error) {
	if err := x.render(f, t); err != nil {
		return nil, err
	}
	for {
		up := x.take(t)
		if up == nil {
			break
		}
		answered, err := x.send(f, t, up)
		if err == nil {
			return answered, nil
		}
		if both := (*bothFailedError)(nil); errors.As(err, &both) {
			return nil, err
		}
		retry := !up.Wrote() || exchange.Idempotent(view(x.req.Method)) && !errors.Is(err, pool.ErrAborted) && !isTimeout(err) && x.upload.body.Rewind()
		wrote := up.Wrote()
		up.Close()
		if !retry {
			return nil, &exchange.AttemptError{Op: "read", Wrote: true, Err: err}
		}
		if wrote {
			x.upload.halt()
			if err := x.render(f, t); err != nil {
				return nil, err
			}
			break // the other kept ones are probably dead, too: try a fresh one
		}
	}
	up, err := x.open(f, t)
	if err != nil {
		return nil, err
	}
	answered, err := x.send(f, t, up)
	if err == nil {
		return answered, nil
	}
	if both := (*bothFailedError)(nil); errors.As(err, &both) {
		return nil, err
	}
	err = &exchange.AttemptError{Op: "read", Wrote: up.Wrote(), Err: err}
	up.Close()
	return nil, err
}

// open dials a new connection to t, and notes how long that takes.
func (x *fastExchange) open(f *forward.Forwarder, t *forward.Target) (*pool.Conn, error) {
	start := time.Now()
	up, err := dial(x.dialing(context.Background(), t), f, t)
	x.dial = time.Since(start)
	x.rec.Dial += x.dial
	return up, err
}

// dial opens a connection to t.
func dial(ctx context.Context, f *forward.Forwarder, t *forward.Target) (*pool.Conn, error) {
	if f.DialTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.DialTimeout)
		defer cancel()
	}
	up, err := t.Pool.Open(ctx)
	if err == nil {
		return up, nil
	}
	var handshake *pool.HandshakeError
	if errors.As(err, &handshake) {
		return nil, &exchange.AttemptError{Op: "handshake", Err: handshake.Err}
	}
	return nil, &exchange.AttemptError{Op: "dial", Err: err}
}

// render fills x.out with the request for t and the part of the body that has
// arrived.
func (x *fastExchange) render(f *forward.Forwarder, t *forward.Target) error {
	var err error
	x.out, err = x.upload.appendReady(f.AppendRequest(x.out[:0], &x.req, t, &x.hop, &x.received))
	return err
}

// send writes x.out to up and waits for the first bytes of the response. It
// returns the connection that has them: up, unless another target was faster.
// An error is that of up, or a *bothFailedError.
func (x *fastExchange) send(f *forward.Forwarder, t *forward.Target, up *pool.Conn) (*pool.Conn, error) {
	x.watch(up.Lease(), x.hit.Life, t, x.attempts.Around())
	deadline := x.attempts.Since.Add(x.dial + f.ResponseHeaderTimeout)
	if f.ResponseHeaderTimeout <= 0 {
		deadline = time.Time{}
	}
	_ = up.SetReadDeadline(deadline)
	_ = up.SetWriteDeadline(deadline)
	switch {
	case x.upload.pending():
		if err := up.Send(x.out); err != nil {
			return up, err
		}
		x.upload.start(up, f.IdleTimeout)
		return up, x.fill(f, up)
	case x.hedges(f):
		return x.hedge(f, up, deadline)
	}
	return up, up.Ask(x.out)
}

// fill waits for more of the response's head. Its timeout starts at the end of
// the upload.
func (x *fastExchange) fill(f *forward.Forwarder, up *pool.Conn) error {
	for {
		err := up.Fill()
		if !isTimeout(err) || !x.upload.running {
			return err
		}
		now := time.Now()
		deadline := x.upload.end().Add(f.ResponseHeaderTimeout)
		if !deadline.After(now) {
			return err
		}
		_ = up.SetReadDeadline(deadline)
	}
}

// classify turns an attempt's error into the exchange's failure.
func (x *fastExchange) classify(f *forward.Forwarder, err error) *exchange.Failure {
	fail := &exchange.Failure{Op: "read", Target: x.attempts.Target.Name, Side: exchange.SideUpstream, Err: err}
	var ae *exchange.AttemptError
	if errors.As(err, &ae) {
		fail.Op, fail.Err = ae.Op, ae.Err
	}
	var hook *exchange.PanicError
	var field *exchange.FieldError
	uploadErr := x.upload.body.Failed()
	switch {
	case errors.As(uploadErr, &hook):
		fail.Side, fail.Err = exchange.SideProxy, uploadErr
		fail.Status, fail.Reason = http.StatusInternalServerError, "proxy_internal_error"
	case uploadErr != nil:
		fail.Side, fail.Err = exchange.SideClient, uploadErr
		fail.Status, fail.Reason = exchange.BodyStatus(uploadErr), "http_request_error"
	case x.left():
		fail.Side, fail.Status, fail.Reason = exchange.SideClient, exchange.StatusClientClosed, "connection_terminated"
	case x.attempts.Target.Killed() || x.ended():
		fail.Side, fail.Status, fail.Reason, fail.Err = exchange.SideDrain, http.StatusServiceUnavailable, "destination_unavailable", exchange.ErrCut
	case errors.As(fail.Err, &hook), errors.As(fail.Err, &field):
		fail.Side, fail.Status, fail.Reason = exchange.SideProxy, http.StatusInternalServerError, "proxy_internal_error"
	default:
		if stall := x.upload.stalled.Load(); stall != nil {
			fail.Op, fail.Err = "write", *stall
		}
		fail.Status, fail.Reason = exchange.Reason(fail.Op, fail.Err)
	}
	return fail
}

// answer sends the proxy's own response for fail.
func (x *fastExchange) answer(fail *exchange.Failure) step {
	if fail.Err == forward.ErrOtherLane {
		return x.handOver()
	}
	if fail.Err != nil {
		x.fail = fail
	}
	return x.decline(fail)
}

// handOver passes an exchange that has waited to the handler lane: its targets
// have changed, and only that lane can use them now. No part of the request is
// lost.
func (x *fastExchange) handOver() step {
	x.known = x.attempts.Handover()
	x.known.Begun, x.known.Set = x.from.s.Lane.Hooks.Begins(), slices.Clone(x.set)
	x.upload.halt()
	x.upload.src.giveBack(x.upload.body.Kept())
	x.upload.release()
	return other
}

// decline sends a response of the proxy's own and returns the next step. The
// connection closes if the request cannot be read to its end.
func (x *fastExchange) decline(fail *exchange.Failure) step {
	status := fail.Status
	x.rec.Status = status
	if x.upload.waits() && !x.lost && status != exchange.StatusClientClosed {
		return x.declineEarly(fail)
	}
	x.lost = !x.upload.settle() || x.lost
	if status != exchange.StatusClientClosed {
		x.reply(fail)
	}
	if status == exchange.StatusClientClosed {
		return end
	}
	return x.front.next(!x.lost)
}

// declineEarly is decline for a request whose body has not been asked for. The
// response does not wait for the body. The connection is kept if the body comes
// soon after.
func (x *fastExchange) declineEarly(fail *exchange.Failure) step {
	x.lost = !x.front.body().short()
	x.reply(fail)
	if x.lost {
		return linger
	}
	return drain
}

// drainBody reads the rest of a body after the response, and returns the next
// step.
func (x *fastExchange) drainBody() step {
	return x.front.next(x.front.body().settle(exchange.LingerTime))
}

// reply sends a complete response of the proxy's own. If x.lost is set, the
// connection then closes.
func (x *fastExchange) reply(fail *exchange.Failure) {
	var body []byte
	x.fields, body = forward.AppendReplyFields(x.fields[:0], fail, x.shown())
	x.fields = x.from.s.Lane.Heads.For(x.scheme).EditReply(x.fields)
	x.final = head{status: fail.Status, fields: x.fields, undated: dated(x.fields), length: int64(len(body)), last: x.lost}
	_ = x.front.head(&x.final)
	if view(x.req.Method) != http.MethodHead {
		_, _ = x.front.data(body)
		x.rec.ResponseBytes = int64(len(body))
	}
	_ = x.front.end(nil)
}

// abort ends an exchange whose response has begun. The client can see that it
// was cut off: the last chunk or a part of the Content-Length is missing, and
// so is the close_notify.
func (x *fastExchange) abort(up *pool.Conn, side exchange.Side, err error) step {
	up.Close()
	x.upload.settle()
	if fault := x.upload.body.Failed(); fault != nil {
		side, err = exchange.SideClient, fault
		var hook *exchange.PanicError
		if errors.As(fault, &hook) {
			side = exchange.SideProxy
		}
	}
	x.fail = &exchange.Failure{Op: "copy", Target: x.attempts.Target.Name, Side: side, Status: x.rec.Status,
		Reason: "http_response_incomplete", Err: err}
	switch {
	case side == exchange.SideProxy:
	case side == exchange.SideClient || x.left():
		x.fail.Side, x.rec.Status = exchange.SideClient, exchange.StatusClientClosed
	case x.attempts.Killed() || x.ended():
		x.fail.Side, x.fail.Err = exchange.SideDrain, exchange.ErrCut
	}
	x.front.cut()
	return end
}
