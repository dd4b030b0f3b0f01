// Package tunnel copies bytes both ways between a client and an upstream after
// a protocol switch, and ends that cleanly: half-closes are passed on, idle
// tunnels are cut, and a drained WebSocket gets its Close frame between two
// frames.
//
//   - tunnel.go: both directions, and their end
//   - direction.go, buffer.go: one direction
//   - frames.go: where a WebSocket frame ends
package tunnel

import (
	"cmp"
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/peek"
)

// A Tunnel connects two connections for one Run. Client and Upstream are
// required.
type Tunnel struct {
	Client, Upstream Side

	// Idle closes both sides after so long without a byte in either direction,
	// or twice as long during a write. For a side whose socket peek.MarkOf does
	// not find, one write of up to 32 KiB must finish within that time. Zero or
	// less means no limit.
	Idle time.Duration

	// Grace limits the time after the end has begun. It applies to the Close
	// handshake of a drained WebSocket, and to the last bytes from a side that
	// cannot be told of the end or no longer reads. Zero means 5 seconds,
	// negative means none.
	Grace time.Duration

	// WebSocket means that the bytes are RFC 6455 frames, so that a drain ends
	// with 1001 (Going Away).
	WebSocket bool
}

// A Side is one end of a tunnel.
type Side struct {
	// Conn is owned by Run, which closes it; Close unblocks a Read or Write in
	// progress. A CloseWrite method, as TCP, TLS and unix connections have,
	// passes on a half-close. A SetDeadline method is used to remove old
	// deadlines.
	Conn io.ReadWriteCloser

	// Buffered holds bytes that were read from Conn before the switch. The
	// other side gets them first.
	Buffered []byte
}

// An End is what ended a tunnel first.
type End uint8

// The four ends of a tunnel.
const (
	ByClient   End = iota // the client closed or failed
	ByUpstream            // the upstream closed or failed
	ByIdle                // no byte moved for too long
	ByDrain               // the context was done
)

// String returns "client", "upstream", "idle" or "drain".
func (e End) String() string {
	return [...]string{"client", "upstream", "idle", "drain"}[e&3]
}

// A Result describes how a tunnel ended.
type Result struct {
	// bytes delivered to the other side, without our own Close frames
	FromClient, FromUpstream int64
	By                       End
	// error of the side that ended it; nil after a clean end of its stream
	Err error
}

// Run copies both ways until both directions have ended, one side fails, no
// byte moves for the idle limit, or ctx is done.
//
// The end of one side's stream is passed on as a half-close, and the other
// direction continues. If a half-close is impossible, the end of a WebSocket's
// upstream ends the tunnel; in other cases, and if a side takes no more bytes,
// the other direction gets the grace. When ctx is done, a WebSocket tunnel
// sends Close 1001 both ways, each at the next border between two frames, waits
// for both replies within the grace and closes. Any other tunnel closes
// immediately.
//
// Both sides are closed and no goroutine is left when Run returns.
func (t *Tunnel) Run(ctx context.Context) Result {
	r := &run{
		tunnel:   t,
		start:    time.Now(),
		outcomes: make(chan outcome, 2),
	}
	r.up = direction{run: r, from: ByClient, to: ByUpstream, src: t.Client, dst: t.Upstream.Conn}
	r.down = direction{run: r, from: ByUpstream, to: ByClient, src: t.Upstream, dst: t.Client.Conn}
	r.up.contained(func() {
		clearDeadline(t.Client.Conn)
		clearDeadline(t.Upstream.Conn)
		r.crept()
		r.work.Go(r.up.copy)
		r.work.Go(r.down.copy)
		r.watch(ctx)
	})
	r.close()
	r.work.Wait()
	return Result{FromClient: r.up.delivered, FromUpstream: r.down.delivered, By: r.by, Err: r.err}
}

// A run is one Run of a Tunnel: a goroutine that decides, and two that copy.
type run struct {
	tunnel   *Tunnel
	up, down direction
	outcomes chan outcome   // one from each direction
	work     sync.WaitGroup // every goroutine of the run

	start time.Time
	moved atomic.Int64 // when a byte last moved, as time since start
	marks [2]peek.Mark // marks of both sides at the last check

	draining atomic.Bool // both directions end at their next border

	first sync.Once // guards by and err
	by    End
	err   error
}

// watch returns when the tunnel is over.
func (r *run) watch(ctx context.Context) {
	var (
		drain = ctx.Done()
		limit <-chan time.Time
		idle  <-chan time.Time
	)
	if r.tunnel.Idle > 0 {
		idle = time.After(r.tunnel.Idle)
	}
	for over := 0; over < 2; {
		select {
		case o := <-r.outcomes:
			over++
			if o == broken {
				return
			}
			if o == lame {
				limit = r.bound(limit)
			}
		case <-drain:
			drain = nil
			r.settle(ByDrain, nil)
			if !r.tunnel.WebSocket {
				return
			}
			limit = r.bound(limit)
			r.draining.Store(true)
			r.work.Go(r.up.sayGoodbye)
			r.work.Go(r.down.sayGoodbye)
		case <-idle:
			if crept := r.crept(); crept && (r.up.writing.Load() || r.down.writing.Load()) {
				r.touch()
			}
			rest := r.tunnel.Idle - (time.Since(r.start) - time.Duration(r.moved.Load()))
			if rest <= 0 {
				r.settle(ByIdle, nil)
				return
			}
			idle = time.After(rest)
		case <-limit:
			return
		}
	}
}

// close closes both sides in parallel: a TLS side may take seconds to send
// close_notify to a stalled peer.
func (r *run) close() {
	r.work.Go(func() { r.down.contained(func() { _ = r.tunnel.Client.Conn.Close() }) })
	r.up.contained(func() { _ = r.tunnel.Upstream.Conn.Close() })
}

// settle records what ended the tunnel. Only the first call counts: later ones
// follow from it.
func (r *run) settle(by End, err error) {
	r.first.Do(func() { r.by, r.err = by, err })
}

// touch notes that bytes moved. The idle timer checks this when it fires, so
// that no timer is set per read.
func (r *run) touch() {
	if r.tunnel.Idle > 0 {
		r.moved.Store(int64(time.Since(r.start)))
	}
}

// crept reports whether bytes have left either side since the last call, even
// within a write in progress.
func (r *run) crept() bool {
	before := r.marks
	r.marks[0], _ = peek.MarkOf(r.tunnel.Client.Conn)
	r.marks[1], _ = peek.MarkOf(r.tunnel.Upstream.Conn)
	return r.marks != before
}

// bound starts the grace, unless that has begun.
func (r *run) bound(limit <-chan time.Time) <-chan time.Time {
	if limit != nil {
		return limit
	}
	return time.After(cmp.Or(r.tunnel.Grace, 5*time.Second))
}

// clearDeadline removes deadlines that the server or the dialer has left on a
// connection.
func clearDeadline(c io.ReadWriteCloser) {
	if d, ok := c.(interface{ SetDeadline(time.Time) error }); ok {
		_ = d.SetDeadline(time.Time{})
	}
}
