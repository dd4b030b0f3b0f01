package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	h3 "github.com/quic-go/quic-go/http3"

	"github.com/hostproxy/hostproxy/examples/http3"
)

// h3Name is the peer that serves HTTP/3, with examples/http3. Its requests take
// the handler lane.
const h3Name = "hostproxy h3"

// A row of HTTP/3 compares our HTTP/3 with our HTTP/2 on both lanes. Go's
// clients make the load for all of them, with equal numbers of connections and
// goroutines: h2load on this machine has no HTTP/3, and a faster client would
// lead to other batches of requests.
const (
	h3QUIC protocol = "h3"
	h2Go   protocol = "h2 TLS, by Go's client"
)

// h3Rows returns the rows of HTTP/3.
func h3Rows() []*row {
	against := func(must, aim float64) []target {
		return []target{{peer: h3Name, of: handlerName, must: must, aim: aim}, {peer: h3Name, of: fastLaneName, must: 1.2 * must}}
	}
	return []*row{
		{name: "h3-16x4", title: "HTTP/3 and HTTP/2, 45 B, 16 connections × 4", kind: requests, proto: h3QUIC, path: "/small", conns: 16, streams: 4, targets: against(3, 2)},
		{name: "h3-100k", title: "HTTP/3 and HTTP/2, 100 KB body, 16 × 1", kind: requests, proto: h3QUIC, path: "/100k", conns: 16, streams: 1, targets: against(4, 3)},
	}
}

// servedTo returns r as p is measured on it.
func (r *row) servedTo(p *peer) *row {
	if r.proto != h3QUIC || p.name == h3Name {
		return r
	}
	own := *r
	own.proto = h2Go
	return &own
}

// takesPart reports whether p is measured on r.
func (p *peer) takesPart(r *row) bool {
	switch {
	case r.proto == h3QUIC:
		return p.name == h3Name || p.name == handlerName || p.name == fastLaneName
	case p.name == h3Name:
		return false
	}
	return (!p.h2Only || r.proto == h2TLS) && !(p.h1Back && r.grpc)
}

// companionAt returns the companion that serves HTTP/3 on an address.
func companionAt(addr string) *http3.Server { return &http3.Server{Addr: addr} }

// roundTripper returns a client with one connection to l.addr, and a func that
// closes it.
func (l *load) roundTripper() (http.RoundTripper, func()) {
	if l.proto == h3QUIC {
		t := &h3.Transport{
			TLSClientConfig:    l.tlsConfig(),
			DisableCompression: true,
			Dial: func(ctx context.Context, _ string, conf *tls.Config, qc *quic.Config) (*quic.Conn, error) {
				return quic.DialAddrEarly(ctx, l.addr, conf, qc)
			},
		}
		return t, func() { t.Close() }
	}
	t := &http.Transport{
		TLSClientConfig:    l.tlsConfig(),
		DisableCompression: true,
		Protocols:          new(http.Protocols),
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, l.addr)
		},
	}
	t.TLSClientConfig.NextProtos = nil // the transport sets it by its protocols
	t.Protocols.SetHTTP1(l.proto.name() != "h2")
	t.Protocols.SetHTTP2(l.proto.name() == "h2")
	return t, t.CloseIdleConnections
}

// runGo runs the load with Go's clients.
func runGo(ctx context.Context, l *load) (*outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, l.duration+grace)
	defer cancel()
	tallies := make([]tally, l.conns*l.streams)
	start := time.Now()
	var wg sync.WaitGroup
	for i := range l.conns {
		t, end := l.roundTripper()
		defer end()
		if err := l.ask(ctx, t); err != nil { // opens one connection, instead of one per stream
			return nil, err
		}
		for j := range l.streams {
			wg.Go(func() { l.askUntil(ctx, t, start.Add(l.duration), &tallies[i*l.streams+j]) })
		}
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return sum(tallies, time.Since(start))
}

// askUntil sends one request after the other until end.
func (l *load) askUntil(ctx context.Context, c http.RoundTripper, end time.Time, t *tally) {
	for {
		from := time.Now()
		if !from.Before(end) {
			return
		}
		if err := l.ask(ctx, c); err != nil {
			t.errors, t.err = t.errors+1, err
			return
		}
		t.add(time.Since(from))
	}
}

// ask sends a request and reads the response, which must be a 200.
func (l *load) ask(ctx context.Context, c http.RoundTripper) error {
	q, err := http.NewRequestWithContext(ctx, l.verb(), fmt.Sprintf("https://%s:%s%s", hostName, portOf(l.addr), l.path), nil)
	if err != nil {
		return err
	}
	res, err := c.RoundTrip(q)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	return nil
}
