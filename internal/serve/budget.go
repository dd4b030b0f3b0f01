package serve

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/limit"
	"github.com/hostproxy/hostproxy/internal/peek"
	"github.com/hostproxy/hostproxy/internal/status"
)

// refusalPause is the shortest time between two log lines about one cause of
// refusals.
const refusalPause = time.Minute

// A Budget limits the connections of each client across all servers that share
// it, and counts what these servers refuse. Its fields are set before the first
// use; Log is required. Its methods may be called concurrently.
//
// It costs one lock for each connection of a limited client, and one for each
// refusal; nothing for a request.
type Budget struct {
	MaxPerClient int            // connections of a client; zero means no limit
	Trusted      []netip.Prefix // peers without a limit: each carries many clients
	Log          *slog.Logger

	started time.Time // set by Budgets.Add

	mu      sync.Mutex
	closed  bool
	servers []*Server
	besides []*Companion
	clients map[uint64]*Client // clients with connections, by limit.Key
	calm    *limit.Limiter     // tokens that clients spend over HTTP/2; see expense
	refused map[Cause]*tally

	changed atomic.Pointer[Bounds] // nil before Change
	shakes  places                 // for handshakes in flight
}

// A Client is a client that has connections.
type Client struct {
	key   uint64
	conns int // guarded by Budget.mu
}

// A Cause is what was refused and why. Neither text comes from a client.
type Cause struct {
	What string // "connections", "handshakes" or "requests"
	// a setting, alone if its limit was reached, or followed by the fault; for
	// a request the status of the response; or a word
	Why string
}

// The causes. Requests have the status of the response as cause. Read-only.
var (
	causeConns      = Cause{"connections", "MaxConns"}
	causeClient     = Cause{"connections", "MaxConnsPerClient"}
	causeShakes     = Cause{"handshakes", "MaxHandshakes"}
	causeSlowShake  = Cause{"handshakes", "HandshakeTimeout"}
	causeFailShake  = Cause{"handshakes", "failed"}
	causeDrainShake = Cause{"handshakes", "shutdown"}
)

// noLimit marks a refusal that is logged but has no limit.
const noLimit = -1

// A tally counts the refusals of one cause.
type tally struct {
	count    uint64
	latest   time.Time
	limit    int // the limit that was reached; zero if refusals are not logged
	unlogged int
	client   netip.Addr  // client of the latest refusal; invalid if not known
	report   *time.Timer // logs the unlogged refusals; nil while there are none
}

// Enter takes a place for a connection of p. It returns false if the client has
// reached its limit. It returns nil and true if p has no limit, as peers
// without an address. The caller calls Leave with the result when the
// connection is closed.
func (b *Budget) Enter(p header.Peer) (*Client, bool) {
	most := b.perClient()
	if most == 0 || !p.Addr.IsValid() || p.TrustedBy(b.Trusted) {
		return nil, true
	}
	key := limit.Key(p.Addr)
	b.mu.Lock()
	c := b.clients[key]
	if c == nil {
		if b.clients == nil {
			b.clients = make(map[uint64]*Client)
		}
		c = &Client{key: key}
		b.clients[key] = c
	}
	ok := c.conns < most
	if ok {
		c.conns++
	}
	b.mu.Unlock()
	if !ok {
		b.refuse(causeClient, most, p.Addr)
		return nil, false
	}
	return c, true
}

// Leave gives back the place of a connection; nil has no place.
func (b *Budget) Leave(c *Client) {
	if c == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.conns--; c.conns == 0 {
		delete(b.clients, c.key)
	}
}

// meet is Enter for an accepted connection whose address is known immediately.
// For other connections meetLate does it.
func (b *Budget) meet(raw net.Conn) (*Client, bool) {
	if b.perClient() == 0 || !knowsPeer(raw) {
		return nil, true
	}
	return b.Enter(header.PeerOf(raw.RemoteAddr()))
}

// knowsPeer reports whether RemoteAddr of c returns immediately. Other types
// may wait for bytes of the client, such as the header of the PROXY protocol.
func knowsPeer(c net.Conn) bool {
	if a, ok := c.(interface{ Accepted() net.Conn }); ok {
		c = a.Accepted()
	}
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// meetLate is meet for a connection whose address may arrive late. It runs on
// the connection's own goroutine. False means that the connection is closed.
func (c *conn) meetLate() bool {
	b := c.s.Budget
	if b.perClient() == 0 || knowsPeer(c.Conn) {
		return true
	}
	if t := c.s.limit().ReadHeaderTimeout; t > 0 {
		_ = c.Conn.SetReadDeadline(time.Now().Add(t))
	}
	client, ok := b.Enter(header.PeerOf(c.RemoteAddr()))
	_ = c.Conn.SetReadDeadline(time.Time{})
	if !ok {
		c.Close()
		return false
	}
	c.client.Store(client)
	if c.closed.Load() { // closed by the drain, which may have seen no client
		b.Leave(c.client.Swap(nil))
	}
	return true
}

// refuse counts a refusal. If limit is not zero, the refusal is also logged:
// immediately, or with others once a minute. noLimit is such a limit. client
// may be invalid.
func (b *Budget) refuse(cause Cause, limit int, client netip.Addr) {
	now := time.Now()
	b.mu.Lock()
	t := b.refused[cause]
	if t == nil {
		if b.refused == nil {
			b.refused = make(map[Cause]*tally)
		}
		t = new(tally)
		b.refused[cause] = t
	}
	t.count++
	t.latest, t.client, t.limit = now, client, limit
	first := false
	switch {
	case limit == 0:
	case b.closed:
	case t.report != nil:
		t.unlogged++
	default:
		first = true
		t.report = time.AfterFunc(refusalPause, func() { b.sum(cause, t) })
	}
	b.mu.Unlock()
	if first {
		b.warn(cause, limit, 1, client)
	}
}

// sum logs the refusals since the last log line.
func (b *Budget) sum(cause Cause, t *tally) {
	b.mu.Lock()
	n, limit, client := t.unlogged, t.limit, t.client
	t.unlogged = 0
	switch {
	case b.closed:
		n = 0
	case n > 0:
		t.report.Reset(refusalPause)
	default:
		t.report = nil
	}
	b.mu.Unlock()
	if n > 0 {
		b.warn(cause, limit, n, client)
	}
}

func (b *Budget) warn(cause Cause, limit, n int, client netip.Addr) {
	attrs := []any{"reason", cause.Why}
	if limit > 0 {
		attrs = append(attrs, "limit", limit)
	}
	attrs = append(attrs, "count", n)
	if client.IsValid() {
		attrs = append(attrs, "latest_client", client)
	}
	if strings.HasPrefix(cause.Why, causeProxy) {
		attrs = append(attrs, "remedy", "make the peer send the PROXY protocol, or remove it from ProxyProtocol.From")
	}
	if cause == causeClient {
		attrs = append(attrs, "remedy", "if this address is a proxy of yours, add it to Router.TrustedProxies")
	}
	b.Log.Warn(cause.What+" refused", attrs...)
}

// Close logs the refusals that are not yet logged. Later ones are counted, but
// not logged.
func (b *Budget) Close() {
	b.mu.Lock()
	b.closed = true
	due := make(map[Cause]tally)
	for cause, t := range b.refused {
		if t.report != nil {
			t.report.Stop()
		}
		if t.unlogged > 0 {
			due[cause] = *t
			t.unlogged = 0
		}
	}
	b.mu.Unlock()
	for cause, t := range due {
		b.warn(cause, t.limit, t.unlogged, t.client)
	}
}

// join adds s to the servers that share b. If b is nil, s gets a budget of its
// own.
func (b *Budget) join(s *Server, addr net.Addr) *Budget {
	if b == nil {
		b = &Budget{Log: s.Log}
	}
	s.addr = addr
	b.mu.Lock()
	defer b.mu.Unlock()
	b.servers = append(b.servers, s)
	if n := b.changed.Load(); n != nil {
		s.bounds.Store(n)
	} else if s.TLS != nil {
		b.shakes.bound(s.MaxHandshakes)
	}
	if b.calm == nil {
		b.calm, _ = limit.New(limit.Config{Rate: clientPerSecond, Burst: clientTokens}) // valid
	}
	return b
}

// Describe returns how many connections are open and what was refused, in the
// order of the causes.
func (b *Budget) Describe() status.Server {
	b.mu.Lock()
	defer b.mu.Unlock()
	// not null in JSON
	d := status.Server{Started: b.started, Listeners: []status.Listener{}, Refused: []status.Refusal{}}
	for _, s := range b.servers {
		d.Listeners = append(d.Listeners, status.Listener{Addr: s.addr.String(), Role: s.Role, TLS: s.TLS != nil, Open: s.open.Load()})
	}
	for _, c := range b.besides {
		d.Companions = append(d.Companions, c.describe())
	}
	slices.SortFunc(d.Listeners, func(a, b status.Listener) int { return strings.Compare(a.Addr, b.Addr) })
	for cause, t := range maps.All(b.refused) {
		d.Refused = append(d.Refused, status.Refusal{What: cause.What, Why: cause.Why, Count: t.count, Latest: t.latest})
	}
	slices.SortFunc(d.Refused, func(a, b status.Refusal) int {
		return strings.Compare(a.What+" "+a.Why, b.What+" "+b.Why)
	})
	return d
}

// Budgets are the budgets of a program's running servers. The zero value is
// empty. Its methods may be called concurrently.
type Budgets struct {
	mu  sync.Mutex
	all []*Budget // in order of their start
}

// Add adds b.
func (l *Budgets) Add(b *Budget) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.started = time.Now()
	l.all = append(l.all, b)
}

// Remove removes b.
func (l *Budgets) Remove(b *Budget) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = slices.DeleteFunc(l.all, func(other *Budget) bool { return other == b })
}

// Describe returns the description of each budget.
func (l *Budgets) Describe() []status.Server {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := []status.Server{} // not null in JSON
	for _, b := range l.all {
		all = append(all, b.Describe())
	}
	return all
}

// reject answers a head that no lane forwards, counts it and reports its
// record. req is the parsed part of it, or nil.
func (x *fastExchange) reject(status int, err error, req *h1.Request) {
	x.lost, x.scheme = true, x.from.scheme()
	x.reply(&exchange.Failure{Status: status, Reason: "http_request_error"})
	x.account(Cause{"requests", strconv.Itoa(status)}, status, err, req)
}

// account counts and reports a request that no lane forwards.
func (x *fastExchange) account(cause Cause, status int, err error, req *h1.Request) {
	x.from.s.Budget.refuse(cause, 0, netip.Addr{})
	x.report(status, err, req)
}

// report reports the record of a request that no lane forwards, as a failure of
// the client.
func (x *fastExchange) report(status int, err error, req *h1.Request) {
	lane := x.from.s.Lane
	if !lane.Always && !lane.Hooks.Begins() {
		return
	}
	x.rec = exchange.Record{Start: time.Now(), Proto: x.proto(), Scheme: x.from.scheme(), Client: x.from.peer.Addr,
		Peer: x.from.peer.Addr, ResponseBytes: x.rec.ResponseBytes}
	var said exchange.Said = exchange.Fields(nil)
	if req != nil {
		said = x
		x.rec.Client = x.client()
		x.rec.Method, x.rec.Host, x.rec.Path = string(req.Method), string(req.Host), string(req.Path)
	}
	x.rec.Secured(x.from.state)
	if lane.Always {
		defer func() { // also after runtime.Goexit in the hook
			x.rec.Status, x.rec.Err = status, &exchange.Failure{Op: "read", Side: exchange.SideClient, Err: err}
			lane.End(&x.rec)
		}()
	}
	if lane.Hooks.Begins() {
		_, _ = x.beginning.Begin(lane.Hooks, &x.rec, said) // errors are logged
	}
}

// countShake counts a handshake that failed with err, unless the client has
// left.
func (c *conn) countShake(err error) {
	b := c.s.Budget
	var late net.Error
	var broken *net.OpError // a failure of the connection, not an alert
	switch {
	case errors.Is(err, peek.ErrLeft), errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
	case errors.Is(err, errNoSlot):
		b.refuse(causeShakes, c.s.limit().MaxHandshakes, netip.Addr{})
	case errors.Is(err, errDraining), c.s.draining.Err() != nil && (errors.Is(err, context.Canceled) || isTimeout(err)):
		b.refuse(causeDrainShake, 0, netip.Addr{})
	case errors.As(err, &late) && late.Timeout():
		b.refuse(causeSlowShake, 0, netip.Addr{})
	case errors.As(err, &broken) && (broken.Op == "read" || broken.Op == "write"): // reset
	default:
		b.refuse(causeFailShake, 0, netip.Addr{})
	}
}
