package main

import (
	"cmp"
	"fmt"
	"regexp"
	"time"
)

// A protocol is the protocol between load generator and proxy. The backend
// always gets plain HTTP/1.1, except for gRPC.
type protocol string

const (
	h1Plain protocol = "h1"
	h1TLS   protocol = "h1 TLS"
	h2TLS   protocol = "h2 TLS"
)

// secure reports whether the proxy serves p over TLS.
func (p protocol) secure() bool { return p != h1Plain }

// name returns the ALPN name of p.
func (p protocol) name() string {
	switch p {
	case h2TLS, h2Go:
		return "h2"
	case h3QUIC:
		return "h3"
	}
	return "http/1.1"
}

// A kind says what a row measures, and how.
type kind string

const (
	requests   kind = "requests"   // closed loop: CPU per request
	handshakes kind = "handshakes" // one connection per request: CPU per connection
	messages   kind = "messages"   // WebSocket echo: CPU per message and its echo
	latency    kind = "latency"    // fixed rate: p99 at 60 % of the peer's own maximum
	idle       kind = "idle"       // memory per idle connection
)

// A row is one workload. It is measured on every peer.
type row struct {
	name    string // for -rows and the names of profiles
	title   string // for readers
	kind    kind
	proto   protocol
	backend backendKind
	method  string // "" means GET
	path    string
	upload  int  // bytes of request body
	grpc    bool // the body is a gRPC message, and the backend speaks HTTP/2 without TLS
	// size of a response that is so large that unfinished ones count by their
	// bytes; 0 counts whole responses
	size    int64
	conns   int
	streams int // per connection, HTTP/2 and HTTP/3 only
	// path of every hundredth request of a latency row, which does not count in
	// the percentiles
	slow    string
	resume  bool   // handshakes resume a session
	feature string // compares the fast lane with and without it, instead of the peers
	cores   int    // number of the proxy's cores; 0 means one that is reserved for the proxy
	targets []target
}

// A target is a bound that performance.md sets for a peer on a row. It applies
// to the row's value, or to its quotient with the value of the peer in of.
type target struct {
	peer, of  string
	must, aim float64 // an aim of 0 means none
}

// unit is the unit of the row's value.
func (r *row) unit() string {
	switch r.kind {
	case idle:
		return "KB"
	case latency:
		return "µs p99"
	default:
		return "µs CPU"
	}
}

func (r *row) verb() string { return cmp.Or(r.method, "GET") }

// Names of the peers in targets.
const (
	nginxName    = "nginx"
	pooledName   = "httputil+pool"
	fastLaneName = "hostproxy"
	fullLaneName = "hostproxy full"    // the Router in a net/http server
	handlerName  = "hostproxy handler" // middleware around the Router, in a Server
)

// fast returns the bounds for small requests on the fast lane.
func fast(must, aim float64) []target {
	return []target{{peer: fastLaneName, of: nginxName, must: must, aim: aim}}
}

// allRows returns the rows in performance.md's table, and further ones.
func allRows() []*row {
	return append([]*row{
		{name: "h1-64", title: "h1 plain, 45 B, 64 connections", kind: requests, proto: h1Plain, path: "/small", conns: 64,
			targets: append(fast(1.30, 1.00),
				target{peer: fullLaneName, of: nginxName, must: 2.1, aim: 1.7},
				target{peer: handlerName, of: nginxName, must: 1.6, aim: 1.3},
				target{peer: fullLaneName, of: pooledName, must: 0.60})},
		{name: "h1-8", title: "h1 plain, 45 B, 8 connections", kind: requests, proto: h1Plain, path: "/small", conns: 8, targets: fast(1.30, 1.00)},
		{name: "h1-256", title: "h1 plain, 45 B, 256 connections", kind: requests, proto: h1Plain, path: "/small", conns: 256, targets: fast(1.30, 1.00)},
		{name: "h1-64-2cores", title: "h1 plain, 45 B, 64 connections, 2 cores, unpinned", kind: requests, proto: h1Plain, path: "/small", conns: 64, cores: 2},
		{name: "h1-1000-10ms", title: "h1 plain, 1,000 connections, backend takes 10 ms", kind: requests, proto: h1Plain, backend: goBackend, path: "/slow", conns: 1000},
		{name: "h1tls-16", title: "h1 TLS, 45 B, 16 connections", kind: requests, proto: h1TLS, path: "/small", conns: 16, targets: fast(1.30, 1.00)},
		{name: "h2tls-16x4", title: "h2 TLS, 45 B, 16 connections × 4 streams", kind: requests, proto: h2TLS, path: "/small", conns: 16, streams: 4,
			targets: append(fast(1.00, 0.75),
				target{peer: handlerName, of: nginxName, must: 1.30, aim: 1.05},
				target{peer: fastLaneName, of: pooledName, must: 0.65})},
		{name: "h2tls-16x1", title: "h2 TLS, 45 B, 16 connections × 1 stream", kind: requests, proto: h2TLS, path: "/small", conns: 16, streams: 1, targets: fast(1.25, 1.00)},
		{name: "h2tls-4x32", title: "h2 TLS, 45 B, 4 connections × 32 streams", kind: requests, proto: h2TLS, path: "/small", conns: 4, streams: 32, targets: fast(0.85, 0.60)},
		{name: "h2tls-1x100", title: "h2 TLS, 45 B, 1 connection × 100 streams", kind: requests, proto: h2TLS, path: "/small", conns: 1, streams: 100, targets: fast(0.85, 0.60)},
		{name: "h2tls-16k", title: "h2 TLS, 16 KiB body, 16 connections × 4 streams", kind: requests, proto: h2TLS, path: "/16k", size: 16 << 10, conns: 16, streams: 4, targets: fast(0.95, 0.75)},
		{name: "h2tls-100x10-10ms", title: "h2 TLS, backend takes 10 ms, 100 × 10 streams", kind: requests, proto: h2TLS, backend: goBackend, path: "/slow", conns: 100, streams: 10, targets: fast(1.35, 1.00)},
		{name: "h2tls-16x4-2cores", title: "h2 TLS, 45 B, 16 × 4, 2 cores, unpinned", kind: requests, proto: h2TLS, path: "/small", conns: 16, streams: 4, cores: 2, targets: fast(1.25, 0.80)},
		{name: "h2tls-grpc", title: "gRPC unary, h2 TLS to h2c, 16 × 4 streams", kind: requests, proto: h2TLS, backend: goBackend, method: "POST", path: unaryPath, upload: 45, grpc: true, conns: 16, streams: 4},
		{name: "h1-post-16k", title: "h1 plain, POST 16 KiB, 64 connections", kind: requests, proto: h1Plain, backend: goBackend, method: "POST", path: "/upload", upload: 16 << 10, conns: 64},
		{name: "h1-chunked-16k", title: "h1 plain, chunked body of 16 KiB, 64 connections", kind: requests, proto: h1Plain, backend: goBackend, path: "/chunked", conns: 64},
		{name: "h1-100k", title: "h1 plain, 100 KB body, 64 connections", kind: requests, proto: h1Plain, path: "/100k", size: 100_000, conns: 64},
		{name: "h1-1m", title: "h1 plain, 1 MiB body, 16 connections", kind: requests, proto: h1Plain, path: "/1m", size: 1 << 20, conns: 16, targets: fast(0.65, 0.35)},
		{name: "h1tls-1m", title: "h1 TLS, 1 MiB body, 16 connections", kind: requests, proto: h1TLS, path: "/1m", size: 1 << 20, conns: 16, targets: fast(1.0, 0.9)},
		{name: "h2tls-1m", title: "h2 TLS, 1 MiB body, 16 connections", kind: requests, proto: h2TLS, path: "/1m", size: 1 << 20, conns: 16, streams: 1, targets: fast(0.60, 0.45)},
		{name: "h1-100m", title: "h1 plain, 100 MiB body, 4 connections", kind: requests, proto: h1Plain, path: "/100m", size: 100 << 20, conns: 4},
		{name: "websocket", title: "WebSocket echo, 32 B, 64 connections", kind: messages, proto: h1Plain, backend: goBackend, path: "/echo-websocket", conns: 64},
		{name: "handshake-full", title: "TLS 1.3 handshake and one request, full", kind: handshakes, proto: h1TLS, path: "/small", conns: 8},
		{name: "handshake-resumed", title: "TLS 1.3 handshake and one request, resumed", kind: handshakes, proto: h1TLS, path: "/small", conns: 8, resume: true},
		{name: "latency", title: "p99 at 60 % of own maximum, h1 plain, 64 connections", kind: latency, proto: h1Plain, path: "/small", conns: 64, targets: fast(1.5, 1.0)},
		{name: "latency-slow", title: "the same, while 1 % of answers take 10 ms", kind: latency, proto: h1Plain, backend: goBackend, path: "/small", slow: "/slow", conns: 64, targets: fast(1.5, 1.0)},
		{name: "idle", title: "idle keep-alive connection, plain", kind: idle, proto: h1Plain, path: "/small", conns: 4000, targets: []target{{peer: fastLaneName, must: 6, aim: 3.5}}},
		{name: "idle-tls", title: "idle keep-alive connection, TLS", kind: idle, proto: h1TLS, path: "/small", conns: 2000, targets: []target{{peer: fastLaneName, must: 18, aim: 12}}},
		{name: "idle-h2", title: "idle connection, h2 TLS", kind: idle, proto: h2TLS, path: "/small", conns: 2000, streams: 1, targets: []target{{peer: fastLaneName, must: 20, aim: 14}}},
	}, append(h3Rows(), featureRows()...)...)
}

// selectRows returns the rows whose name pattern matches, in order.
func selectRows(pattern string) ([]*row, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("-rows: %w", err)
	}
	var chosen []*row
	for _, r := range allRows() {
		if re.MatchString(r.name) {
			chosen = append(chosen, r)
		}
	}
	if chosen == nil {
		return nil, fmt.Errorf("-rows: no row matches %q", pattern)
	}
	return chosen, nil
}

// shrink turns the row into a smoke test: it runs all code but measures
// nothing.
func (r *row) shrink() {
	r.conns = min(r.conns, 8)
	if r.size > 10<<20 {
		r.conns = 1
	}
}

// slowAnswer is the delay of the backend on /slow.
const slowAnswer = 10 * time.Millisecond
