package serve

import (
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// A lookout notices the end of a connection by reading, while a handler serves
// a request that has been read to its end. It is used where the sweeper cannot
// peek.
type lookout struct {
	over chan struct{} // closed when the lookout is not needed any more
	done chan struct{} // closed when the fields below are set
	b    [1]byte       // first byte of the next request
	n    int           // number of bytes in b
}

// peeks reports whether the sweeper can see the client leave.
func (c *conn) peeks() bool { return canTry && c.socket != nil }

// lookOut starts a lookout if one is needed. That needs room for a byte of
// another request. The mu of the handler's body is held.
func (f *front1) lookOut(w *response) {
	if f == nil || f.c.peeks() || f.lookout != nil || f.r == 0 && f.w == len(f.in) {
		return
	}
	f.c.readBy(0)
	f.lookout = &lookout{over: make(chan struct{}), done: make(chan struct{})}
	go f.lookout.run(f.c, w)
}

func (l *lookout) run(c *conn, w *response) {
	defer close(l.done)
	for {
		err := l.read(c)
		if l.n > 0 {
			return
		}
		if !isTimeout(err) {
			time.AfterFunc(goodbyeTime, w.leave)
			return
		}
		select { // the handler's own deadline has passed: it may set another
		case <-l.over:
			return
		case <-time.After(exchange.SweepInterval):
		}
	}
}

// read reads the byte. A panic in a connection type of the embedding program
// ends only the connection: not recovered on this goroutine, it would end the
// program.
func (l *lookout) read(c *conn) (err error) {
	defer exchange.Contain("a connection", &err)
	l.n, err = c.stream().Read(l.b[:])
	return err
}

// looksOut reports whether a lookout runs.
func (f *front1) looksOut() bool { return f != nil && f.lookout != nil }

// comeBack ends the lookout, if there is one. It appends the byte that was read
// to the input buffer. The mu of the handler's body is held.
func (f *front1) comeBack() {
	if !f.looksOut() {
		return
	}
	l := f.lookout
	f.lookout = nil
	close(l.over)
	f.src.interrupt()
	<-l.done
	f.src.resume()
	if l.n > 0 {
		if f.w == len(f.in) {
			f.r, f.w = 0, copy(f.in[:], f.in[f.r:f.w])
		}
		f.w += copy(f.in[f.w:], l.b[:])
	}
}
