package forward

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/balance"
	"github.com/hostproxy/hostproxy/internal/client"
	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/health"
	"github.com/hostproxy/hostproxy/internal/latency"
	"github.com/hostproxy/hostproxy/internal/pool"
)

// A Target is one address to forward to. Its counters may be read at any time.
type Target struct {
	// as in records: host:port, or the URL when it is not plain http or has a
	// path
	Name string
	URL  *url.URL // not to be changed

	Pool *pool.Pool // of the built-in HTTP/1.1 client; nil with another client

	Face any // made by Config.Show

	Span                                // within the Forwarder's
	key     string                      // of its endpoint
	token   string                      // of the sticky cookie
	cookies [2]h1.Field                 // Set-Cookie with the token: for plain HTTP, and over TLS
	probe   func(context.Context) error // the readiness check; no error means ready
	// prefix of the path of a request; includes Prefix.Add, without a final
	// slash
	Base    string
	client  Doer        // for requests over HTTP/1.1
	h2      Doer        // for requests that need HTTP/2, such as gRPC; nil without
	shares  bool        // exchanges share our connections, by HTTP/2
	refuses atomic.Bool // it refuses HTTP/1.1 by ALPN; then h2 gets all requests
	node    *balance.Node
	monitor *health.Monitor // nil when the target is always up

	retired atomic.Bool  // it gets no new exchanges
	streams atomic.Int64 // upgraded connections
	// streams that stay when the target is removed: upgraded connections and
	// event streams
	staying  atomic.Int64
	failures latency.Counter   // failed attempts, on the target's side
	faults   latency.Counter   // responses with status 500 and above
	latency  latency.Histogram // of responses, from the attempt's start to the head
	born     time.Time
}

// A Doer performs one attempt: it sends req and returns the response, whose
// body the caller closes. Interim responses go to on1xx, 100 included; an
// error from it ends the attempt. A failed attempt's error is an *AttemptError.
type Doer interface {
	Do(req *http.Request, on1xx func(status int, h http.Header) error) (*http.Response, error)
	CloseIdleConnections()
}

func (f *Forwarder) newTarget(e *Endpoint) *Target {
	u, c := e.URL, &f.Config
	t := &Target{URL: u, Name: u.String(), key: e.key(), node: new(balance.Node), Span: newSpan(&f.Span), born: time.Now()}
	if u.Scheme != "unix" {
		t.Base = strings.TrimSuffix(u.EscapedPath(), "/")
	}
	t.Base += c.Prefix.Add
	if u.Scheme == "http" && u.Path == "" {
		t.Name = u.Host
	}
	if e.Addr != "" {
		t.Name += " (" + e.Addr + ")"
	}
	if c.Show != nil {
		t.Face = c.Show(t)
	}
	if c.Sticky != nil {
		t.token = c.Sticky.token(t.key)
		t.cookies = c.Sticky.fields(t.token)
	}
	dial := dialer(e, c)
	t.node.SetLimit(int64(c.MaxTargetInFlight))
	t.monitor = f.newMonitor(t)
	t.probe = f.Probe.asks(f, t, func(ctx context.Context) error {
		if c.Transport != nil {
			return nil // where it connects to is unknown
		}
		nc, err := dial(ctx)
		if err != nil {
			return err
		}
		return nc.Close()
	})
	switch {
	case c.Transport != nil:
		t.client = transport{RoundTripper: c.Transport, foreign: true, dialTimeout: c.DialTimeout, headerTimeout: c.ResponseHeaderTimeout}
	case u.Scheme == "h2c":
		t.client, t.shares = transport{RoundTripper: apart(func() *http.Transport { return newTransport(dial, c, http2Only) }, c)}, true
	default:
		t.Pool = newPool(u, dial, c)
		t.client = client.New(t.Pool, client.Timeouts{Dial: c.DialTimeout, Header: c.ResponseHeaderTimeout, Stall: c.IdleTimeout})
	}
	if u.Scheme == "https" && c.Transport == nil {
		t.h2, t.shares = transport{RoundTripper: apart(func() *http.Transport { return newTransport(dial, c, http2TLS) }, c)}, true
	}
	return t
}

// InFlight returns the number of attempts the target is serving.
func (t *Target) InFlight() int64 { return t.node.InFlight() }

// Health returns the state of the target.
func (t *Target) Health() health.Status { return t.monitor.Status() }

// Failures returns how many attempts have failed on the target's side.
func (t *Target) Failures() uint64 { return t.failures.Total() }

// Answers returns how many attempts had a response, and the quantiles qs of the
// time to the response's head, over recent attempts.
func (t *Target) Answers(qs ...float64) (n uint64, took []time.Duration) {
	return t.latency.Count(), t.latency.Quantiles(time.Now(), qs...)
}

// Streams returns how many of the attempts in flight are upgraded connections.
func (t *Target) Streams() int64 { return t.streams.Load() }

// retire lets exchanges at t finish, and closes its connections as they become
// idle.
func (t *Target) retire() {
	t.retired.Store(true)
	t.drain()
	if t.Pool != nil {
		t.Pool.Retire()
	}
	t.close()
	if t.shares {
		time.AfterFunc(exchange.SweepInterval, t.closeRest)
	}
}

// closeRest closes the connections that were busy when t retired, once they are
// idle: http.Transport would keep them.
func (t *Target) closeRest() {
	next := t.closeRest
	if t.InFlight() == 0 {
		next = t.close // once more, when the transport has noticed the end of the last stream
	}
	time.AfterFunc(exchange.SweepInterval, next)
}

// close closes idle connections.
func (t *Target) close() {
	t.client.CloseIdleConnections()
	if t.h2 != nil {
		t.h2.CloseIdleConnections()
	}
}

// address returns the network and the address to dial.
func (e *Endpoint) address() (network, addr string) {
	u := e.URL
	if u.Scheme == "unix" {
		return "unix", u.Path
	}
	if e.Addr != "" {
		return "tcp", e.Addr
	}
	port := u.Port()
	if port == "" {
		port = "80"
		if u.Scheme == "https" {
			port = "443"
		}
	}
	return "tcp", net.JoinHostPort(u.Hostname(), port)
}

// dialer returns the func that connects to e. A panic of the user's Dial
// becomes an error.
func dialer(e *Endpoint, c *Config) func(context.Context) (net.Conn, error) {
	network, addr := e.address()
	own := (&net.Dialer{Timeout: c.DialTimeout}).DialContext
	if c.Dial != nil {
		own = Dialer(c.Dial, c.DialTimeout)
	}
	dial := func(ctx context.Context) (net.Conn, error) { return own(ctx, network, addr) }
	if c.ProxyProtocol != 0 {
		return introducing(dial, c)
	}
	return dial
}

// newPool returns the pool of the built-in client for u.
func newPool(u *url.URL, dial func(context.Context) (net.Conn, error), c *Config) *pool.Pool {
	p := &pool.Pool{Dial: dial, Apart: c.ProxyProtocol != 0}
	if u.Scheme == "https" {
		p.TLS = containTLS(cmp.Or(c.TLS, &tls.Config{}))
		p.TLS.ServerName = cmp.Or(p.TLS.ServerName, u.Hostname())
		p.TLS.NextProtos = []string{"http/1.1"}
	}
	return p
}

func http2Only() *http.Protocols {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	return &p
}

func http2TLS() *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	return &p
}

// A gRPC server closes a connection if the client pings it more often than
// every five minutes while the server sends nothing (gRPC proposal A8). TCP
// finds a dead peer earlier, where the system supports that.
const (
	pingInterval = 5*time.Minute + 30*time.Second
	silence      = 45 * time.Second
)

// newTransport returns an http.Transport that always connects by dial,
// regardless of the request's host.
func newTransport(dial func(context.Context) (net.Conn, error), c *Config, protocols func() *http.Protocols) *http.Transport {
	var conf *tls.Config
	if c.TLS != nil {
		conf = containTLS(c.TLS)
	}
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			nc, err := dial(ctx)
			if err != nil {
				return nil, err
			}
			limitSilence(nc, silence)
			return containConn(nc), nil
		},
		Protocols:              protocols(),
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    c.DialTimeout,
		ResponseHeaderTimeout:  c.ResponseHeaderTimeout,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        time.Minute,
		MaxIdleConnsPerHost:    256,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // Accept-Encoding is the client's
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: pingInterval,
			PingTimeout:     15 * time.Second,
		},
	}
}
