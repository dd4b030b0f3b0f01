// Package serve owns the front connections: accepting, handshakes, the two
// lanes, limits and drain.
//
//   - serve.go, retire.go: accepting connections, and the drain, also after a
//     hand-over
//   - conn.go, idle.go: one connection, and its wait for a request
//   - budget.go: connections per client, and what was refused
//   - bounds.go, places.go: limits that change while servers run
//   - sweeper.go: what the sweeper sees of an exchange, and when it ends it
//   - proxied.go: connections that begin with a header of the PROXY protocol
//   - handshake.go, carried.go: TLS, and connections that are passed on
//     undecrypted
//   - requests.go: the requests of an HTTP/1.x connection: a head, and the lane
//     that serves it
//   - fastlane.go: the fast lane: its view of the router, and an exchange
//   - fastlane_request.go, fastlane_hedge.go: a request to targets until one
//     responds
//   - fastlane_record.go: the record of an exchange
//   - fastlane_introduce.go: the PROXY header for targets
//   - fastlane_hooks.go: the program's hooks at the beginning of exchanges and
//     attempts
//   - fastlane_upload.go, fastlane_response.go, fastlane_page.go: bodies, and
//     pages in place of them
//   - front.go, source.go: a response and a request body, in any version of
//     HTTP
//   - front1.go, source1.go: the same in HTTP/1.x
//   - h2conn.go, h2head.go, h2writer.go, h2drain.go, h2budget.go: an HTTP/2
//     connection: frames, header blocks, writes, drain and workers, limits of
//     its cost
//   - h2stream.go, h2source.go, h2client.go: the same in HTTP/2: a stream
//   - adapter.go, adapter_request.go, adapter_response.go, adapter_trailers.go,
//     adapter_relay.go, lifetime.go, lookout.go: the handler lane: a front as
//     an http.Handler sees it
//   - sock_unix.go, sock_other.go: peeking at sockets, and its replacement
//     elsewhere
//   - sendfile.go: files to clients
//   - entrance.go, unixsocket.go, inherited.go: the listeners of servers that
//     serve together; unix sockets; inherited sockets
//   - companion.go, companionmethods.go, altsvc.go, altsvcvalue.go: servers of
//     the program's own beside ours, and their Alt-Svc
package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/peek"
)

// A Server serves one listener. Durations and limits of zero mean no limit. It
// serves once.
type Server struct {
	Handler http.Handler // the handler lane
	TLS     *tls.Config  // nil serves plain HTTP
	Log     *slog.Logger

	ReadHeaderTimeout time.Duration // from the first byte of a request to the end of its head
	IdleTimeout       time.Duration // between requests on a connection
	HandshakeTimeout  time.Duration
	DrainTimeout      time.Duration
	HandOverTimeout   time.Duration // how long connections stay after Handed
	MaxHeaderBytes    int
	MaxConns          int
	MaxHandshakes     int
	H2C               bool    // accept HTTP/2 without TLS, by prior knowledge
	Lane              *Lane   // nil lets Handler serve everything
	Role              string  // of the listener, for the status page
	AltSvc            *AltSvc // for responses over TLS; nil means none
	// may be shared with other servers; nil means one of its own, without
	// limits
	Budget *Budget

	// Handed is done when another process serves the listener; nil means never.
	Handed context.Context

	// Deaf is called when Serve has closed its listener; it may be nil.
	Deaf func()

	http       *http.Server    // passed to handlers; it serves nothing
	base       context.Context // parent of request contexts
	stamp      atomic.Pointer[stamp]
	bounds     atomic.Pointer[Bounds]
	challenges challenges
	draining   context.Context
	// done no later than draining: idle connections accept no new requests
	retiring context.Context
	addr     net.Addr

	mu    sync.Mutex
	conns map[*conn]struct{}
	gone  chan struct{} // closed when draining and conns is empty
	open  atomic.Int64

	clock   atomic.Int64 // unix nanoseconds, set by the sweeper
	sweeper sync.WaitGroup
}

// writeStall is how long a write to a client may make no progress.
const writeStall = time.Minute

// ErrDrainTimeout is returned by Serve if connections had to be cut.
var ErrDrainTimeout = errors.New("drain timeout: the remaining connections were closed")

// Serve accepts connections from ln until ctx is done, then drains: it stops
// accepting, lets requests finish, closes upgraded connections politely, and
// cuts the remaining ones at DrainTimeout. It closes ln and returns nil after a
// clean drain. If Handed is done, it also stops accepting, but upgraded
// connections and streaming responses continue until ctx is done or
// DrainTimeout has passed: see retire.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	drain, retire := s.start(ln)
	defer drain()
	swept := make(chan struct{})
	s.clock.Store(time.Now().UnixNano())
	s.sweeper.Add(1)
	go s.sweep(swept)

	accepting, stop := s.accepting(ctx, ln)
	defer stop()
	err := s.accept(accepting, ln)
	ln.Close()
	if s.Deaf != nil {
		s.Deaf()
	}
	limit := s.limit().DrainTimeout
	if err == nil && s.handed() {
		limit = s.retire(ctx, retire)
	}
	drain()
	if e := s.drain(limit); err == nil {
		err = e
	}
	close(swept)
	s.sweeper.Wait()
	if w, ok := ln.(settler); ok {
		w.Settle()
	}
	return err
}

// start prepares the server's state. The returned functions begin the drain, or
// the hand-over.
func (s *Server) start(ln net.Listener) (drain, retire context.CancelFunc) {
	draining, drain := context.WithCancel(context.Background())
	s.draining = draining
	s.retiring, retire = context.WithCancel(draining)
	s.conns = make(map[*conn]struct{})
	s.gone = make(chan struct{})
	if s.TLS != nil {
		s.TLS = s.TLS.Clone()
		// one record and one write for a head with a body of up to 16 KiB
		s.TLS.DynamicRecordSizingDisabled = true
		s.TLS.GetConfigForClient = greet(s.TLS.GetConfigForClient)
	}
	if s.Lane == nil {
		s.Lane = &Lane{Route: noRoute}
	}
	base := exchange.WithDrain(context.Background(), draining)
	s.http = &http.Server{
		Handler:           s.Handler,
		ReadHeaderTimeout: s.ReadHeaderTimeout,
		IdleTimeout:       s.IdleTimeout,
		MaxHeaderBytes:    s.MaxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn),
	}
	s.base = context.WithValue(base, http.ServerContextKey, s.http)
	s.bounds.Store(s.given())
	s.Budget = s.Budget.join(s, ln.Addr())
	return drain, retire
}

// A stamp is the Date value of one second.
type stamp struct {
	second int64
	text   string
}

// date returns the current Date value.
func (s *Server) date() string {
	now := time.Now()
	d := s.stamp.Load()
	if d == nil || d.second != now.Unix() {
		d = &stamp{now.Unix(), now.UTC().Format(http.TimeFormat)}
		s.stamp.Store(d)
	}
	return d.text
}

func noRoute(string, string, *tls.ConnectionState) (Hit, bool) { return Hit{}, false }

// accept serves connections until the listener is closed or broken.
func (s *Server) accept(ctx context.Context, ln net.Listener) error {
	var backoff time.Duration
	for {
		raw, err := ln.Accept()
		if err == nil {
			backoff = 0
			s.admit(raw)
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		if !temporary(err) {
			return err
		}
		backoff = min(max(2*backoff, 5*time.Millisecond), time.Second)
		s.Log.Warn("accept failed", "cause", err, "retry", backoff)
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return nil
		}
	}
}

// temporary reports whether accepting may succeed later: the machine is short
// of descriptors or memory, or the client was already gone.
func temporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

// admit adds a connection, or closes it if there are too many, in total or of
// its client.
func (s *Server) admit(raw net.Conn) {
	if most := s.limit().MaxConns; most > 0 && s.open.Load() >= int64(most) {
		s.Budget.refuse(causeConns, most, netip.Addr{})
		raw.Close()
		return
	}
	client, ok := s.Budget.meet(raw)
	if !ok {
		raw.Close()
		return
	}
	c := &conn{Conn: raw, origin: origin{s: s}, socket: peek.Raw(raw)}
	c.client.Store(client)
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	s.open.Add(1)
	go c.serve()
}

// leave removes a closed connection.
func (s *Server) leave(c *conn) {
	s.open.Add(-1)
	s.Budget.Leave(c.client.Swap(nil))
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.retiring.Err() != nil && len(s.conns) == 0 {
		s.goneOnce()
	}
}

// goneOnce closes gone. s.mu is held.
func (s *Server) goneOnce() {
	select {
	case <-s.gone:
	default:
		close(s.gone)
	}
}

// drain waits for the connections to end, and cuts them at the limit; zero
// means no limit. It returns ErrDrainTimeout if it cuts one, except one that
// waits briefly for a further request.
func (s *Server) drain(limit time.Duration) error {
	ctx := context.Background()
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	s.wakeAll()
	select {
	case <-s.gone:
		return nil
	case <-ctx.Done():
	}
	var err error
	for _, c := range s.snapshot(nil) {
		if !c.waitsBriefly() {
			err = ErrDrainTimeout
		}
		c.oust()
	}
	return err
}
