package forward

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/limit"
	"github.com/hostproxy/hostproxy/internal/peek"
)

// A Record says what became of one exchange. The exchange's own goroutine
// writes it; whoever is shown it after the end may read it.
// The hostproxy package converts it to its public Exchange, which has the
// same fields.
type Record struct {
	Start time.Time

	Client netip.Addr
	Peer   netip.Addr

	Proto   string
	Scheme  string
	Method  string
	Host    string
	Path    string
	Query   string
	Pattern string

	UserAgent  string
	Referer    string
	User       string
	RequestID  string
	TLSVersion uint16
	ServerName string

	Status        int
	RequestBytes  int64
	ResponseBytes int64

	Target    string
	Attempts  int
	Queue     time.Duration
	Dial      time.Duration
	FirstByte time.Duration
	Duration  time.Duration

	Err     error
	Retried []error // *Failure
}

// Fail notes the first failure of the exchange; later ones are consequences.
func (r *Record) Fail(f *Failure) {
	if r.Err == nil {
		r.Err = f
	}
}

// maxText is how much is kept of what a client says of itself.
const maxText = 1 << 10

// Bounded returns the beginning of a text that a client chose.
func Bounded[T header.Text](text T) T { return text[:min(len(text), maxText)] }

// Secured notes the TLS of the client's connection; nil means none.
func (r *Record) Secured(state *tls.ConnectionState) {
	if state != nil {
		r.TLSVersion, r.ServerName = state.Version, Bounded(state.ServerName)
	}
}

// A Side is who made an exchange fail.
type Side string

// The sides of an exchange.
const (
	SideClient   Side = "client"
	SideUpstream Side = "upstream"
	SideProxy    Side = "proxy"
	SideDrain    Side = "drain"
)

// A Failure is why forwarding failed, with the status that the client gets
// if its response has not begun.
type Failure struct {
	Op     string // "pick", "dial", "handshake", "write", "read", "copy" or "upgrade"
	Target string // "" when none was picked
	Side   Side
	Status int
	Reason string // the class shown to the client: never internals
	Err    error  // nil when nothing has failed: a refusal by the rules

	RetryAfter time.Duration // told to the client; 0 means nothing is
	Fields     []byte        // header lines told to the client, each with its CRLF
	Page       *Page         // the answer, instead of a line with the reason
}

// Error returns the operation, the target and the cause.
func (f *Failure) Error() string {
	if f.Target == "" {
		return f.Op + ": " + f.Err.Error()
	}
	return f.Op + " " + f.Target + ": " + f.Err.Error()
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// An Exchange is what the full lane knows of a request beyond the
// http.Request: who sent it, its record, and what its streams are bound to.
type Exchange struct {
	Record
	Via      header.Peer // who sits at the other end of the connection
	Name     string      // what Via calls the Router; "" stands for the upstream's own name
	Trusted  bool        // the peer's forwarding fields count
	Returned bool        // the handler did not panic

	Numbering Numbering // by which RequestID is sent

	Owner any // what the Router knows the route's handler by, if that is not an Upstream

	// ClientScheme and ClientHost are what the client itself used, as far as a
	// trusted peer says it; else they are Scheme and Host.
	ClientScheme, ClientHost string

	copy    bool          // is a mirror's, and is not copied again
	asker   *http.Request // of a question: the client's request; else nil
	watched bool          // somebody counts what the client gets
	refused bool          // no target has answered: the proxy does, or its ErrorHandler
	charged []*limit.Rule // of an exchange that was handed over, as what follows
	tried   []*Target

	// Lives end the exchange's streams politely when done: the server's,
	// the route's. Nil entries are ignored.
	Lives [2]context.Context
}

// routeLife is the place of the route's in Lives.
const routeLife = 1

type exchangeKey struct{}

// NewContext returns ctx carrying x.
func NewContext(ctx context.Context, x *Exchange) context.Context {
	return context.WithValue(ctx, exchangeKey{}, x)
}

// FromContext returns the exchange that ctx carries, or nil.
func FromContext(ctx context.Context) *Exchange {
	x, _ := ctx.Value(exchangeKey{}).(*Exchange)
	return x
}

type drainKey struct{}

// WithDrain returns ctx carrying a context that is done when the server
// behind ctx begins to drain.
func WithDrain(ctx, drain context.Context) context.Context {
	return context.WithValue(ctx, drainKey{}, drain)
}

// DrainFrom returns the context that WithDrain stored in ctx, or nil.
func DrainFrom(ctx context.Context) context.Context {
	d, _ := ctx.Value(drainKey{}).(context.Context)
	return d
}

type connKey struct{}

// WithConn returns ctx with the client's connection, whose only exchange at a
// time is that of ctx.
func WithConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// markFrom returns the mark of the connection that WithConn stored in ctx.
func markFrom(ctx context.Context) (m peek.Mark, ok bool) {
	c := ctx.Value(connKey{})
	if c == nil {
		return m, false
	}
	return peek.MarkOf(c)
}

// hungUp reports whether the client of the connection that WithConn stored in ctx
// has left, even if some of what it sent has not been read.
func hungUp(ctx context.Context) bool {
	c, ok := ctx.Value(connKey{}).(interface{ HungUp() bool })
	return ok && c.HungUp()
}
