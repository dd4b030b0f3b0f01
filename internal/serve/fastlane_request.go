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

// run forwards the request that head parsed and route routed.
func (x *fastExchange) run() step {
	x.begin()
	next := x.admitted()
	if next == other { // the record is not at its end
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
	x.front.body().release() // not before: the record is made of what it overwrites
	return next
}

// admitted is admit. What does not return is reported too: a panic of the
// program's own connection type, and runtime.Goexit in a hook.
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

// admit forwards the request, unless its client has asked enough, or it is in a
// loop.
func (x *fastExchange) admit() step {
	if x.from.s.Lane.Hooks.Begins() {
		if fail := x.announce(); fail != nil {
			x.hit.Pattern = "" // whatever its route
			return x.answer(fail)
		}
	}
	if rule := x.from.s.Lane.Limit; rule != nil {
		if fail := x.attempts.Limit(rule, x.start); fail != nil {
			x.hit.Pattern = "" // whatever its route
			return x.answer(fail)
		}
	}
	if fail := exchange.LoopBytes(&x.req, x.hop.Name); fail != nil {
		x.attempts.Free()
		return x.answer(fail)
	}
	return x.forward()
}

// begin resets what the last exchange left.
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

// shown is the identifier that the client gets.
func (x *fastExchange) shown() header.RequestID {
	if x.from.s.Lane.Numbering.Shown {
		return x.hop.ID
	}
	return header.RequestID{}
}

// atMost returns the shorter of two limits; a limit of zero is none.
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
			next := x.handOver() // to HTTP/2
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

// mirror sends a copy of the request, if its body is at hand.
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

// Await implements forward.Party: the sweeper sees the client leave.
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

// reach sends the request to targets until one answers, and returns the
// connection with the length of the response's head.
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

// attempt asks the target and reads the head of its response.
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

// outcome says how an attempt ended.
func (x *fastExchange) outcome(f *forward.Forwarder, up *pool.Conn, err error) forward.Outcome {
	o := forward.Outcome{Wrote: true, Idempotent: exchange.Idempotent(view(x.req.Method)), Begun: x.sent}
	if err == nil {
		o.Status = x.res.Status
		o.Whole = x.attempts.Retries(o.Status) && x.upload.body.Rewind()
		return o
	}
	o.Whole = x.upload.body.Rewind()
	x.unwatch()
	f.Refuses(x.attempts.Target, err) // or it would never be asked where others answer
	o.Failure = x.classify(f, err)
	var ae *exchange.AttemptError
	if errors.As(err, &ae) {
		o.Wrote = ae.Wrote
	}
	x.asked = x.asked || o.Wrote
	return o
}

// ask sends the request to t and waits for the first bytes of the answer. A
// kept connection that turns out dead is replaced, which is safe when nothing
// was written, and for idempotent requests that are whole when nothing was
// answered (RFC 9110, 9.2.2).
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
			break // the others are probably as dead: once more, on a fresh one
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

// open dials a new connection to t, and notes how long that took.
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

// render makes x.out the request as it goes to t, with what of the body has
// come.
func (x *fastExchange) render(f *forward.Forwarder, t *forward.Target) error {
	var err error
	x.out, err = x.upload.appendReady(f.AppendRequest(x.out[:0], &x.req, t, &x.hop, &x.received))
	return err
}

// send writes x.out to up and waits for the first bytes of the answer, on the
// connection that it returns: up, unless another target was faster. A failure
// is up's, or a *bothFailedError.
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

// fill waits for more of the response's head. The timeout for it runs from the
// end of the upload.
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
		fail.Status, fail.Reason = exchange.Reason(fail.Op, fail.Err)
	}
	return fail
}

// answer sends the proxy's own reply for fail.
func (x *fastExchange) answer(fail *exchange.Failure) step {
	if fail.Err == forward.ErrOtherLane {
		return x.handOver()
	}
	if fail.Err != nil {
		x.fail = fail
	}
	return x.decline(fail)
}

// handOver passes an exchange that has waited on to the handler lane: its
// targets have changed, and only that lane can ask them now. Nothing of the
// request is lost.
func (x *fastExchange) handOver() step {
	x.known = x.attempts.Handover()
	x.known.Begun, x.known.Set = x.from.s.Lane.Hooks.Begins(), slices.Clone(x.set)
	x.upload.halt()
	x.upload.src.giveBack(x.upload.body.Kept())
	x.upload.release()
	return other
}

// decline sends an answer of the proxy's own and says what becomes of the
// connection: it closes when the request cannot be read to its end.
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
// answer does not wait for it; the connection is kept if it comes soon behind.
func (x *fastExchange) declineEarly(fail *exchange.Failure) step {
	x.lost = !x.front.body().short()
	x.reply(fail)
	if x.lost {
		return linger
	}
	return drain
}

// drainBody reads what is left of a body behind its answer, and says what
// becomes of the connection.
func (x *fastExchange) drainBody() step {
	return x.front.next(x.front.body().settle(exchange.LingerTime))
}

// reply sends a whole answer of the proxy's own. After one that is the last,
// the connection closes.
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

// abort ends an exchange whose response has begun. The client sees that it is
// cut off: there is no last chunk, or less than the Content-Length, and no
// close_notify.
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
