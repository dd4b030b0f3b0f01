package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// refusalPause is the least time between two log lines about one host's
// refused handshakes.
const refusalPause = time.Minute

var errManyWaiters = errors.New("too many handshakes are waiting for certificates")

// A lobby is where handshakes wait for the certificates of their hosts. It has
// room for a number of them, maxWaiters, and for no more than maxHostWaiters of
// one host. When it is full, one for a host with few waiters takes the place of
// the latest one for the host with the most: no host keeps another's handshakes
// from waiting.
type lobby struct {
	ctx context.Context // ends all waits
	log *slog.Logger

	mu     sync.Mutex
	closed bool
	total  int
	lines  map[string]*line // by host
}

// A line is the handshakes that wait for one host's certificate, and what is
// known of those that were refused lately. The lobby's lock guards it.
type line struct {
	host     string
	waiters  []*waiter // the latest last
	refused  int       // until none has been for refusalPause
	unlogged int
	report   *time.Timer // logs those; nil while none was refused
}

// A refusal is a refused handshake that is to be logged.
type refusal struct {
	host    string
	waiting int
}

// A waiter is a handshake that waits.
type waiter struct {
	line *line
	out  chan struct{} // closed when it has to give its place up
}

func newLobby(ctx context.Context, log *slog.Logger) *lobby {
	return &lobby{ctx: ctx, log: log, lines: make(map[string]*line)}
}

// enter adds a waiter for the certificate of host, which leaves after its wait;
// or returns an error if there is no room.
func (l *lobby) enter(host string) (*waiter, error) {
	w, refused := l.acquire(host)
	if refused != nil {
		l.warn(refused.host, 1, refused.waiting)
	}
	if w == nil {
		return nil, errManyWaiters
	}
	return w, nil
}

// acquire adds a waiter, nil if there is no room, and returns the refusal that
// is to be logged, if any: of this handshake or of the one whose place it
// takes.
func (l *lobby) acquire(host string) (*waiter, *refusal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.lines[host]
	if n == nil {
		n = &line{host: host}
		l.lines[host] = n
	}
	var refused *refusal
	if l.total == maxWaiters {
		refused = l.makeRoom(n)
	}
	if len(n.waiters) == maxHostWaiters || l.total == maxWaiters {
		return nil, l.refuse(n)
	}
	w := &waiter{line: n, out: make(chan struct{})}
	n.waiters = append(n.waiters, w)
	l.total++
	return w, refused
}

// makeRoom takes the latest waiter of the longest line out, if that line is
// longer than n will be. l.mu is held.
func (l *lobby) makeRoom(n *line) *refusal {
	longest := n
	for _, other := range l.lines {
		if len(other.waiters) > len(longest.waiters) {
			longest = other
		}
	}
	last := len(longest.waiters) - 1
	if last <= len(n.waiters) {
		return nil
	}
	w := longest.waiters[last]
	longest.waiters = slices.Delete(longest.waiters, last, last+1)
	l.total--
	close(w.out)
	return l.refuse(longest)
}

// release takes w out, if it is still there.
func (l *lobby) release(w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(w.line.waiters, w)
	if i < 0 {
		return
	}
	w.line.waiters = slices.Delete(w.line.waiters, i, i+1)
	l.total--
	l.tidy(w.line)
}

// tidy forgets a line without waiters of which none was refused lately. l.mu is
// held.
func (l *lobby) tidy(n *line) {
	if len(n.waiters) == 0 && n.report == nil {
		delete(l.lines, n.host)
	}
}

// refuse counts a refused handshake, and returns it if it is the first lately.
// l.mu is held.
func (l *lobby) refuse(n *line) *refusal {
	n.refused++
	if n.report != nil || l.closed {
		n.unlogged++
		return nil
	}
	n.report = time.AfterFunc(refusalPause, func() { l.sum(n) })
	return &refusal{n.host, len(n.waiters)}
}

// sum logs the handshakes that were refused since the last line.
func (l *lobby) sum(n *line) {
	l.mu.Lock()
	refused, waiting := n.unlogged, len(n.waiters)
	n.unlogged = 0
	switch {
	case l.closed:
		refused = 0
	case refused > 0:
		n.report.Reset(refusalPause)
	default:
		n.report, n.refused = nil, 0
		l.tidy(n)
	}
	l.mu.Unlock()
	if refused > 0 {
		l.warn(n.host, refused, waiting)
	}
}

func (l *lobby) warn(host string, refused, waiting int) {
	l.log.Warn("handshakes refused: too many are waiting for the certificate of this host",
		"host", host, "refused", refused, "waiting", waiting)
}

// A crowd is how many handshakes wait for a certificate, and how many were
// refused lately.
type crowd struct{ waiting, refused int }

// crowds returns those of the hosts that have any.
func (l *lobby) crowds() map[string]crowd {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[string]crowd, len(l.lines))
	for host, n := range l.lines {
		all[host] = crowd{len(n.waiters), n.refused}
	}
	return all
}

// count adds to a status the handshakes that wait for its host, and those that
// were refused lately.
func (l *lobby) count(s Status) Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.lines[s.Host]; n != nil {
		s.Waiting, s.Refused = len(n.waiters), n.refused
	}
	return s
}

// close stops the log lines to come. The waiters have their own end.
func (l *lobby) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, n := range l.lines {
		if n.report != nil {
			n.report.Stop()
		}
	}
}

// pause runs wait, for the certificate of host, while the handshake has no
// part in the server's bounds.
func (l *lobby) pause(hello *tls.ClientHelloInfo, host string, patience time.Duration,
	wait func(context.Context, *waiter) (*tls.Certificate, error)) (*tls.Certificate, error) {
	w, err := l.enter(host)
	if err != nil {
		return nil, err
	}
	defer l.release(w) // also after a panic in an issuer of the program
	p, ok := hello.Conn.(pauser)
	if !ok {
		p = foreign{hello}
	}
	ctx, end := p.Pause(patience)
	cert, err := wait(ctx, w)
	l.release(w)
	if err = end(err); err != nil {
		return nil, err
	}
	return cert, nil
}

// until waits for done, and returns an error if the wait ends before.
func (l *lobby) until(ctx context.Context, w *waiter, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-w.out:
		return errManyWaiters
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-l.ctx.Done():
		return errClosed
	}
}
