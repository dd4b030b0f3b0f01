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

// refusalPause is the minimum time between two log lines about refused
// handshakes of one host.
const refusalPause = time.Minute

var errManyWaiters = errors.New("too many handshakes are waiting for certificates")

// A lobby holds the handshakes that wait for the certificates of their hosts:
// at most maxWaiters, and at most maxHostWaiters for one host. When it is full,
// a handshake for a host with few waiters replaces the latest one of the host
// with the most: no host keeps another's handshakes out.
type lobby struct {
	ctx context.Context // its cancellation ends all waits
	log *slog.Logger

	mu     sync.Mutex
	closed bool
	total  int
	lines  map[string]*line // by host
}

// A line is the waiting handshakes of one host, and the number of recently
// refused ones. The lobby's lock guards it.
type line struct {
	host     string
	waiters  []*waiter // the latest last
	refused  int       // reset after refusalPause without a refusal
	unlogged int
	report   *time.Timer // logs unlogged ones; nil without recent refusals
}

// A refusal is a refused handshake to be logged.
type refusal struct {
	host    string
	waiting int
}

// A waiter is a waiting handshake.
type waiter struct {
	line *line
	out  chan struct{} // closed when it must leave
}

func newLobby(ctx context.Context, log *slog.Logger) *lobby {
	return &lobby{ctx: ctx, log: log, lines: make(map[string]*line)}
}

// enter adds a waiter for the certificate of host, which must be released after
// its wait. It returns an error if there is no room.
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

// acquire adds a waiter; it returns nil if there is no room. It also returns
// the refusal to be logged, if any: of this handshake, or of the one that it
// replaces.
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

// makeRoom removes the latest waiter of the longest line, if that line is
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

// release removes w, if it is still there.
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

// tidy removes a line without waiters and without recent refusals. l.mu is
// held.
func (l *lobby) tidy(n *line) {
	if len(n.waiters) == 0 && n.report == nil {
		delete(l.lines, n.host)
	}
}

// refuse counts a refused handshake, and returns a refusal if it is the first
// one recently. l.mu is held.
func (l *lobby) refuse(n *line) *refusal {
	n.refused++
	if n.report != nil || l.closed {
		n.unlogged++
		return nil
	}
	n.report = time.AfterFunc(refusalPause, func() { l.sum(n) })
	return &refusal{n.host, len(n.waiters)}
}

// sum logs the handshakes refused since the last log line.
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
// refused recently.
type crowd struct{ waiting, refused int }

// crowds returns the crowd of each host that has one.
func (l *lobby) crowds() map[string]crowd {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[string]crowd, len(l.lines))
	for host, n := range l.lines {
		all[host] = crowd{len(n.waiters), n.refused}
	}
	return all
}

// count adds to a status the numbers of waiting and recently refused handshakes
// of its host.
func (l *lobby) count(s Status) Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.lines[s.Host]; n != nil {
		s.Waiting, s.Refused = len(n.waiters), n.refused
	}
	return s
}

// close stops future log lines. Waiters end by themselves.
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

// pause runs wait, which waits for the certificate of host. Meanwhile the
// server's handshake limits do not apply.
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

// until waits for done, and returns an error if the wait ends earlier.
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
