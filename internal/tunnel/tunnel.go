// Package tunnel moves bytes both ways between a client and an upstream after a
// protocol switch, and ends it well: half-closes pass through, idle tunnels are
// cut, and a drained WebSocket gets its Close frame between two frames.
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

// A Tunnel joins two connections for one Run. Client and Upstream are required.
type Tunnel struct {
	Client, Upstream Side

	// Idle closes both sides when no byte has moved in either direction for so
	// long, or twice that within a write. Of a side whose socket peek.MarkOf
	// does not find, one write of up to 32 KiB has to be taken within it. Zero
	// or less means no limit.
	Idle time.Duration

	// Grace bounds what is left to do once the end has begun: the Close
	// handshake of a drained WebSocket, and the words still to come from a side
	// that cannot be told, or does not listen, any more. Zero means 5 seconds,
	// less means none.
	Grace time.Duration

	// WebSocket says that the bytes are RFC 6455 frames, so that a drain ends
	// with 1001 (Going Away).
	WebSocket bool
}

// A Side is one end of a tunnel.
type Side struct {
	// Conn is owned by Run, which closes it; Close unblocks a Read or Write in
	// progress. A CloseWrite method, as TCP, TLS and unix connections have,
	// passes a half-close on; a SetDeadline method is used to clear deadlines
	// left over.
	Conn io.ReadWriteCloser

	// Buffered holds what was read from Conn before the switch. The other side
	// gets it first.
	Buffered []byte
}

// An End is who or what ended a tunnel first.
type End uint8

// The four ends of a tunnel.
const (
	ByClient   End = iota // the client closed, or failed
	ByUpstream            // the upstream closed, or failed
	ByIdle                // nothing moved for too long
	ByDrain               // the context was done
)

// String returns "client", "upstream", "idle" or "drain".
func (e End) String() string {
	return [...]string{"client", "upstream", "idle", "drain"}[e&3]
}

// A Result is how a tunnel went.
type Result struct {
	// bytes delivered to the other side; our own Close frames do not count
	FromClient, FromUpstream int64
	By                       End
	// what the side that ended it failed with; nil after a clean end of its
	// stream
	Err error
}

// Run copies both ways until both directions have ended, one side fails,
// nothing moves for the idle limit, or ctx is done.
//
// The end of one side's stream is passed on as a half-close, and the other
// direction goes on. Where that is not possible, the end of a WebSocket's
// upstream is the tunnel's; otherwise, and where a side takes no more bytes,
// the other direction gets the grace. When ctx is done, a WebSocket tunnel
// sends Close 1001 both ways, each at the next border between two frames, waits
// for both answers within the grace and closes; any other tunnel closes at
// once.
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
	clearDeadline(t.Client.Conn)
	clearDeadline(t.Upstream.Conn)
	r.work.Go(r.up.copy)
	r.work.Go(r.down.copy)
	r.crept()
	r.watch(ctx)
	r.close()
	r.work.Wait()
	return Result{FromClient: r.up.delivered, FromUpstream: r.down.delivered, By: r.by, Err: r.err}
}

// A run is one Run of a Tunnel: the goroutine that decides, and two that copy.
type run struct {
	tunnel   *Tunnel
	up, down direction
	outcomes chan outcome   // one from each direction
	work     sync.WaitGroup // every goroutine of the run

	start time.Time
	moved atomic.Int64 // when a byte last moved, as time since start
	marks [2]peek.Mark // of both sides, when they were last looked at

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

// close closes both sides, neither waiting for the other: a TLS side may take
// seconds to say goodbye to a stalled peer.
func (r *run) close() {
	r.work.Go(func() { _ = r.tunnel.Client.Conn.Close() })
	_ = r.tunnel.Upstream.Conn.Close()
}

// settle records what ended the tunnel. Only the first call counts: the rest is
// aftermath.
func (r *run) settle(by End, err error) {
	r.first.Do(func() { r.by, r.err = by, err })
}

// touch notes that bytes moved. The idle timer looks at it when it fires, so
// that no timer is set per read.
func (r *run) touch() {
	if r.tunnel.Idle > 0 {
		r.moved.Store(int64(time.Since(r.start)))
	}
}

// crept reports whether bytes have moved out of either side, within a write
// that goes on, since it was asked last.
func (r *run) crept() bool {
	before := r.marks
	r.marks[0], _ = peek.MarkOf(r.tunnel.Client.Conn)
	r.marks[1], _ = peek.MarkOf(r.tunnel.Upstream.Conn)
	return r.marks != before
}

// bound starts the grace unless it has begun.
func (r *run) bound(limit <-chan time.Time) <-chan time.Time {
	if limit != nil {
		return limit
	}
	return time.After(cmp.Or(r.tunnel.Grace, 5*time.Second))
}

// clearDeadline removes what the server or the dialer has left on a connection.
func clearDeadline(c io.ReadWriteCloser) {
	if d, ok := c.(interface{ SetDeadline(time.Time) error }); ok {
		_ = d.SetDeadline(time.Time{})
	}
}
