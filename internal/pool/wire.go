package pool

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hostproxy/hostproxy/internal/peek"
)

// The state of a wire: the phase of its current use, and a count of uses.
const (
	idle uint64 = iota
	busy
	aborted

	phase      = 3
	generation = 4
)

// A wire is the connection below HTTP, and below TLS if there is one. Its
// deadlines are lazy: one that moves later is left as it is and moved when it
// expires early, since arming costs a lock and a timer. Inside a callback of
// raw.Read its Read does not wait.
type wire struct {
	net.Conn
	raw   syscall.RawConn // nil where a socket cannot be read without waiting
	state atomic.Uint64   // generation and phase
	wrote atomic.Bool

	fd       uintptr
	inside   bool // in a callback, with fd
	detached bool // no longer ours: everything goes straight to Conn

	read, write deadline

	// what want of write is renewed by when bytes move; 0 means that it is not
	stall    time.Duration
	progress peek.Progress // of writes
}

// A deadline is what the owner wants and what the socket was told.
type deadline struct{ want, armed time.Time }

// later reports whether the socket need not be told of t.
func (d *deadline) later(t time.Time) bool {
	d.want = t
	return d.armed.IsZero() && t.IsZero() ||
		!d.armed.IsZero() && (t.IsZero() || !d.armed.After(t))
}

// early reports whether the socket's deadline has come, and before the owner's.
func (d *deadline) early() bool {
	now := time.Now()
	return !d.armed.IsZero() && !now.Before(d.armed) && (d.want.IsZero() || now.Before(d.want))
}

// errAgain says that a read would have to wait. It is temporary, so crypto/tls
// goes on after it.
var errAgain error = again{}

type again struct{}

func (again) Error() string   { return "pool: read would wait" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

// SetReadDeadline makes reads that wait fail at t; the zero time is never.
func (w *wire) SetReadDeadline(t time.Time) error {
	if w.detached {
		return w.Conn.SetReadDeadline(t)
	}
	if w.read.later(t) {
		return nil
	}
	return w.armRead()
}

// SetWriteDeadline makes writes that wait fail at t; the zero time is never.
func (w *wire) SetWriteDeadline(t time.Time) error {
	w.stall = 0
	return w.writeBy(t)
}

// SetWriteStall makes writes fail once the target has taken no byte for about
// d, counted from now; zero or less is never.
func (w *wire) SetWriteStall(d time.Duration) error {
	w.stall = max(d, 0)
	if w.stall == 0 {
		return w.writeBy(time.Time{})
	}
	return w.writeBy(time.Now().Add(d))
}

func (w *wire) writeBy(t time.Time) error {
	if w.detached {
		return w.Conn.SetWriteDeadline(t)
	}
	if w.write.later(t) {
		return nil
	}
	return w.armWrite()
}

// SetDeadline is both.
func (w *wire) SetDeadline(t time.Time) error {
	return errors.Join(w.SetReadDeadline(t), w.SetWriteDeadline(t))
}

func (w *wire) armRead() error {
	w.read.armed = w.read.want
	return errors.Join(w.Conn.SetReadDeadline(w.read.want), w.stayAborted())
}

func (w *wire) armWrite() error {
	w.write.armed = w.write.want
	return errors.Join(w.Conn.SetWriteDeadline(w.write.want), w.stayAborted())
}

// stayAborted repeats an abort that a new deadline may have undone.
func (w *wire) stayAborted() error {
	if !w.aborted() {
		return nil
	}
	return w.Conn.SetDeadline(longAgo())
}

// rearmRead reports whether err is only a deadline that expired early, and then
// arms the one that is wanted.
func (w *wire) rearmRead(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) && !w.aborted() && w.read.early() && w.armRead() == nil
}

// rearmWrite is rearmRead for writes. A deadline that came while bytes moved is
// renewed.
func (w *wire) rearmWrite(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) || w.aborted() {
		return false
	}
	if !w.write.early() {
		if w.stall == 0 || !w.progress.Moved(w.raw) {
			return false
		}
		w.write.want = time.Now().Add(w.stall)
	}
	return w.armWrite() == nil
}

// Mark implements what [peek.MarkOf] asks for.
func (w *wire) Mark() peek.Mark { return w.progress.Mark(w.raw) }

// Read reads what is there, and waits for it unless in a callback.
func (w *wire) Read(p []byte) (int, error) {
	if w.inside {
		return readNow(w.fd, p)
	}
	for {
		n, err := w.Conn.Read(p)
		if n > 0 || err == nil || w.detached || !w.rearmRead(err) {
			return n, err
		}
	}
}

// Write writes all of p. It hides early deadlines: crypto/tls cannot go on
// after a failed write.
func (w *wire) Write(p []byte) (total int, err error) {
	for {
		n, err := w.Conn.Write(p[total:])
		if total += n; n > 0 {
			w.wrote.Store(true)
			w.progress.Wrote(n)
		}
		if err == nil || w.detached || !w.rearmWrite(err) {
			return total, err
		}
	}
}

func (w *wire) aborted() bool { return w.state.Load()&phase == aborted }

// abort wakes the owner if the use of that generation is still going on. A
// panic in a connection type of the embedding program stays here, because the
// goroutine serves others, too.
func (w *wire) abort(gen uint64) {
	if !w.state.CompareAndSwap(gen+busy, gen+aborted) {
		return
	}
	defer func() {
		if recover() != nil {
			defer func() { _ = recover() }()
			w.Conn.Close() // which may wake the owner
		}
	}()
	_ = w.Conn.SetDeadline(longAgo())
}

// detach ends the use: leases lose their hold, deadlines go.
func (w *wire) detach() {
	w.detached = true
	if s := w.state.Load(); s&phase == busy {
		w.state.CompareAndSwap(s, s+generation)
	}
	if w.read != (deadline{}) || w.write != (deadline{}) {
		_ = w.Conn.SetDeadline(time.Time{})
	}
}

func longAgo() time.Time { return time.Unix(1, 0) }
