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

// The state of a wire: the phase of its current use, plus generation times the
// number of uses.
const (
	idle uint64 = iota
	busy
	aborted

	phase      = 3
	generation = 4
)

// A wire is the connection below HTTP, and below TLS if there is one. Its
// deadlines are lazy, since setting one on the socket costs a lock and a timer:
// when the owner's deadline moves later, the socket keeps the earlier one, and
// gets the later one when that expires. Inside a callback of raw.Read, Read
// does not wait.
type wire struct {
	net.Conn
	raw   syscall.RawConn // nil if the socket cannot be read without waiting
	state atomic.Uint64   // generation and phase
	wrote atomic.Bool

	fd       uintptr
	inside   bool // in a callback of raw.Read, with fd
	detached bool // no longer the pool's: all calls go directly to Conn

	read, write deadline

	// a write gets this time again after bytes have moved; 0 means a fixed
	// deadline
	stall    time.Duration
	progress peek.Progress // of writes
}

// A deadline has the time that the owner wants, and the time set on the socket.
type deadline struct{ want, armed time.Time }

// later sets the owner's time, and reports whether the socket's may stay.
func (d *deadline) later(t time.Time) bool {
	d.want = t
	return d.armed.IsZero() && t.IsZero() ||
		!d.armed.IsZero() && (t.IsZero() || !d.armed.After(t))
}

// early reports whether the socket's deadline has passed, but not the owner's.
func (d *deadline) early() bool {
	now := time.Now()
	return !d.armed.IsZero() && !now.Before(d.armed) && (d.want.IsZero() || now.Before(d.want))
}

// errAgain says that a read would have to wait. It is temporary, so that
// crypto/tls continues after it.
var errAgain error = again{}

type again struct{}

func (again) Error() string   { return "pool: read would wait" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

// SetReadDeadline makes waiting reads fail at t; the zero time means never.
func (w *wire) SetReadDeadline(t time.Time) error {
	if w.detached {
		return w.Conn.SetReadDeadline(t)
	}
	if w.read.later(t) {
		return nil
	}
	return w.armRead()
}

// SetWriteDeadline makes waiting writes fail at t; the zero time means never.
func (w *wire) SetWriteDeadline(t time.Time) error {
	w.stall = 0
	return w.writeBy(t)
}

// SetWriteStall makes writes fail when the target has taken no byte for about
// d, counted from now; zero or less means never.
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

// SetDeadline sets both deadlines.
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

// rearmRead reports whether err is only a deadline that expired early. If so it
// sets the owner's deadline on the socket.
func (w *wire) rearmRead(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) && !w.aborted() && w.read.early() && w.armRead() == nil
}

// rearmWrite is rearmRead for writes. With a stall it also renews a deadline if
// bytes have moved.
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

// Mark implements the method that [peek.MarkOf] calls.
func (w *wire) Mark() peek.Mark { return w.progress.Mark(w.raw) }

// Read reads the bytes that are there, and waits for some unless in a callback.
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

// Write writes all of p. It hides early deadlines, since crypto/tls cannot
// continue after a failed write.
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

// abort wakes the owner if the use of that generation still goes on. It
// contains a panic in the program's connection type, since the goroutine serves
// other exchanges too.
func (w *wire) abort(gen uint64) {
	if !w.state.CompareAndSwap(gen+busy, gen+aborted) {
		return
	}
	defer func() {
		if recover() != nil {
			defer func() { _ = recover() }()
			w.Conn.Close() // this may wake the owner
		}
	}()
	_ = w.Conn.SetDeadline(longAgo())
}

// detach ends the use: its Lease has no effect any more, and deadlines are
// removed.
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
