package handler

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"os"
	"sync"
	"time"

	"github.com/hostproxy/hostproxy/internal/client"
	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// A roundTrip is one exchange on its way through the handler lane: attempts at
// one target after the other until one responds.
type roundTrip struct {
	methods
	f *forward.Forwarder // the Forwarder that serves it; see Place
	w http.ResponseWriter
	q *http.Request
	x *exchange.Exchange

	flight   flight
	attempts forward.Attempts
	fast     bool               // the short way may be possible
	res      http.Response      // used on the short way
	room     client.Room        // used on the short way
	edit     *forward.Edit      // of the response
	fields   []h1.Field         // fields of a relayed response
	paths    []byte             // values of its fields that contain paths
	events   bool               // the response is an event stream
	tries    int                // number of attempts
	body     *requestBody       // the client's body; nil if there is none
	done     context.CancelFunc // cancels a client that does not know leases; may be nil
	wrote    bool               // the response to the client has begun
	buffered bool               // a part of body was read before there was a target
	memory   *forward.Memory    // memory for the buffered body; nil if nothing is buffered
	taken    int64              // number of bytes taken from memory
	mirrors  bool               // a copy should be sent
	interim  int                // interim responses relayed
	named    []string           // values of the response's Connection, for its trailers
	// the Sec-WebSocket-Key that we sent to the target; "" if none
	key string
	set []header.Replacement // set by the hook of the latest attempt
}

// methods are method values of a roundTrip and of its flight. They are kept, so
// that an exchange does not allocate them.
type methods struct {
	relay  func(status int, h http.Header) error // for interim responses
	unbind func() bool
	buffer func(*forward.Forwarder) *exchange.Failure // bufferBody
}

// roundTrips holds roundTrips that have ended alone.
var roundTrips = sync.Pool{New: func() any {
	a := new(roundTrip)
	a.methods = methods{a.informational, a.flight.release, a.bufferBody}
	a.flight.methods = &a.methods
	return a
}}

// alone reports whether nothing else can hold a or a part of it after its end.
// That is so if one attempt on the short way, over a kept connection, got a
// response. Otherwise a hook, another client, a dial or an upload may still
// have a context or a request that leads to a.
func (a *roundTrip) alone() bool {
	return a.tries == 1 && a.res.StatusCode != 0 && !a.flight.lent && !a.mirrors
}

// release puts a back into the pool, without anything of the exchange.
func (a *roundTrip) release() {
	m, fields, paths := a.methods, a.fields, a.paths
	clear(fields)
	a.attempts.Reset() // keeps its memory
	*a = roundTrip{methods: m, fields: fields[:0], paths: paths[:0], attempts: a.attempts}
	a.flight.methods = &a.methods
	roundTrips.Put(a)
}

// run executes the exchange. It returns a failure once; if wrote is set, the
// client must then be cut off.
func (a *roundTrip) run() *exchange.Failure {
	if fail := exchange.Check(a.q); fail != nil {
		return fail
	}
	// field by field: a literal would be on the stack, which is copied when it
	// grows
	fl := &a.flight
	fl.Context, fl.f, fl.x, fl.rc = a.q.Context(), a.f, a.x, *http.NewResponseController(a.w)
	fl.span, fl.idle = &a.f.Span, a.f.IdleTimeout
	fl.f.Sweeper.Add(&fl.swept, fl)
	defer a.end() // one defer: several would take as much stack as a literal
	if fail := a.begin(); fail != nil {
		return fail
	}
	a.mirrors = !a.x.Mirrored && a.f.Mirrors()
	if a.body == nil && a.hasBody() {
		a.openBody()
	} else if a.body != nil {
		a.rebindBody()
	}
	res, fail := a.reach()
	if fail != nil {
		return fail
	}
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		return a.upgrade(res)
	case a.q.Method == http.MethodConnect && res.StatusCode/100 == 2:
		// a 2xx would promise a tunnel (RFC 8441, 5)
		res.Body.Close()
		return &exchange.Failure{Op: "upgrade", Target: a.attempts.Target.Name, Side: exchange.SideUpstream, Status: http.StatusBadGateway,
			Reason: "http_upgrade_failed", Err: fmt.Errorf("upgrade requested, but the target answered with status %d", res.StatusCode)}
	}
	return a.respond(res)
}

// begin starts the first attempt.
func (a *roundTrip) begin() *exchange.Failure {
	t := &a.attempts
	t.Client, t.Size, t.Asked = a.x.Client, a.q.ContentLength, forward.Request{HTTP: a.q, ID: a.x.Numbering.Name}
	if a.x.Hooks.Timed() {
		t.Timed()
	}
	if left, ok := exchange.MaxForwards(a.q); ok {
		t.Here = left == 0
	}
	t.TakeOver(a.x)
	t.Prepare = a.buffer
	return t.Begin(&a.x.Record, a)
}

// Place implements Party.
func (a *roundTrip) Place(f *forward.Forwarder) *exchange.Failure {
	a.fast = f.Fast()
	if a.f != f { // an attempt that still runs may look at a.f, so it is set only on a change
		a.f, a.edit = f, f.EditIn(outer(a.x))
		a.flight.serve(f)
		if f.Shows() {
			a.introduce()
		}
	}
	if a.q.Method == http.MethodConnect && a.f.UpgradeProtocol(a.q) == "" {
		return exchange.Refusal(http.StatusNotImplemented, "http_request_denied", "CONNECT is not forwarded")
	}
	if f.Translates() {
		if fail := f.Prefix.Admit(exchange.WirePath(a.q)); fail != nil {
			return fail
		}
	}
	if f.Pick != nil {
		a.attempts.Pick = a.pick
	}
	if f.Keyed() {
		a.attempts.Key = f.KeyOf(a.q, a.x.Client)
	}
	if f.Sticks() {
		a.attempts.PreferOf(a.q)
	}
	return nil
}

// introduce puts the exchange into the request's context for hooks. The context
// of a Question's request already has the exchange of the client's request.
func (a *roundTrip) introduce() {
	if a.x.Asker == nil && !a.x.Carries(a.q.Context()) {
		a.q = a.q.WithContext(exchange.NewContext(a.q.Context(), a.x))
	}
}

// Await implements Party.
func (a *roundTrip) Await(wait func(gone <-chan struct{}) error) error {
	a.flight.aim(&a.attempts.Forwarder().Span, a.attempts.Around())
	ctx, cancel := a.flight.cancelable()
	defer cancel()
	a.flight.waits.Store(a.hasBody() && (a.body == nil || !a.body.Whole()))
	defer a.flight.waits.Store(false)
	a.x.Waits = time.Now()
	a.tell()
	a.x.Waits = time.Time{}
	return wait(ctx.Done())
}

// hasBody reports whether the client's request has a body.
func (a *roundTrip) hasBody() bool {
	return a.q.Body != nil && a.q.Body != http.NoBody && a.q.ContentLength != 0
}

// end undoes what run and reach have started.
func (a *roundTrip) end() {
	if a.done != nil {
		a.done()
	}
	body, copies := a.copied()
	if a.body != nil {
		a.leaveBody()
	}
	a.flight.f.Sweeper.Remove(&a.flight.swept)
	if copies {
		q := a.q
		if len(a.set) > 0 {
			q = exchange.Replace(q, a.set)
		}
		a.f.Copy(q, body, a.x)
	}
}

func (a *roundTrip) openBody() {
	a.body = newRequestBody(a.q, &a.flight, &a.f.RequestHeader)
	if a.mirrors {
		a.body.Keep()
	}
	a.body.Bound(a.attempts.MaxBody())
	// A response may come before the upload ends; without this call, net/http
	// first reads the rest. HTTP/2 is full duplex and returns an error.
	_ = a.flight.rc.EnableFullDuplex()
}

// rebindBody applies the settings of a.f to an open body, which another
// Forwarder may have opened.
func (a *roundTrip) rebindBody() {
	a.body.setEdit(&a.f.RequestHeader)
	if a.mirrors {
		a.body.Keep()
	}
	a.body.Bound(a.attempts.MaxBody())
}

func (a *roundTrip) leaveBody() {
	a.body.detach()
	if a.memory != nil {
		a.memory.Give(a.taken)
	}
	if a.q.Method != http.MethodConnect { // the tunnel has counted
		a.x.RequestBytes = a.body.Count()
	}
}

// settles reports whether the connection can be kept after a response that did
// not wait for the body. Our front then reads the rest, if that is short.
func (a *roundTrip) settles() bool {
	return exchange.HasFront(a.q.Context()) && a.q.ContentLength <= exchange.SettleBytes && (a.body == nil || a.body.Failed() == nil)
}

// closeAfter makes the response the connection's last one unless the request
// was read to its end: the rest must not be read as another request (RFC 9112,
// 9.3). An HTTP/2 stream needs no such rule.
func (a *roundTrip) closeAfter() {
	if a.body != nil && !a.body.Whole() && a.q.ProtoMajor == 1 && !a.settles() {
		a.w.Header().Set("Connection", "close")
	}
}

// reach sends the request to targets until one responds. That target then
// counts the exchange until end.
func (a *roundTrip) reach() (*http.Response, *exchange.Failure) {
	for {
		a.flight.aim(&a.attempts.Target.Span, a.attempts.Around())
		res, err := a.try(a.attempts.Target)
		next, fail := a.attempts.Next(a.outcome(res, err))
		if err == nil && next != forward.NextAnswer {
			res.Body.Close()
		}
		if next != forward.NextAttempt {
			return res, fail
		}
	}
}

// outcome describes how an attempt ended.
func (a *roundTrip) outcome(res *http.Response, err error) forward.Outcome {
	o := forward.Outcome{Wrote: true, Idempotent: exchange.Idempotent(a.q.Method), Begun: a.interim > 0}
	if err == nil {
		o.Status = res.StatusCode
		o.Whole = a.attempts.Retries(o.Status) && a.rewind()
		return o
	}
	o.Failure, o.Whole = a.classify(err), a.rewind()
	var ae *exchange.AttemptError
	if errors.As(err, &ae) {
		o.Wrote = ae.Wrote
	}
	return o
}

// rewind reports whether the request can be sent again.
func (a *roundTrip) rewind() bool { return a.body == nil || a.body.Rewind() }

// pick calls the user's Pick. A panic in it fails this request.
func (a *roundTrip) pick(left []*forward.Target) (t *forward.Target, err error) {
	defer exchange.Contain("Pick", &err)
	return a.f.Pick(a.q, left), nil
}

// try performs one attempt at t.
func (a *roundTrip) try(t *forward.Target) (*http.Response, error) {
	a.tries++
	if err := a.announce(); err != nil {
		return nil, err
	}
	if a.hedges() {
		return a.race()
	}
	c := t.Speaker(a.q)
	own, ok := c.(*client.Client)
	if !ok {
		return a.tryForeign(c, t)
	}
	res, err := a.tryOwn(own, t)
	if err != nil && a.f.Refuses(t, err) && (a.body == nil || a.body.Rewind()) {
		return a.tryForeign(t.Speaker(a.q), t)
	}
	return res, err
}

// announce calls the hook for the start of the attempt. If the hook fails, the
// attempt fails.
func (a *roundTrip) announce() (err error) {
	if t := a.x.Latest(); t != nil {
		t.Whole = a.body == nil || a.body.Whole()
	}
	defer a.tell()
	if !a.x.Hooks.Tries() {
		return nil
	}
	a.set, err = a.x.AnnounceAttempt(a.q)
	if a.body != nil {
		a.body.replace(a.set)
	}
	return err
}

// tell tells the lender of the exchange how far it is.
func (a *roundTrip) tell() {
	if a.body == nil {
		a.x.Tell(nil)
	} else {
		a.x.Tell(&a.body.Body)
	}
}

// tryOwn performs one attempt with the built-in HTTP/1.1 client.
func (a *roundTrip) tryOwn(c *client.Client, t *forward.Target) (*http.Response, error) {
	if d := a.short(); d != nil {
		return a.doShort(c, t, d)
	}
	out, err := a.outgoing(&a.flight, t)
	if err != nil {
		return nil, err
	}
	return c.Do(out, a.relay)
}

// tryForeign performs one attempt with a client that does not know leases.
func (a *roundTrip) tryForeign(c forward.Doer, t *forward.Target) (*http.Response, error) {
	for again := 0; ; again++ {
		res, err := a.sendForeign(c, t)
		if err == nil || again == maxUnseen || !forward.Unseen(err) || a.body == nil || a.interrupted() || !a.body.Rewind() {
			return res, err
		}
	}
}

// maxUnseen is how often one attempt is repeated if its target refuses it
// without processing it.
const maxUnseen = 3

// sendForeign sends the request once. It does not set http.Request.GetBody:
// clients would then retry by rules of their own, even a POST that its target
// may have processed.
func (a *roundTrip) sendForeign(c forward.Doer, t *forward.Target) (*http.Response, error) {
	if a.done != nil {
		a.done()
	}
	var ctx context.Context
	ctx, a.done = a.flight.cancelable()
	a.flight.order = exchange.Order{} // responses of foreign clients have no order
	var body *foreignBody             // nil if there is nothing to send
	if a.body != nil {
		body = &foreignBody{tells: a.f.Transport == nil}
	}
	out, err := a.outgoing(httptrace.WithClientTrace(ctx, a.dialTrace(body)), t)
	if err != nil {
		return nil, err
	}
	b, ok := out.Body.(*attemptBody)
	if !ok || body == nil {
		return c.Do(out, a.relay)
	}
	body.attemptBody, out.Body = b, body
	a.flight.uploads(body)
	res, err := c.Do(out, a.relay)
	if !a.flight.uploaded() {
		return res, err
	}
	if err == nil { // the response came too late
		res.Body.Close()
	}
	return nil, &exchange.AttemptError{Op: "write", Wrote: true, Err: os.ErrDeadlineExceeded}
}

// dialTrace notes how long a foreign client takes to open a connection. It ends
// the turn of the target while no part of body is on the way to it.
func (a *roundTrip) dialTrace(body *foreignBody) *httptrace.ClientTrace {
	var start time.Time
	return &httptrace.ClientTrace{
		GetConn: func(string) {
			start = time.Now()
			a.flight.pass(body, noTurn)
		},
		GotConn: func(got httptrace.GotConnInfo) {
			a.flight.pass(body, targetsTurn)
			if !got.Reused {
				a.flight.Dialed(time.Since(start))
			}
		},
		Wait100Continue: func() { a.flight.pass(body, noTurn) },
		WroteRequest:    func(httptrace.WroteRequestInfo) { a.flight.pass(body, noTurn) },
	}
}

// informational relays a 1xx response. Afterwards it restores the header map of
// the outer handlers.
func (a *roundTrip) informational(status int, h http.Header) error {
	return a.inform(&a.flight.order, status, h)
}

// inform is informational for the attempt with that order.
func (a *roundTrip) inform(o *exchange.Order, status int, h http.Header) error {
	if a.interim++; a.interim > exchange.MaxInterim {
		return exchange.ErrInterim
	}
	if status == http.StatusContinue && (a.body == nil || a.buffered || a.q.Header.Get("Expect") == "") {
		return nil // the client has not asked for it
	}
	if exchange.IsHTTP10(a.q) {
		return nil // not part of HTTP/1.0 (RFC 9110, 15.2)
	}
	if !exchange.TakesInterim(a.w) {
		return nil
	}
	header.CleanResponse(h)
	a.edit.Drop(h)
	out := a.w.Header()
	before := out.Clone()
	clear(out)
	for k, v := range h {
		if header.Classify(k)&header.Framing == 0 {
			out[k] = v
		}
	}
	exchange.Arrange(a.w, exchange.Order{Names: o.Answer})
	a.w.WriteHeader(status)
	clear(out)
	for k, v := range before {
		out[k] = v
	}
	return nil
}

// classify turns an attempt's error into the exchange's failure: the side, the
// status, and the error type for the client.
func (a *roundTrip) classify(err error) *exchange.Failure {
	f := &exchange.Failure{Op: "read", Target: a.attempts.Target.Name, Side: exchange.SideUpstream, Status: http.StatusBadGateway,
		Reason: "connection_terminated", Err: err}
	var ae *exchange.AttemptError
	if errors.As(err, &ae) {
		f.Op, f.Err = ae.Op, ae.Err
	}
	var hook *exchange.PanicError
	var field *exchange.FieldError
	cut := a.flight.why()
	switch {
	case a.interrupted():
		f.Status, f.Reason = exchange.Reason(f.Op, f.Err)
	case errors.As(cut, &hook):
		f.Side, f.Status, f.Reason, f.Err = exchange.SideProxy, http.StatusInternalServerError, "proxy_internal_error", cut
	case cut == exchange.ErrCut:
		f.Side, f.Status, f.Reason, f.Err = exchange.SideDrain, http.StatusServiceUnavailable, "destination_unavailable", cut
	case cut == exchange.ErrIdle:
		f.Op, f.Err = "read", cut
		f.Side, f.Status, f.Reason = exchange.SideClient, http.StatusRequestTimeout, "http_request_error"
	case exchange.Revoked(a.q.Context()) != nil:
		f.Side, f.Err = exchange.SideProxy, exchange.Revoked(a.q.Context())
		f.Status, f.Reason = exchange.Reason(f.Op, f.Err)
	case a.body != nil && (errors.As(a.body.Failed(), &hook) || a.body.Failed() == exchange.ErrSpoiled):
		f.Op, f.Err = "read", a.body.Failed()
		f.Side, f.Status, f.Reason = exchange.SideProxy, http.StatusInternalServerError, "proxy_internal_error"
	case a.body != nil && a.body.Failed() != nil:
		f.Op, f.Err = "read", a.body.Failed()
		f.Side, f.Status, f.Reason = exchange.SideClient, exchange.BodyStatus(f.Err), "http_request_error"
	case cut == exchange.ErrClientGone, a.q.Context().Err() != nil:
		f.Side, f.Status, f.Reason = exchange.SideClient, exchange.StatusClientClosed, "connection_terminated"
	case errors.As(err, &hook), errors.As(err, &field), errors.Is(err, errRewritten):
		f.Side, f.Status, f.Reason = exchange.SideProxy, hookStatus(err), "proxy_internal_error"
	default:
		f.Status, f.Reason = exchange.Reason(f.Op, f.Err)
	}
	return f
}
