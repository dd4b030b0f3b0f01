package forward

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

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// Bounds of one exchange with a target.
const (
	maxInlineBody = 16 << 10    // a body in memory up to this size goes out with the head
	continueWait  = time.Second // how long a target may think about Expect: 100-continue
	MaxInterimSum = 64 << 10    // bytes of all interim response heads
)

// A try is a request on its way over one connection, and its response head.
type try struct {
	c     *client
	req   *http.Request
	ctx   context.Context // ends the try; a flight, or the request's
	on1xx func(int, http.Header) error
	s     *scratch

	conn     *pool.Conn
	stop     func() bool // unbinds conn from the request's context
	upload   *upload     // nil unless the body goes out on a goroutine of its own
	answered bool        // a response byte has come
	interim  int         // bytes of interim heads
}

// A scratch is memory that is needed only until the response head is read.
type scratch struct {
	out []byte
	res h1.Response
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func (s *scratch) free() {
	s.res.Reset()
	if cap(s.out) <= 2*maxInlineBody {
		scratches.Put(s)
	}
}

// prepare checks the request and writes its head, with a small body that is in
// memory already, into the scratch.
func (t *try) prepare() error {
	head, err := requestHead(t.req)
	if err != nil {
		return err
	}
	t.s = scratches.Get().(*scratch)
	t.s.out = head.append(t.s.out[:0])
	t.s.res.MaxHead = pool.BufferSize
	if head.framing == h1.NoBody {
		return nil
	}
	if t.req.GetBody == nil || head.framing != h1.SizedBody || t.req.ContentLength > maxInlineBody {
		t.upload = newUpload(t, head.framing)
		return nil
	}
	defer func() {
		if err != nil {
			t.s.free()
		}
	}()
	n := len(t.s.out)
	t.s.out = slices.Grow(t.s.out, int(t.req.ContentLength))[:n+int(t.req.ContentLength)]
	if _, err = io.ReadFull(t.req.Body, t.s.out[n:]); err != nil {
		return fmt.Errorf("request body: %w", err)
	}
	return nil
}

// run sends the request and reads the head of the final response, or of a 101,
// whose length it returns.
func (t *try) run() (int, *AttemptError) {
	if err := t.send(); err != nil {
		op := "write"
		if t.conn.Sent() {
			op = "read"
		}
		return 0, t.fail(op, err)
	}
	for {
		n, err := t.head()
		if err != nil {
			return 0, t.fail("read", err)
		}
		if status := t.s.res.Status; status >= 200 || status == http.StatusSwitchingProtocols {
			return n, nil
		}
		if err := t.onInterim(n); err != nil {
			return 0, t.fail("read", err)
		}
	}
}

// send writes what is in the scratch. Without an upload it also waits for the
// first bytes of the response.
func (t *try) send() error {
	now := time.Now()
	_ = t.conn.SetWriteStall(t.c.stall)
	t.armHeader(now)
	if t.upload == nil {
		err := t.conn.Ask(t.s.out)
		t.answered = err == nil
		return err
	}
	if err := t.conn.Send(t.s.out); err != nil {
		return err
	}
	if t.expects() {
		return t.awaitContinue(now)
	}
	t.upload.start(t.conn)
	return nil
}

// armHeader bounds the wait for the response head from now on.
func (t *try) armHeader(now time.Time) {
	var deadline time.Time
	if t.c.headerTimeout > 0 {
		deadline = now.Add(t.c.headerTimeout)
	}
	_ = t.conn.SetReadDeadline(deadline)
}

func (t *try) expects() bool {
	return strings.EqualFold(t.req.Header.Get("Expect"), "100-continue")
}

// awaitContinue holds the body back until the target has said something or has
// thought for long enough (RFC 9110, 10.1.1). What it says is read by head; a
// final response to a body that was held back leaves it unsent.
func (t *try) awaitContinue(now time.Time) error {
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
func (t *try) head() (int, error) {
	for {
		if b := t.conn.Buffered(); len(b) > 0 {
			t.answered = true
			n, err := t.s.res.Parse(b)
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
func (t *try) fill() error {
	for {
		err := t.conn.Fill()
		if err == nil || t.upload == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		from := t.upload.sentSince()
		if time.Since(from) >= t.c.headerTimeout {
			return err
		}
		t.armHeader(from)
	}
}

// protocolError marks what the target should not have sent.
func protocolError(err error) error {
	var refusal *h1.Refusal
	if errors.As(err, &refusal) {
		return &ProtocolError{What: refusal.Reason}
	}
	return err
}

// onInterim passes a 1xx on. Any of them lets a body go that was held back: a
// target that has begun to work need not be waited for.
func (t *try) onInterim(n int) error {
	if t.interim += n; t.interim > MaxInterimSum {
		return errInterim
	}
	status, h := t.s.res.Status, responseHeader(&t.s.res)
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
func (t *try) final(n int) *http.Response {
	res := t.response()
	if t.s.res.Framing(t.req.Method) == h1.ChunkedBody {
		res.Trailer = announcedTrailers(res.Header)
	}
	t.attach(res, n)
	return res
}

// attach makes what follows the head of n bytes the body of res.
func (t *try) attach(res *http.Response, n int) {
	t.conn.Discard(n)
	_ = t.conn.SetReadDeadline(time.Time{})
	framing := t.s.res.Framing(t.req.Method)
	b := &body{conn: t.conn, stop: t.stop, ctx: t.ctx, upload: t.upload, res: res, framing: framing,
		left: t.s.res.ContentLength, keep: t.s.res.Persistent(t.req.Method) && !t.req.Close}
	res.Body = b
	switch framing {
	case h1.NoBody:
		b.finish()
		res.Body = http.NoBody
		if t.req.Method == http.MethodHead {
			res.ContentLength = t.s.res.ContentLength
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
func (t *try) switched(n int) (*http.Response, error) {
	if t.upload != nil {
		return nil, t.fail("read", &ProtocolError{What: "101 before the end of the request"})
	}
	res := t.response()
	t.conn.Discard(n)
	if !t.stop() {
		return nil, t.fail("read", pool.ErrAborted)
	}
	res.Body = newSwitchedBody(t.ctx, t.conn)
	return res, nil
}

func (t *try) response() *http.Response {
	head := &t.s.res
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
		Header:     responseHeader(head),
		Close:      !head.Persistent(t.req.Method),
		Request:    t.req,
	}
}
