package http3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	h3 "github.com/quic-go/quic-go/http3"
)

const (
	// manyHandshakes is the number of handshakes in flight from which clients
	// must prove that packets reach their address. The proof costs a round
	// trip. A sender with a forged address cannot give it.
	manyHandshakes = 128

	// lastWait is how long a shutdown keeps a connection without requests open,
	// in case packets were lost.
	lastWait = 2 * time.Second

	// maxFields limits the number of headers of a request, as over HTTP/1.1 and
	// HTTP/2.
	maxFields = 100

	// shutdown is the reason given when the Server closes connections at its
	// end.
	shutdown = "shutdown"
)

var errFull = errors.New("too many connections")

// conns are the connections of a session.
type conns struct {
	max, perClient int
	stall          time.Duration // see writeStall

	mu       sync.Mutex
	clients  map[netip.Prefix]int // open connections per client, handshakes included
	all      int
	accepted map[*quic.Conn]*conn // connections whose handshake has finished
}

// A conn is a connection that serves requests.
type conn struct {
	inFlight atomic.Int64
	idleAt   atomic.Int64 // end of the last request, as Unix time in nanoseconds
}

// connKey is the context key of a connection's conn.
type connKey struct{}

func newConns(s *Server) *conns {
	return &conns{max: s.MaxConns, perClient: s.MaxConnsPerClient, stall: cmp.Or(s.stall, writeStall), clients: map[netip.Prefix]int{}, accepted: map[*quic.Conn]*conn{}}
}

// client returns the prefix that counts as one client.
func client(a net.Addr) netip.Prefix {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.Prefix{}
	}
	addr := u.AddrPort().Addr().Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits)
	return p
}

// doubts reports whether a client must prove that its address is its own. So
// forged addresses use up at most half of a client's connections.
func (c *conns) doubts(a net.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all-len(c.accepted) >= manyHandshakes || c.perClient > 0 && 2*c.clients[client(a)] >= c.perClient
}

// admit counts a new connection, or refuses it. ctx is done when the connection
// ends.
func (c *conns) admit(ctx context.Context, i *quic.ClientInfo) (context.Context, error) {
	p := client(i.RemoteAddr)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.max > 0 && c.all >= c.max || c.perClient > 0 && c.clients[p] >= c.perClient {
		return nil, errFull
	}
	c.all++
	c.clients[p]++
	context.AfterFunc(ctx, func() { c.forget(p) })
	return ctx, nil
}

// forget undoes the count of admit.
func (c *conns) forget(p netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.clients[p]--; c.clients[p] == 0 {
		delete(c.clients, p)
	}
}

// open adds a connection that serves requests.
func (c *conns) open(ctx context.Context, q *quic.Conn) context.Context {
	x := new(conn)
	x.idleAt.Store(time.Now().UnixNano())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.accepted[q] = x
	context.AfterFunc(q.Context(), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.accepted, q)
	})
	return context.WithValue(ctx, connKey{}, x)
}

// counted returns a handler that serves by h and counts its requests.
func (c *conns) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if x, ok := q.Context().Value(connKey{}).(*conn); ok {
			x.inFlight.Add(1)
			defer func() {
				x.idleAt.Store(time.Now().UnixNano())
				x.inFlight.Add(-1)
			}()
		}
		if tooMany(q.Header) {
			w.WriteHeader(http.StatusRequestHeaderFieldsTooLarge)
			return
		}
		w = limited(w, c.stall)
		apart(h, w, asNetHTTP(q))
		finish(w)
	})
}

// tooMany reports whether there are more headers than a hostproxy.Server
// accepts.
func tooMany(h http.Header) bool {
	n := 0
	for _, values := range h {
		n += len(values)
	}
	return n > maxFields
}

// apart calls h in a goroutine of its own. If h ends that goroutine
// (runtime.Goexit), the response is cut off, as over HTTP/1.1 and HTTP/2. In
// quic-go's goroutine, the client would then wait for ever.
func apart(h http.Handler, w http.ResponseWriter, q *http.Request) {
	ended := make(chan any, 1)
	go func() {
		var how any = http.ErrAbortHandler // stays if h does not return
		defer func() {
			p := recover()
			if p != nil && p != http.ErrAbortHandler {
				// quic-go logs this, but with the stack of its own goroutine
				how = fmt.Sprintf("%v\n\n%s", p, debug.Stack())
			}
			ended <- how
		}()
		h.ServeHTTP(w, q)
		how = nil
	}()
	if p := <-ended; p != nil {
		panic(p)
	}
}

// closeIdle closes the connections without a request for the time after. An
// incomplete head does not count as a request. In a shutdown, clients should
// close such connections themselves when they get GOAWAY.
func (c *conns) closeIdle(after time.Duration, why string) {
	now := time.Now().UnixNano()
	c.closeIf(why, func(x *conn) bool { return x.inFlight.Load() == 0 && now-x.idleAt.Load() >= int64(after) })
}

// closeAll closes all connections.
func (c *conns) closeAll() { c.closeIf(shutdown, func(*conn) bool { return true }) }

func (c *conns) closeIf(why string, which func(*conn) bool) {
	c.mu.Lock()
	var close []*quic.Conn
	for q, x := range c.accepted {
		if which(x) {
			close = append(close, q)
		}
	}
	c.mu.Unlock()
	for _, q := range close {
		_ = q.CloseWithError(quic.ApplicationErrorCode(h3.ErrCodeNoError), why)
	}
}
