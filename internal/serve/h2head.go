package serve

import (
	"time"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/h2"
	"github.com/hostproxy/hostproxy/internal/header"
)

// headers handles a piece of a header block.
func (c *conn2) headers(f *h2.Frame) error {
	if f.Type == h2.Headers && f.Begins {
		c.ending = f.Flags&h2.FlagEndStream != 0
	}
	block, done, err := c.block.Add(f)
	if err != nil {
		return err
	}
	if !done {
		if c.owed.IsZero() { // no lock: only the reader sets it now
			c.mu.Lock()
			c.owed = time.Now()
			c.mu.Unlock()
		}
		return nil
	}
	c.mu.Lock()
	c.owed = time.Time{}
	st := c.streams[f.Stream]
	gone := st != nil && st.gone.Load()
	c.mu.Unlock()
	switch {
	case gone:
		return errClosed
	case st != nil:
		return c.trailers(f.Stream, block)
	}
	return c.open(f.Stream, block)
}

// open opens a stream for a request, unless admits refuses it.
func (c *conn2) open(id uint32, block []byte) error {
	c.mu.Lock()
	wanted, err := c.admits(id)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if !wanted {
		return c.ignore(block)
	}
	st := streams.Get().(*stream)
	st.list.MaxSize, st.list.EndStream = c.block.MaxSize, c.ending
	if err := c.coding.Decode(&st.list, block); err != nil {
		streams.Put(st)
		return err
	}
	st.odd, st.talk, st.refusal = false, false, nil
	err = st.list.Request(&st.x.req)
	switch err.(type) {
	case nil:
	case *h2.Fault, *h1.Refusal:
		st.refusal = err
	default:
		st.odd = true
	}
	st.talk = isGRPC(&st.x.req) || st.x.req.Protocol != nil
	c.mu.Lock()
	defer c.mu.Unlock()
	c.allow(2)
	st.open(c, id, c.ending)
	c.running++
	c.quiet, c.rested = time.Time{}, false
	c.streams[id] = st
	if c.ending {
		c.start(st)
	} else {
		c.held = append(c.held, st)
	}
	_, st.broken = err.(*h2.Fault)
	return c.reproach(st)
}

// letGo starts the held streams: the input buffer has no more DATA for them.
func (c *conn2) letGo() {
	if len(c.held) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, st := range c.held {
		c.start(st)
		c.held[i] = nil
	}
	c.held = c.held[:0]
}

// admits reports whether a stream may be opened. It refuses streams beyond the
// limits. An error ends the connection. mu is held.
func (c *conn2) admits(id uint32) (wanted bool, err error) {
	switch {
	case id%2 == 0:
		return false, errStreamID
	case id <= c.opened:
		switch s := c.closed.find(id); {
		case s == nil:
			return false, errStreamID
		case s.left == sentAll:
			return false, errClosed
		}
		return false, c.charge()
	}
	c.opened = id
	if c.stage == drainLast { // the client may not have read the GOAWAY yet
		c.closed.add(closedStream{id, streamWindow})
		return false, c.charge()
	}
	if c.running-c.answered < maxStreams && c.running < 2*maxStreams && c.heads < maxHeads {
		return true, nil
	}
	c.closed.add(closedStream{id, streamWindow})
	c.control(h2.AppendRSTStream(c.out, id, h2.RefusedStream))
	return false, c.spend(1)
}

// ignore decodes a header block and drops it: later blocks depend on its HPACK
// state.
func (c *conn2) ignore(block []byte) error {
	if c.spare == nil {
		c.spare = new(h2.List)
	}
	c.spare.MaxSize = c.block.MaxSize
	defer c.spare.Trim()
	return c.coding.Decode(c.spare, block)
}

// trailers ends a request with its trailer section.
func (c *conn2) trailers(id uint32, block []byte) error {
	list := &h2.List{MaxSize: c.block.MaxSize}
	if err := c.coding.Decode(list, block); err != nil {
		return err
	}
	fields, err := list.Trailers()
	if !c.ending {
		err = errTrailersGoOn
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.streams[id]
	switch {
	case st == nil:
		return c.charge()
	case st.src.sent():
		return errClosed
	case st.broken:
		return c.charge()
	case err != nil:
		st.src.fail(&h1.Refusal{Status: 400, Reason: "invalid trailers"})
	default:
		st.src.finish(fields, nil)
	}
	return c.reproach(st)
}

var errTrailersGoOn = &h2.Fault{Code: h2.ProtocolError, Stream: true, Reason: "trailers do not end the stream"}

// isGRPC reports whether a request is gRPC.
func isGRPC(r *h1.Request) bool {
	const name, kind = "content-type", "application/grpc"
	for i := range r.Fields {
		if f := &r.Fields[i]; len(f.Name) == len(name) && len(f.Value) >= len(kind) && string(f.Name) == name {
			return header.EqualFold(f.Value[:len(kind)], kind)
		}
	}
	return false
}

// A closedStream is a stream that has ended.
type closedStream struct {
	id   uint32
	left int32 // bytes of its body that may still arrive; sentAll if the client has ended it
}

// sentAll means that no more DATA of a stream may arrive.
const sentAll = -1

// closedStreams are the last mostClosed streams that have ended.
type closedStreams struct {
	last []closedStream
	n    int          // number of all streams that have ended
	lost closedStream // what find returns for older ones
}

// mostClosed is more than maxStreams.
const mostClosed = 256

// add notes that a stream has ended.
func (s *closedStreams) add(st closedStream) {
	if len(s.last) < mostClosed {
		s.last = append(s.last, st)
	} else {
		s.last[s.n%mostClosed] = st
	}
	s.n++
}

// find returns a stream that has ended, valid until the next call, or nil. An
// unknown stream may be older than those in s, and may have ended before its
// body.
func (s *closedStreams) find(id uint32) *closedStream {
	for i := range s.last {
		if s.last[i].id == id {
			return &s.last[i]
		}
	}
	if s.n <= mostClosed {
		return nil
	}
	s.lost = closedStream{id: id}
	return &s.lost
}
