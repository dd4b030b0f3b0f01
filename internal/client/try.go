package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// Limits of one exchange with a target.
const (
	maxInlineBody = 16 << 10    // a body in memory up to this size goes out with the head
	continueWait  = time.Second // how long to wait for a response to Expect: 100-continue
)

// A Try is a request on one connection, and its response head.
type Try struct {
	*scratch

	c     *Client
	req   *http.Request
	ctx   context.Context // ends the try; a flight, or the request's context
	on1xx func(int, http.Header) error

	conn     *pool.Conn
	stop     func() bool // unbinds conn from the request's context
	upload   *upload     // nil unless another goroutine sends the body
	room     *Room       // nil means that body is allocated
	body     *body       // body of the response, after its head
	answered bool        // a byte of the response has arrived
	interim  int         // bytes of interim heads
}

// A scratch is memory that is needed only until the response head has been
// read.
type scratch struct {
	Out  []byte      // the request's head, with the part of the body that is sent with it
	Head h1.Response // the latest response, interim ones included
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// Free returns the memory to a pool. The head is not valid after it.
func (t *Try) Free() {
	s := t.scratch
	s.Head.Reset()
	if cap(s.Out) <= 2*maxInlineBody {
		scratches.Put(s)
	}
}

// prepare checks the request and writes its head into the scratch, with a small
// body that is already in memory.
func (t *Try) prepare() error {
	head, err := requestHead(t.req)
	if err != nil {
		return err
	}
	t.scratch = scratches.Get().(*scratch)
	t.Out = head.append(t.Out[:0])
	t.Head.MaxHead = pool.BufferSize
	if head.framing == h1.NoBody {
		return nil
	}
	if t.req.GetBody == nil || head.framing != h1.SizedBody || t.req.ContentLength > maxInlineBody {
		t.upload = newUpload(t, head.framing)
		return nil
	}
	defer func() {
		if err != nil {
			t.Free()
		}
	}()
	n := len(t.Out)
	t.Out = slices.Grow(t.Out, int(t.req.ContentLength))[:n+int(t.req.ContentLength)]
	if _, err = io.ReadFull(t.req.Body, t.Out[n:]); err != nil {
		return fmt.Errorf("request body: %w", err)
	}
	return nil
}

// run sends the request and reads the head of the final response or of a 101.
// It returns the length of that head.
func (t *Try) run() (int, *exchange.AttemptError) {
	if err := t.send(); err != nil {
		op := "write"
		if t.conn.Sent() {
			op = "read"
		}
		return 0, t.Fail(op, err)
	}
	for {
		n, err := t.head()
		if err != nil {
			return 0, t.Fail("read", err)
		}
		switch status := t.Head.Status; {
		case status == http.StatusSwitchingProtocols:
			return n, nil
		case status >= 200:
			if err := t.begin(n); err != nil {
				return 0, t.Fail("read", err)
			}
			return n, nil
		}
		if err := t.onInterim(n); err != nil {
			return 0, t.Fail("read", err)
		}
	}
}

// send writes the bytes in the scratch. Without an upload it also waits for the
// first bytes of the response.
func (t *Try) send() error {
	now := time.Now()
	_ = t.conn.SetWriteStall(t.c.timeouts.Stall)
	t.armHeader(now)
	if t.upload == nil {
		err := t.conn.Ask(t.Out)
		t.answered = err == nil
		return err
	}
	if err := t.conn.Send(t.Out); err != nil {
		return err
	}
	if t.expects() {
		return t.awaitContinue(now)
	}
	t.upload.start(t.conn)
	return nil
}

// armHeader sets the deadline of the response head, counted from now.
func (t *Try) armHeader(now time.Time) {
	var deadline time.Time
	if t.c.timeouts.Header > 0 {
		deadline = now.Add(t.c.timeouts.Header)
	}
	_ = t.conn.SetReadDeadline(deadline)
}

func (t *Try) expects() bool {
	return strings.EqualFold(t.req.Header.Get("Expect"), "100-continue")
}

// awaitContinue holds the body back until the target has responded or the wait
// is over (RFC 9110, 10.1.1). head reads the response. After a final response
// the body is not sent.
func (t *Try) awaitContinue(now time.Time) error {
	_ = t.conn.SetReadDeadline(now.Add(continueWait))
	err := t.conn.Fill()
	t.armHeader(time.Now())
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.upload.start(t.conn)
		return nil
	}
	return err
}

// head waits for a response head, parses it, and returns its length.
func (t *Try) head() (int, error) {
	for {
		if b := t.conn.Buffered(); len(b) > 0 {
			t.answered = true
			n, err := t.Head.Parse(b)
			if err != h1.ErrMore {
				return n, protocolError(err)
			}
		}
		if err := t.fill(); err != nil {
			return 0, err
		}
	}
}

// fill waits for bytes. The header timeout starts when the body has been sent.
func (t *Try) fill() error {
	for {
		err := t.conn.Fill()
		if err == nil || t.upload == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		from := t.upload.sentSince()
		if time.Since(from) >= t.c.timeouts.Header {
			return err
		}
		t.armHeader(from)
	}
}

// protocolError marks faults of the target's response.
func protocolError(err error) error {
	if err == nil {
		return nil
	}
	var refusal *h1.Refusal
	if errors.As(err, &refusal) {
		return &exchange.ProtocolError{What: refusal.Reason}
	}
	return err
}

// onInterim passes on a 1xx. Any 1xx releases a body that was held back: the
// target has begun to work.
func (t *Try) onInterim(n int) error {
	if t.interim += n; t.interim > exchange.MaxInterimSum {
		return exchange.ErrInterim
	}
	status, h := t.Head.Status, t.header()
	t.conn.Discard(n)
	if t.on1xx != nil {
		if err := t.on1xx(status, h); err != nil {
			return err
		}
	}
	if t.upload != nil && !t.upload.started {
		t.upload.start(t.conn)
		t.armHeader(time.Now())
	}
	return nil
}

// final turns the head of n bytes into the response.
func (t *Try) final(n int) *http.Response {
	res := t.response()
	if t.Head.Framing(t.req.Method) == h1.ChunkedBody {
		res.Trailer = AnnouncedTrailers(res.Header)
	}
	t.Attach(res, n)
	return res
}

// begin prepares the body after the head of n bytes. It decodes the part of a
// chunked body that has arrived: an error in that part can still be answered
// with an error response.
func (t *Try) begin(n int) error {
	if t.room == nil {
		t.room = new(Room)
	}
	b := &t.room.body
	*b = body{conn: t.conn, stop: t.stop, ctx: t.ctx, upload: t.upload, framing: t.Head.Framing(t.req.Method),
		left: t.Head.ContentLength, keep: t.Head.Persistent(t.req.Method) && !t.req.Close}
	t.body = b
	if b.framing != h1.ChunkedBody {
		return nil
	}
	b.chunks.Padded = true
	if b.decoded, b.ahead, b.behind = b.chunks.Decode(t.conn.Buffered()[n:]); b.behind != io.EOF {
		return protocolError(b.behind)
	}
	return nil
}

// Attach makes the bytes after the head of n bytes the body of res.
func (t *Try) Attach(res *http.Response, n int) {
	b := t.body
	b.res, res.Body = res, b
	t.conn.Discard(n + b.ahead)
	_ = t.conn.SetReadDeadline(time.Time{})
	switch b.framing {
	case h1.NoBody:
		b.finish()
		res.Body = http.NoBody
		if t.req.Method == http.MethodHead {
			res.ContentLength = t.Head.ContentLength
		}
	case h1.SizedBody:
		res.ContentLength = b.left
	case h1.ChunkedBody:
		res.ContentLength = -1
		res.TransferEncoding = chunkedCoding
	default:
		res.ContentLength = -1
	}
}

// chunkedCoding is net/http's value for a chunked body. Read-only.
var chunkedCoding = []string{"chunked"}

// switched turns the connection into the response's body.
func (t *Try) switched(n int) (*http.Response, error) {
	if t.upload != nil {
		return nil, t.Fail("read", &exchange.ProtocolError{What: "status 101 before the end of the request"})
	}
	res := t.response()
	t.conn.Discard(n)
	if !t.stop() {
		return nil, t.Fail("read", pool.ErrAborted)
	}
	res.Body = newSwitchedBody(t.ctx, t.conn)
	return res, nil
}

// header returns the header of the latest response. It stores the names in the
// request's Order.
func (t *Try) header() http.Header {
	h, names := ResponseHeader(&t.Head)
	if o := exchange.OrderFrom(t.ctx); o != nil {
		o.Answer = names
	}
	return h
}

func (t *Try) response() *http.Response {
	head := &t.Head
	proto := "HTTP/1.1"
	if head.Minor == 0 {
		proto = "HTTP/1.0"
	}
	return &http.Response{
		Status:     strconv.Itoa(head.Status) + " " + string(head.Reason),
		StatusCode: head.Status,
		Proto:      proto,
		ProtoMajor: 1,
		ProtoMinor: head.Minor,
		Header:     t.header(),
		Close:      !head.Persistent(t.req.Method),
		Request:    t.req,
	}
}
