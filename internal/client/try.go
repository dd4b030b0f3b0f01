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

// Bounds of one exchange with a target.
const (
	maxInlineBody = 16 << 10    // a body in memory up to this size goes out with the head
	continueWait  = time.Second // how long a target may think about Expect: 100-continue
)

// A Try is a request on its way over one connection, and its response head.
type Try struct {
	*scratch

	c     *Client
	req   *http.Request
	ctx   context.Context // ends the try; a flight, or the request's
	on1xx func(int, http.Header) error

	conn     *pool.Conn
	stop     func() bool // unbinds conn from the request's context
	upload   *upload     // nil unless the body goes out on a goroutine of its own
	room     *Room       // nil means that body is made anew
	body     *body       // of the response, once its head is read
	answered bool        // a response byte has come
	interim  int         // bytes of interim heads
}

// A scratch is memory that is needed only until the response head is read.
type scratch struct {
	Out  []byte      // the request's head, with what of its body goes along
	Head h1.Response // of the last response, interim ones included
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// Free gives the memory back. Nothing of the head is valid behind it.
func (t *Try) Free() {
	s := t.scratch
	s.Head.Reset()
	if cap(s.Out) <= 2*maxInlineBody {
		scratches.Put(s)
	}
}

// prepare checks the request and writes its head, with a small body that is in
// memory already, into the scratch.
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

// run sends the request and reads the head of the final response, or of a 101,
// whose length it returns.
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

// send writes what is in the scratch. Without an upload it also waits for the
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

// armHeader bounds the wait for the response head from now on.
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

// awaitContinue holds the body back until the target has said something or has
// thought for long enough (RFC 9110, 10.1.1). What it says is read by head; a
// final response to a body that was held back leaves it unsent.
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

// head waits for a response head and parses it. It returns its length.
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

// protocolError marks what the target should not have sent.
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

// onInterim passes a 1xx on. Any of them lets a body go that was held back: a
// target that has begun to work need not be waited for.
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

// begin prepares the body behind the head of n bytes. What has come of a
// chunked one is decoded: what is wrong with that can still be answered.
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

// Attach makes what follows the head of n bytes the body of res.
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

// chunkedCoding is what net/http calls a chunked body. Read-only.
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

// header is that of the latest response. Its names go to the request's Order.
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
