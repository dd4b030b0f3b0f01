package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// A fullExchange is one exchange on its way through the full lane: a try at one
// target after the other until one answers.
type fullExchange struct {
	f *Forwarder // who serves it; see Place
	w http.ResponseWriter
	q *http.Request
	x *Exchange

	flight   flight
	attempts Attempts
	fast     bool               // the short way may do
	res      http.Response      // on the short way
	body     *requestBody       // the client's body, nil without
	done     context.CancelFunc // of a client that knows nothing of leases; nil without
	wrote    bool               // the response to the client has begun
	mirrors  bool               // a copy is to be sent
	interim  int                // interim responses relayed
	named    []string           // values of the response's Connection, for its trailers
}

// run carries the exchange out. A failure is returned once; after wrote it
// means that the client must be cut off.
func (a *fullExchange) run() *Failure {
	if fail := a.admit(); fail != nil {
		return fail
	}
	fl := &a.flight // field by field: a literal would lie on the stack, which is copied when it grows
	fl.Context, fl.f, fl.x, fl.rc = a.q.Context(), a.f, a.x, http.NewResponseController(a.w)
	fl.span, fl.idle = &a.f.span, a.f.IdleTimeout
	a.f.takeOff(fl)
	defer a.end() // one, since several defers take the stack of a literal
	if fail := a.begin(); fail != nil {
		return fail
	}
	a.mirrors = !a.x.copy && a.f.Mirrors()
	if a.hasBody() {
		a.openBody()
	}
	res, fail := a.reach()
	if fail != nil {
		return fail
	}
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		return a.upgrade(res)
	case a.q.Method == http.MethodConnect && res.StatusCode/100 == 2: // would promise a tunnel (RFC 8441, 5)
		res.Body.Close()
		return &Failure{Op: "upgrade", Target: a.attempts.Target.Name, Side: SideUpstream, Status: http.StatusBadGateway,
			Reason: "http_upgrade_failed", Err: fmt.Errorf("asked for upgrade, got %d", res.StatusCode)}
	}
	return a.respond(res)
}

// begin begins the first attempt.
func (a *fullExchange) begin() *Failure {
	t := &a.attempts
	t.Client, t.Size, t.charged, t.prior = a.x.Client, a.q.ContentLength, a.x.charged, a.x.tried
	return t.Begin(&a.x.Record, a)
}

// Place implements Party.
func (a *fullExchange) Place(f *Forwarder) *Failure {
	a.fast = f.Fast()
	if a.f != f { // else an attempt that goes on may look at it
		a.f = f
		a.flight.serve(f)
		if f.shows() {
			a.introduce()
		}
	}
	if a.q.Method == http.MethodConnect && a.upgradeProtocol() == "" {
		return a.refusal(http.StatusNotImplemented, "http_request_denied", "CONNECT is not forwarded")
	}
	if f.Pick != nil {
		a.attempts.pick = a.pick
	}
	if f.Keyed() {
		a.attempts.Key = f.keyOf(a.q, a.x.Client)
	}
	if f.Sticks() {
		a.attempts.preferOf(a.q)
	}
	return nil
}

// shows reports whether hooks of f's see the client's request, or one that is made
// of it.
func (f *Forwarder) shows() bool {
	return f.Transport != nil || f.Pick != nil || f.Rewrite != nil || f.ModifyResponse != nil || f.ErrorHandler != nil
}

// introduce lets those who see the request find the exchange by its context. A
// question's is found already: it is that of the request which is asked about.
func (a *fullExchange) introduce() {
	if a.x.asker == nil && FromContext(a.q.Context()) != a.x {
		a.q = a.q.WithContext(NewContext(a.q.Context(), a.x))
	}
}

// Await implements Party.
func (a *fullExchange) Await(wait func(gone <-chan struct{}) error) error {
	a.flight.aim(&a.attempts.f.span, a.attempts.Around())
	ctx, cancel := a.flight.cancelable()
	defer cancel()
	a.flight.waits.Store(a.hasBody() && a.body == nil)
	defer a.flight.waits.Store(false)
	return wait(ctx.Done())
}

// hasBody reports whether the client's request has a body.
func (a *fullExchange) hasBody() bool {
	return a.q.Body != nil && a.q.Body != http.NoBody && a.q.ContentLength != 0
}

// end undoes what run and reach have begun.
func (a *fullExchange) end() {
	if a.done != nil {
		a.done()
	}
	if a.body != nil {
		a.leaveBody()
	}
	a.flight.f.land(&a.flight)
	if a.mirrors {
		if body, ok := a.copied(); ok {
			a.f.copyOf(a.q, body, a.x)
		}
	}
}

func (a *fullExchange) openBody() {
	a.body = newRequestBody(a.q, &a.flight, &a.f.RequestHeader)
	a.body.max = a.attempts.MaxBody()
	a.body.keeps = a.body.keeps || a.mirrors && a.q.ContentLength <= replayLimit
	// An answer may come before the upload ends; without this net/http reads
	// the rest first. HTTP/2 is full duplex and says so by an error.
	_ = a.flight.rc.EnableFullDuplex()
}

func (a *fullExchange) leaveBody() {
	a.body.detach()
	a.x.RequestBytes = a.body.count.Load()
}

// closeAfter makes the response the connection's last unless the request was
// read to its end: what remains on the wire must not be taken for another
// request (RFC 9112, 9.3). An HTTP/2 stream ends by itself.
func (a *fullExchange) closeAfter() {
	if a.body != nil && !a.body.whole.Load() && a.q.ProtoMajor == 1 {
		a.w.Header().Set("Connection", "close")
	}
}

// CloseUnbounded makes the response to q the connection's last when what follows q may be meant as its body: HTTP/1.0 wants
// a length of every body, and not every sender knows (RFC 1945, 7.2.2 and 8.3). net/http takes it for another request.
func CloseUnbounded(w http.ResponseWriter, q *http.Request) {
	if q.ProtoMajor == 1 && q.ProtoMinor == 0 && q.Method != http.MethodGet && q.Method != http.MethodHead && q.Header["Content-Length"] == nil {
		w.Header().Set("Connection", "close")
	}
}

// admit refuses what must not reach any target.
func (a *fullExchange) admit() *Failure {
	q := a.q
	if q.Method == http.MethodConnect && q.Header.Get(":protocol") == "" { // else Place sees to it
		return a.refusal(http.StatusNotImplemented, "http_request_denied", "CONNECT is not forwarded")
	}
	switch { // what the front loop refuses, and net/http does not
	case !h1.ValidToken(q.Method):
		return a.refusal(http.StatusBadRequest, "http_request_error", "method is not a token")
	case q.RequestURI != "" && !h1.ValidTarget(q.RequestURI): // a fragment, or bytes beyond ASCII
		return a.refusal(http.StatusBadRequest, "http_request_error", "invalid byte in the request target")
	case q.Host != "" && !h1.ValidHost(q.Host): // of a URL in the request line, say, whose escapes net/http has undone
		return a.refusal(http.StatusBadRequest, "http_request_error", "invalid byte in the host")
	case q.RequestURI == "*" && q.Method != http.MethodOptions:
		return a.refusal(http.StatusBadRequest, "http_request_error", "target * with a method other than OPTIONS")
	case q.ProtoMajor >= 2 && q.Method != http.MethodConnect && q.RequestURI != "*" && !strings.HasPrefix(q.RequestURI, "/"): // RFC 9113, 8.3.1
		return a.refusal(http.StatusBadRequest, "http_request_error", "path without a slash")
	case !expectable(q.Header["Expect"]):
		return a.refusal(http.StatusExpectationFailed, "http_request_denied", "expectation of something else than 100-continue")
	}
	return nil
}

// expectable reports whether lines, the values of Expect, say 100-continue and nothing else (RFC 9110, 10.1.1). What one
// reader takes for that and another does not, such as "y 100-continue", makes them disagree on whether a body comes.
func expectable(lines []string) bool {
	for _, line := range lines {
		if !strings.EqualFold(line, "100-continue") {
			return false
		}
	}
	return true
}

func (a *fullExchange) refusal(status int, reason, why string) *Failure {
	return &Failure{Op: "read", Side: SideClient, Status: status, Reason: reason, Err: errors.New(why)}
}

// reach sends the request to targets until one answers. On success the
// answering target is counted in, until end.
func (a *fullExchange) reach() (*http.Response, *Failure) {
	for {
		a.flight.aim(&a.attempts.Target.span, a.attempts.Around())
		res, err := a.try(a.attempts.Target)
		again, fail := a.attempts.Again(a.outcome(res, err))
		if err == nil && (again || fail != nil) {
			res.Body.Close()
		}
		if !again {
			return res, fail
		}
	}
}

// outcome says how an attempt ended.
func (a *fullExchange) outcome(res *http.Response, err error) Outcome {
	o := Outcome{Wrote: true, Idempotent: idempotent(a.q.Method), Begun: a.interim > 0}
	if err == nil {
		o.Status = res.StatusCode
		o.Whole = a.attempts.retries(o.Status) && a.rewind()
		return o
	}
	o.Failure, o.Whole = a.classify(err), a.rewind()
	var ae *AttemptError
	if errors.As(err, &ae) {
		o.Wrote = ae.Wrote
	}
	return o
}

// rewind reports whether the request can be sent again.
func (a *fullExchange) rewind() bool { return a.body == nil || a.body.rewind() }

// pick asks the user's Pick. A panic in it is this request's failure.
func (a *fullExchange) pick(left []*Target) (t *Target, err error) {
	defer Contain("Pick", &err)
	return a.f.Pick(a.q, left), nil
}

// try performs one attempt at t.
func (a *fullExchange) try(t *Target) (*http.Response, error) {
	if a.hedges() {
		return a.race()
	}
	c := t.speaker(isGRPC(a.q))
	own, ok := c.(*client)
	if !ok {
		return a.tryForeign(c, t)
	}
	res, err := a.tryOwn(own, t)
	if err != nil && a.f.Refuses(t, err) && (a.body == nil || a.body.rewind()) {
		return a.tryForeign(t.h2, t)
	}
	return res, err
}

// tryOwn performs one attempt by the built-in HTTP/1.1 client.
func (a *fullExchange) tryOwn(c *client, t *Target) (*http.Response, error) {
	if a.short() {
		return a.doShort(c, t)
	}
	out, err := a.outgoing(&a.flight, t)
	if err != nil {
		return nil, err
	}
	return c.Do(out, a.informational)
}

// tryForeign performs one attempt by a client that knows nothing of leases.
func (a *fullExchange) tryForeign(c doer, t *Target) (*http.Response, error) {
	if a.done != nil {
		a.done()
	}
	var ctx context.Context
	ctx, a.done = a.flight.cancelable()
	out, err := a.outgoing(httptrace.WithClientTrace(ctx, a.dialTrace()), t)
	if err != nil {
		return nil, err
	}
	return c.Do(out, a.informational)
}

// dialTrace notes how long a foreign client takes to open a connection.
func (a *fullExchange) dialTrace() *httptrace.ClientTrace {
	var start time.Time
	return &httptrace.ClientTrace{
		GetConn: func(string) { start = time.Now() },
		GotConn: func(got httptrace.GotConnInfo) {
			if !got.Reused {
				a.flight.dialed(time.Since(start))
			}
		},
	}
}

// isGRPC reports whether q can only travel over HTTP/2.
func isGRPC(q *http.Request) bool {
	return q.ProtoMajor == 2 && strings.HasPrefix(q.Header.Get("Content-Type"), "application/grpc")
}

// maxInterim bounds the interim responses of one exchange: a hostile target
// may send 1xx for ever.
const maxInterim = 32

var errInterim = fmt.Errorf("more than %d interim responses", maxInterim)

// informational relays a 1xx response. The header map is put back as the
// outer handlers left it.
func (a *fullExchange) informational(status int, h http.Header) error {
	if a.interim++; a.interim > maxInterim {
		return errInterim
	}
	if status == http.StatusContinue && (a.body == nil || a.q.Header.Get("Expect") == "") {
		return nil // nobody asked
	}
	if !a.q.ProtoAtLeast(1, 1) {
		return nil // nobody would understand (RFC 9110, 15.2)
	}
	header.CleanResponse(h)
	a.f.ResponseHeader.drop(h)
	out := a.w.Header()
	before := out.Clone()
	clear(out)
	for k, v := range h {
		if header.Classify(k)&header.Framing == 0 {
			out[k] = v
		}
	}
	a.w.WriteHeader(status)
	clear(out)
	for k, v := range before {
		out[k] = v
	}
	return nil
}

// classify turns an attempt's error into the exchange's failure: whose fault,
// which status, which class for the client to read.
func (a *fullExchange) classify(err error) *Failure {
	f := &Failure{Op: "read", Target: a.attempts.Target.Name, Side: SideUpstream, Status: http.StatusBadGateway,
		Reason: "connection_terminated", Err: err}
	var ae *AttemptError
	if errors.As(err, &ae) {
		f.Op, f.Err = ae.Op, ae.Err
	}
	var hook *PanicError
	cut := a.flight.why()
	switch {
	case errors.As(cut, &hook):
		f.Side, f.Status, f.Reason, f.Err = SideProxy, http.StatusInternalServerError, "proxy_internal_error", cut
	case cut == errCut:
		f.Side, f.Status, f.Reason, f.Err = SideDrain, http.StatusServiceUnavailable, "destination_unavailable", cut
	case cut == errIdle:
		f.Op, f.Err = "read", cut
		f.Side, f.Status, f.Reason = SideClient, http.StatusRequestTimeout, "http_request_error"
	case a.body != nil && errors.As(a.body.failed(), &hook):
		f.Op, f.Err = "read", a.body.failed()
		f.Side, f.Status, f.Reason = SideProxy, http.StatusInternalServerError, "proxy_internal_error"
	case a.body != nil && a.body.failed() != nil:
		f.Op, f.Err = "read", a.body.failed()
		f.Side, f.Status, f.Reason = SideClient, clientStatus(f.Err), "http_request_error"
	case cut == errClientGone, a.q.Context().Err() != nil:
		f.Side, f.Status, f.Reason = SideClient, StatusClientClosed, "connection_terminated"
	case errors.As(err, &hook), errors.Is(err, errRewritten):
		f.Side, f.Status, f.Reason = SideProxy, hookStatus(err), "proxy_internal_error"
	default:
		f.Status, f.Reason = Reason(f.Op, f.Err)
	}
	return f
}

// Why flights are cut off.
var (
	errClientGone = errors.New("client left")
	errCut        = errors.New("cut off by a drain")
	errIdle       = errors.New("no byte moved for too long")
	errStalled    = errors.New("client takes nothing")
)

// clientStatus is the answer to a client whose body could not be read.
func clientStatus(err error) int {
	var tooLarge *http.MaxBytesError
	var timeout net.Error
	switch {
	case errors.As(err, &tooLarge), errors.Is(err, ErrBodyTooLarge):
		return http.StatusRequestEntityTooLarge
	case err == errIdle, errors.As(err, &timeout) && timeout.Timeout():
		return http.StatusRequestTimeout
	case errors.Is(err, errClientGone):
		return StatusClientClosed
	}
	return http.StatusBadRequest
}
