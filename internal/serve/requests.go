package serve

import (
	"errors"
	"net"
	"slices"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/hostname"
)

// A step is what a connection does after an exchange.
type step uint8

const (
	again  step = iota // wait for the next request
	end                // close
	linger             // close, after reading what the client still sends
	drain              // wait for the next request, if the rest of the body arrives
	other              // the handler lane continues the exchange
	gone               // nothing: a handler has taken over the connection
)

// bufferSize is the size of the input buffer.
const bufferSize = h1.DefaultMaxHead

// run serves requests until the connection ends or a handler takes it over.
func (c *conn) run() {
	defer c.contain()
	var f *front1
	for {
		if f == nil || f.r == f.w {
			if f != nil {
				f.giveBack()
			}
			if f = c.await(); f == nil {
				if c.startAfresh() {
					go c.run()
					return
				}
				c.shut()
				return
			}
		}
		switch f.serve() {
		case again:
		case end:
			f.giveBack()
			c.shut()
			return
		case linger:
			f.giveBack()
			c.lingerClose()
			return
		case gone: // f is not ours any more
			return
		}
	}
}

// await waits for the first bytes of a request without holding a buffer, and
// returns them in a front. It returns nil if the connection should end.
func (c *conn) await() *front1 {
	if !c.beginIdle() {
		return nil
	}
	if c.opaque {
		c.bare()
	}
	var f *front1
	if c.tls != nil {
		f = c.awaitTLS()
	} else if c.readable != nil {
		c.front = nil
		err := c.raw.Read(c.readable)
		c.timedOut = isTimeout(err)
		f, c.front = c.front, nil
	} else {
		f = fronts.Get().(*front1)
		n, err := c.Read(f.in[:])
		c.timedOut = isTimeout(err)
		f.r, f.w = 0, n
		if err != nil && n == 0 {
			fronts.Put(f)
			f = nil
		}
	}
	c.endIdle()
	if f != nil {
		c.quiet = false
		f.lend(c)
	}
	return f
}

// awaitTLS waits for one byte in a buffer of the connection. The rest of the
// record can then be read without waiting.
func (c *conn) awaitTLS() *front1 {
	n, err := c.tls.Read(c.first[:])
	c.timedOut = isTimeout(err)
	if n == 0 || err != nil {
		return nil
	}
	f := fronts.Get().(*front1)
	f.in[0] = c.first[0]
	f.r, f.w = 0, 1
	return f
}

// more reads more bytes into the buffer.
func (f *front1) more() error {
	if f.r > 0 {
		f.w = copy(f.in[:], f.in[f.r:f.w])
		f.r = 0
	}
	if f.w == len(f.in) {
		return errBufferFull
	}
	n, err := f.c.stream().Read(f.in[f.w:])
	f.w += n
	if n > 0 {
		return nil
	}
	return err
}

var errBufferFull = errors.New("buffer full")

// serve reads a request head and serves it.
func (f *front1) serve() step {
	if next := f.forward(); next != other {
		return next
	}
	next, err := f.x.adapt(f.c)
	if err != nil {
		return f.refuse(err)
	}
	return next
}

// forward reads a request head, and refuses the request or forwards it on the
// fast lane. It returns other if the handler lane must serve it. It also closes
// the connection after runtime.Goexit in a hook (as by testing's FailNow),
// since nothing else would.
func (f *front1) forward() (next step) {
	c, returned := f.c, false
	defer func() {
		if !returned {
			c.Close()
		}
	}()
	next = f.tryForward()
	returned = true
	return next
}

func (f *front1) tryForward() step {
	x := f.x
	x.hop.ID = header.RequestID{}
	n, what := f.readHead()
	if what != again {
		return what
	}
	f.behead(n)
	f.c.spoke = true
	f.begin()
	f.src.take(f)
	if !x.named() {
		return f.refuse(errHost)
	}
	if !f.odd && x.route() {
		return x.run()
	}
	return other
}

// behead skips the head of n bytes.
func (f *front1) behead(n int) {
	f.headAt, f.headLen = f.r, n
	if f.long != nil {
		f.r, f.w = 0, copy(f.in[:], f.long[n:])
		return
	}
	f.r += n
}

// readHead parses the head at the start of the buffer, and reads more as
// needed. again means that the head is complete and n bytes long.
func (f *front1) readHead() (n int, next step) {
	req := &f.x.req
	n, err, cut := f.parseHead()
	f.c.endHead()
	if cut != nil {
		req.Reset()
		return 0, f.lateHead(cut)
	}
	switch err {
	case nil:
		f.odd = req.Nominates
	case h1.ErrUnusual:
		if req.Unusual&h1.UnusualPreface != 0 && f.c.takesH2C() {
			return 0, f.speak2()
		}
		f.odd = true
		if err := unusual(req); err != nil {
			return 0, f.refuse(err)
		}
	default:
		req.Reset()
		return 0, f.refuse(err)
	}
	return n, again
}

// parseHead reads until the head can be parsed. err is from h1.Request.Parse;
// cut is why the rest of the head cannot be read.
func (f *front1) parseHead() (n int, err, cut error) {
	req := &f.x.req
	req.MaxHead = f.c.s.limit().MaxHeaderBytes
	f.long = nil
	for slow := false; ; slow = true {
		if n, err = req.Parse(f.unparsed()); err != h1.ErrMore {
			return n, err, nil
		}
		if !slow {
			f.c.beginHead()
		}
		if cut := f.moreHead(); cut != nil {
			return 0, nil, cut
		}
	}
}

// takesH2C reports whether the connection may begin with the preface of HTTP/2,
// by prior knowledge (RFC 9113, 3.3).
func (c *conn) takesH2C() bool { return c.s.H2C && c.tls == nil && !c.spoke }

// speak2 passes the connection and the bytes already read to serve2.
func (f *front1) speak2() step {
	c, ahead := f.c, slices.Clone(f.unparsed())
	c.readBy(0)
	f.giveBack()
	c.serve2(ahead)
	return gone
}

// unparsed returns the bytes that have arrived of the next head.
func (f *front1) unparsed() []byte {
	if f.long != nil {
		return f.long
	}
	return f.in[f.r:f.w]
}

// moreHead reads more of a head, which may be as long as MaxHeaderBytes. Bytes
// read after the head fit in the buffer.
func (f *front1) moreHead() error {
	if f.long == nil {
		if err := f.more(); err != errBufferFull {
			return err
		}
		f.long = append(make([]byte, 0, 4*bufferSize), f.in[:]...)
		f.r, f.w = 0, 0
	}
	n, err := f.c.stream().Read(f.in[:])
	f.long = append(f.long, f.in[:n]...)
	if n > 0 {
		return nil
	}
	return err
}

// unusual returns why an unusual head is refused, or nil.
func unusual(r *h1.Request) error {
	switch {
	case r.Unusual&h1.UnusualPreface != 0:
		return errPreface
	case r.Unusual&h1.UnusualTarget != 0 && !hostValid(r):
		return errHost
	}
	return nil
}

var errPreface = &h1.Refusal{Status: 505, Reason: "HTTP/2 without TLS is not supported"}

var errHost = &h1.Refusal{Status: 400, Reason: "invalid Host"}

// hostValid reports whether the Host field contains a valid host. That is
// required even if the target contains the host (RFC 9112, 3.2).
func hostValid(req *h1.Request) bool {
	host, ok := req.Value("host")
	if !ok {
		return true // HTTP/1.0
	}
	_, _, err := hostname.Split(string(host))
	return err == nil
}

// lateHead responds to a head that is incomplete.
func (f *front1) lateHead(err error) step {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		f.begin()
		f.minor = 1
		f.x.reject(408, errLateHead, nil) // the buffer has moved
	}
	return end
}

var errLateHead = errors.New("the head of the request was not complete in time")

// refuse responds to a head that no lane may forward.
func (f *front1) refuse(err error) step {
	status := 400
	var refusal *h1.Refusal
	if errors.As(err, &refusal) {
		status = refusal.Status
	}
	f.begin()
	f.minor = 1 // the version may be unknown
	f.x.reject(status, err, &f.x.req)
	return linger
}
