package serve

import (
	"cmp"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/hostproxy/hostproxy/internal/h2"
	"github.com/hostproxy/hostproxy/internal/peek"
)

// A writer2 holds what an HTTP/2 connection has to send. The conn2's mu guards
// it.
//
// Frames gather in out. One goroutine at a time writes out until it is empty,
// and releases the lock during each write. A body without room in out, or
// without a flow-control window, waits in its stream. Waiting bodies are
// appended in turns.
type writer2 struct {
	out     []byte // to be written next
	spent   []byte // memory of the last write, for out
	writing bool
	writes  int       // number of writes
	swept   int       // writes at the sweeper's last visit
	emitted int64     // time of the last write; used by the writing goroutine only
	mark    peek.Mark // mark of the write in progress, at the sweeper's last visit
	took    time.Time // when the client last read some of a write, or nothing was being written
	failed  error     // error of the first failed write
	queued  int       // bytes of control frames in out
	room    sync.Cond
	encoder h2.Encoder
	peer    h2.Settings
	window  h2.Window
	ready   *stream // first in the ring of streams whose bodies wait; nil if it is empty
}

// Limits of out and of writes.
const (
	mostOut     = 64 << 10 // beyond that, heads and bodies wait
	mostControl = 16 << 10
	// of a body per turn: with its head the frame fills a TLS record
	grant = h2.DefaultMaxFrame - h2.HeadSize
	// of the first two TLS records after a pause of slowStart
	firstRecord = 4 << 10
	// shortest pause after which TCP may fall back to slow start (RFC 5681,
	// 4.1)
	slowStart = time.Second
	// of writes in a row by a worker, before another goroutine takes over
	mostRounds = 4
	// smaller DATA and WINDOW_UPDATE frames may cost the client; see expense
	fairPiece = 1 << 10
)

// control sets out, to which a control frame was appended, and starts to write
// it. mu is held.
func (c *conn2) control(out []byte) {
	c.queued += len(out) - len(c.out)
	c.out = out
	c.hire()
}

// hire starts a goroutine that writes out, unless a write is in progress. mu is
// held.
func (c *conn2) hire() {
	if !c.writing && c.failed == nil && !c.over {
		c.writing = true
		c.workers.Add(1)
		go c.writeOut()
	}
}

func (c *conn2) writeOut() {
	defer c.workers.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.pump() {
	}
}

// write writes out and waiting bodies, unless a write is in progress. st is the
// calling stream, or nil. A stream with a write deadline must not wait for the
// client, so writeOut writes for it. mu is held, and released meanwhile.
func (c *conn2) write(st *stream) {
	switch {
	case c.writing || c.failed != nil || len(c.out) == 0 && c.ready == nil:
		return
	case st != nil && st.deadline.Load() != 0:
		c.hire()
		return
	}
	c.writing = true
	if c.running > 1 && st != nil { // lets other streams append their frames first
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
	if c.pump() { // a worker must not write for others forever
		c.workers.Add(1)
		go c.writeOut()
	}
}

// pump writes until nothing is left, at most mostRounds times, and reports
// whether something is left. mu is held and writing is set; writing stays set
// in that case.
func (c *conn2) pump() (more bool) {
	for rounds := 0; c.failed == nil; rounds++ {
		c.fill()
		if len(c.out) == 0 {
			break
		}
		if rounds == mostRounds {
			return true
		}
		b := c.out
		c.out, c.spent, c.queued = c.spent[:0], nil, 0
		c.writes++
		c.room.Broadcast()
		c.mu.Unlock()
		err := c.emit(b)
		c.mu.Lock()
		if c.spent = b[:0]; cap(b) > 2*mostOut {
			c.spent = nil
		}
		if err != nil {
			c.breakOff(err)
		}
	}
	c.writing = false
	c.room.Broadcast()
	return false
}

// emit writes b. After a pause the first TLS records are small: a client can
// use only whole records, and TCP sends little at first. A panic in the
// program's own connection type ends only that connection.
func (c *conn2) emit(b []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.c.panicked(p)
			err = net.ErrClosed
		}
	}()
	now := c.c.s.clock.Load()
	paused := now-c.emitted > int64(slowStart)
	c.emitted = now
	for range 2 {
		if !paused || c.c.tls == nil || len(b) <= firstRecord {
			break
		}
		if _, err := c.c.tls.Write(b[:firstRecord]); err != nil {
			return err
		}
		b = b[firstRecord:]
	}
	_, err = c.c.stream().Write(b)
	return err
}

// breakOff ends all writes with err, and stops the reader. mu is held.
func (c *conn2) breakOff(err error) {
	c.failed = err
	c.out = nil
	for _, st := range c.streams {
		st.writes.Signal()
	}
	c.room.Broadcast()
	c.judge(err)
}

// fill appends waiting bodies to out, in turns. mu is held.
func (c *conn2) fill() {
	for len(c.out) < mostOut && c.ready != nil && c.window > 0 {
		st := c.ready
		c.dequeue(st)
		c.appendBody(st, min(len(st.pend), grant))
		if len(st.pend) == 0 {
			st.writes.Signal()
		} else {
			c.unblock(st)
		}
	}
}

// appendBody appends up to n bytes of st.pend to out, as far as both
// flow-control windows allow. mu is held.
func (c *conn2) appendBody(st *stream, n int) {
	if n = min(n, int(st.window), int(c.window)); n <= 0 {
		return
	}
	p := st.pend[:n]
	st.pend = st.pend[n:]
	c.out = h2.AppendHead(c.out, h2.Data, st.spend(n), st.id, n)
	c.out = append(c.out, p...)
}

// spend takes n bytes from both flow-control windows, which must have them, and
// returns the flags of the DATA frame. mu is held.
func (st *stream) spend(n int) h2.Flags {
	c := st.c
	h2.Take(n, &st.window, &c.window)
	c.opens += 2 * int64(n)
	st.moved = c.c.s.now()
	if n >= fairPiece || len(st.pend) == 0 {
		c.allow(2)
	}
	if st.left -= int64(n); st.left == 0 && st.sized {
		st.endAnswer()
		return h2.FlagEndStream
	}
	return 0
}

// unblock adds st to the ring, if it has a body to send and a window. mu is
// held.
func (c *conn2) unblock(st *stream) {
	if len(st.pend) == 0 || st.window <= 0 || st.after != nil {
		return
	}
	if c.ready == nil {
		st.after, st.before = st, st
		c.ready = st
	} else {
		first, last := c.ready, c.ready.before
		st.after, st.before = first, last
		first.before, last.after = st, st
	}
}

// kick starts a write if waiting bodies have a window. mu is held.
func (c *conn2) kick() {
	if c.ready != nil && c.window > 0 && !c.writing {
		c.hire()
	}
}

// dequeue takes a stream out of the ring, if it is there. mu is held.
func (c *conn2) dequeue(st *stream) {
	if st.after == nil {
		return
	}
	if c.ready == st {
		c.ready = st.after
	}
	if c.ready == st {
		c.ready = nil
	}
	st.before.after, st.after.before = st.after, st.before
	st.after, st.before = nil, nil
}

// roomFor waits until out has room for a header block. mu is held, and released
// meanwhile.
func (c *conn2) roomFor(st *stream) error {
	for {
		switch {
		case c.failed != nil:
			return c.failed
		case st.fault != nil:
			return st.fault
		case len(c.out) < mostOut:
			return nil
		case !c.writing:
			c.write(st)
		default:
			c.room.Wait()
		}
	}
}

// send appends p, the next part of a response body, to out, and waits until all
// of it is there. mu is held, and released meanwhile.
func (c *conn2) send(st *stream, p []byte) (n int, err error) {
	if st.ended {
		return len(p), st.fault
	}
	st.pend, st.moved = p, c.c.s.now()
	for {
		switch {
		case c.failed != nil:
			err = c.failed
		case st.fault != nil:
			err = st.fault
		case len(st.pend) == 0:
			return len(p), nil
		case c.ready == nil && c.window > 0 && st.window > 0 && len(c.out) < mostOut:
			c.appendBody(st, min(len(st.pend), grant))
			continue
		default:
			if c.unblock(st); !c.writing && (len(c.out) > 0 || c.ready != nil && c.window > 0) {
				c.write(st)
			} else {
				st.writes.Wait()
			}
			continue
		}
		n = len(p) - len(st.pend)
		c.dequeue(st)
		st.pend = nil
		return n, err
	}
}

// sendPage is send of page[HeadSize:HeadSize+n]. It writes without a copy if
// nothing else is to be sent: each frame's head overwrites the bytes before it,
// which are free or sent. mu is held, and released meanwhile.
func (c *conn2) sendPage(st *stream, page []byte, n int) error {
	for n > 0 {
		k := min(n, grant)
		if c.writing || c.ready != nil || c.failed != nil || st.fault != nil || int(c.window) < k || int(st.window) < k {
			_, err := c.send(st, page[h2.HeadSize:h2.HeadSize+n])
			return err
		}
		if len(c.out) > 0 {
			c.write(st)
			continue
		}
		h2.PutHead(page, h2.Data, st.spend(k), st.id, k)
		c.writing = true
		c.mu.Unlock()
		err := c.emit(page[:h2.HeadSize+k])
		c.mu.Lock()
		c.writing = false
		c.room.Broadcast()
		if err != nil {
			c.breakOff(err)
			return err
		}
		page, n = page[k:], n-k
	}
	return nil
}

// stalled reports whether the client has read nothing of what st has to send
// for longer than allowed. mu is held.
func (st *stream) stalled(now time.Time) bool {
	return len(st.pend) > 0 && now.Sub(st.progress()) > st.patient()
}

// patient returns how long the client may read nothing.
func (st *stream) patient() time.Duration { return cmp.Or(time.Duration(st.stall.Load()), writeStall) }

// progress returns when the client last made room for the stream's bytes. If
// both windows are open, that is when it last read from the connection. mu is
// held.
func (st *stream) progress() time.Time {
	if st.window > 0 && st.c.window > 0 && st.c.took.After(st.moved) {
		return st.c.took
	}
	return st.moved
}

// look notes whether the client reads what is written. If it has read nothing
// for longer than any of its streams allows, the write fails. A stream that was
// reset counts only if no other runs; a stream that has already timed out does
// not count. mu is held.
func (c *conn2) look(now time.Time) {
	if !c.writing {
		c.took = now
		return
	}
	if mark := c.c.Mark(); mark != c.mark {
		c.mark, c.took = mark, now
		return
	}
	var patience, reset time.Duration
	for _, st := range c.streams {
		switch st.fault {
		case nil:
			patience = max(patience, st.patient())
		case errStalled:
		default:
			reset = max(reset, st.patient())
		}
	}
	if len(c.streams) > 0 && now.Sub(c.took) > cmp.Or(patience, reset) {
		_ = c.c.SetWriteDeadline(now)
	}
}

// errStalled is the error of a write without progress for too long, or at its
// deadline.
var errStalled = os.ErrDeadlineExceeded
