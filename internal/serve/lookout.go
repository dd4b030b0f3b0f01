package serve

import (
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// A lookout waits for the end of a connection at which the sweeper cannot peek, by
// reading, while a handler serves a request that has been read to its end.
type lookout struct {
	over chan struct{} // closed when the lookout is not needed any more
	done chan struct{} // closed when what follows is known
	b    [1]byte       // the beginning of another request
	n    int           // bytes of b
}

// peeks reports whether the sweeper can see the client leave.
func (c *conn) peeks() bool { return canTry && c.socket != nil }

// lookOut begins to look out for the end of the connection if the sweeper cannot, and
// if there is room for a byte of another request. The body has been read to its end,
// and its mu is held.
func (a *adapter) lookOut() {
	if f := a.f1; a.c.peeks() || a.lookout != nil || f.r == 0 && f.w == len(f.in) {
		return
	}
	a.c.readBy(0)
	a.lookout = &lookout{over: make(chan struct{}), done: make(chan struct{})}
	go a.lookout.run(a.c, a.w)
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
		select { // a deadline of the handler's has passed: maybe it sets another
		case <-l.over:
			return
		case <-time.After(exchange.SweepInterval):
		}
	}
}

// read reads the byte. A panic in a connection type of the embedding program ends the
// connection: on this goroutine it would end the program.
func (l *lookout) read(c *conn) (err error) {
	defer exchange.Contain("a connection", &err)
	l.n, err = c.stream().Read(l.b[:])
	return err
}

// comeBack ends lookOut. What was read goes behind what else waits to be parsed. The
// body's mu is held.
func (a *adapter) comeBack() {
	l := a.lookout
	if l == nil {
		return
	}
	a.lookout = nil
	s := a.f.body()
	close(l.over)
	s.interrupt()
	<-l.done
	s.resume()
	if f := a.f1; l.n > 0 {
		if f.w == len(f.in) {
			f.r, f.w = 0, copy(f.in[:], f.in[f.r:f.w])
		}
		f.w += copy(f.in[f.w:], l.b[:])
	}
}
