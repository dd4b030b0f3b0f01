package handler

import (
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/header"
)

// A requestBody is the client's body. Its source is the request's Body, which
// middleware may have replaced. At the end of the body it passes on the
// trailers.
type requestBody struct {
	exchange.Body
	q       *http.Request
	flight  *flight
	edit    *forward.Edit // header edits of the Forwarder that serves the request
	names   []string      // announced trailers that pass
	trailer http.Header   // trailers that pass; written by the reader of the whole body

	// trailers with these names do not pass: an attempt's hook has set the
	// header
	replaced atomic.Pointer[[]string]

	reading atomic.Bool // a Read from the client is in progress
	// the attempt has failed, and no other continues to read: the client is not
	// to blame if its context has ended
	interrupted atomic.Bool
	// guards left, after which interrupt must not use the flight's
	// ResponseController
	leaving sync.Mutex
	left    bool // the exchange has ended
}

func newRequestBody(q *http.Request, fl *flight, edit *forward.Edit) *requestBody {
	b := &requestBody{q: q, flight: fl}
	b.Open(b, q.Method, q.ContentLength)
	grpc := exchange.AwaitsTrailers(q)
	b.Patient = grpc || q.Method == http.MethodConnect
	if grpc {
		b.KeepFirst() // a target that closes a connection refuses requests on it
	}
	b.setEdit(edit)
	return b
}

// setEdit sets the request's header edits, which decide which trailers pass.
func (b *requestBody) setEdit(edit *forward.Edit) {
	q := b.q
	// HTTP/2 may send trailers after a body of known length, announced or not
	if b.edit = edit; q.ContentLength >= 0 && q.Trailer == nil {
		return
	}
	b.names, b.trailer = nil, make(http.Header, len(q.Trailer))
	for k, v := range q.Trailer {
		if !b.passes(k) {
			continue
		}
		if b.names = append(b.names, k); b.Whole() {
			b.trailer[k] = v
		}
	}
}

// An attemptBody is the body as one attempt reads it. It has its own trailers:
// the previous attempt may still read and get the client's trailers.
type attemptBody struct {
	exchange.BodyReader
	b       *requestBody
	trailer http.Header // filled at EOF
}

// A foreignBody is an attemptBody for a client that closes it when the attempt
// has failed, and then waits for the end of the Read in progress, as net/http's
// client of HTTP/2 does.
//
// net/http also closes a body that it has not read, if it cannot use a
// connection, and then sends the same body on another connection: such a Close
// has no effect.
type foreignBody struct {
	*attemptBody
	read, closed atomic.Bool
	tells        bool // the client reports when it has sent the request
}

// Read implements io.Reader.
func (r *foreignBody) Read(p []byte) (int, error) {
	r.read.Store(true)
	r.b.reading.Store(true) // set before closed is read; Close does it in the other order
	defer r.b.reading.Store(false)
	if r.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	fl := r.b.flight
	fl.pass(r, clientsTurn)
	n, err := r.attemptBody.Read(p[:min(len(p), feedPiece)])
	switch {
	case err != nil && err != io.EOF, r.Through() && !r.tells:
		fl.pass(r, noTurn)
	default: // at the end, too: the client may still hold the last piece
		fl.pass(r, targetsTurn)
	}
	return n, err
}

// feedPiece limits how much of a body a foreign client gets at once: its target
// must take that much within the idle timeout.
const feedPiece = 32 << 10

// Close implements io.Closer. It ends a Read in progress.
func (r *foreignBody) Close() error {
	if !r.read.Load() {
		return nil
	}
	r.closed.Store(true)
	if r.b.reading.Load() {
		r.b.interrupt()
	}
	return nil
}

// interrupt ends a Read that waits for the client, unless another attempt may
// use what it reads.
func (b *requestBody) interrupt() {
	b.leaving.Lock()
	defer b.leaving.Unlock()
	if b.left || b.Whole() || b.Failed() != nil || b.Replays() && exchange.Idempotent(b.q.Method) {
		return
	}
	// only if the exchange has not ended for another reason
	if b.flight.Err() == nil && b.flight.why() == nil {
		b.interrupted.Store(true)
	}
	// a deadline ends the request's context too, and so the response
	if body, ours := b.q.Body.(interface{ Interrupt() }); ours {
		body.Interrupt()
		return
	}
	_ = b.flight.rc.SetReadDeadline(time.Unix(1, 0))
}

// reader returns the body from its beginning for the next attempt, with its
// trailers. These are nil if there can be none.
func (b *requestBody) reader() (io.ReadCloser, http.Header) {
	r := &attemptBody{BodyReader: b.Attempt(), b: b}
	if b.trailer == nil {
		return r, nil
	}
	r.trailer = make(http.Header, len(b.names))
	for _, k := range b.names {
		if b.passes(k) {
			r.trailer[k] = nil
		}
	}
	if b.Whole() {
		r.fill()
	}
	return r, r.trailer
}

// Read implements io.Reader.
func (r *attemptBody) Read(p []byte) (int, error) {
	n, err := r.BodyReader.Read(p)
	if err == io.EOF && r.trailer != nil {
		r.fill()
	}
	return n, err
}

// fill sets the trailers of a whole body.
func (r *attemptBody) fill() {
	for k, v := range r.b.trailer {
		if r.b.passes(k) {
			r.trailer[k] = v
		}
	}
}

// Read reads from the client. Body calls it.
func (b *requestBody) Read(p []byte) (int, error) {
	b.flight.touch() // a client that sends nothing times out
	b.flight.owes.Store(!b.Patient)
	n, err := b.q.Body.Read(p)
	b.flight.owes.Store(false)
	if !b.flight.begun.Load() {
		b.flight.last.Store(0) // from now on the target's time counts
	}
	switch {
	case b.spoiled(n, err):
		return 0, exchange.ErrSpoiled
	case err == nil:
	case errors.Is(err, io.EOF):
		for k, v := range b.q.Trailer {
			if b.trailer != nil && b.passes(k) {
				b.trailer[k] = v
			}
		}
	case b.interrupted.Load() && errors.Is(err, os.ErrDeadlineExceeded):
		err = http.ErrBodyReadAfterClose
	case b.flight.why() == exchange.ErrIdle:
		// net/http cancels the context after a read deadline too
		err = exchange.ErrIdle
	case b.q.Context().Err() != nil:
		err = exchange.Ended(b.q.Context())
	}
	return n, err
}

// Excused returns the client's Excused, for Body.
func (b *requestBody) Excused() time.Duration { return exchange.Excused(b.q.Context()) }

// spoiled reports whether the body's length differs from the request's, after a
// Read that returned n and err.
func (b *requestBody) spoiled(n int, err error) bool {
	total, length := b.Count()+int64(n), b.q.ContentLength
	return length >= 0 && (total > length || total < length && errors.Is(err, io.EOF))
}

// passes reports whether a trailer is forwarded.
func (b *requestBody) passes(name string) bool {
	if names := b.replaced.Load(); names != nil && header.Matches(*names, name) {
		return false
	}
	return b.edit.PassesTrailer(name, b.q.Header["Connection"]...)
}

// replace drops trailers whose fields in set were sent with the head instead.
func (b *requestBody) replace(set []header.Replacement) {
	if len(set) == 0 || b.trailer == nil {
		return
	}
	var names []string
	if old := b.replaced.Load(); old != nil { // an attempt that has ended may still read
		names = slices.Clone(*old)
	}
	for i := range set {
		if !header.Matches(names, set[i].Name) {
			names = append(names, set[i].Name)
		}
	}
	b.replaced.Store(&names)
}

// detach ends all reading, since net/http reads on after the handler returns.
// The client gets a short time to send more of an unread body.
func (b *requestBody) detach() {
	b.leaving.Lock()
	b.left = true
	b.leaving.Unlock()
	whole := b.Whole()
	// SetReadDeadline fails where no server reads on
	b.Close(func() bool { return b.flight.rc.SetReadDeadline(time.Unix(1, 0)) == nil })
	if !whole && !b.Patient {
		_ = b.flight.rc.SetReadDeadline(time.Now().Add(exchange.LingerTime))
	}
}
