package forward

import (
	"io"
	"net/http"
	"slices"
	"sync"

	"github.com/hostproxy/hostproxy/internal/proxyproto"
)

// maxApart is how many idle connections are kept for the headers of the PROXY
// protocol.
const maxApart = 256

// A partition has one http.Transport of HTTP/2 for each header of the PROXY
// protocol, so that clients with different headers do not share connections. A
// single Transport that takes each header for a host would not do: a connection
// that it pushes out of its idle list stays open, unused, until
// IdleConnTimeout.
type partition struct {
	transport func() *http.Transport

	mu   sync.Mutex // guards what follows
	all  map[proxyproto.Header]*share
	idle []*share // shares without a request, the last used at the end
}

// A share is the Transport of a partition for one header.
type share struct {
	*http.Transport
	header proxyproto.Header
	busy   int // requests in flight; guarded by the partition's mu
}

// apart returns a transport, or a partition of them if c has a ProxyProtocol.
func apart(transport func() *http.Transport, c *Config) http.RoundTripper {
	if c.ProxyProtocol == 0 {
		return transport()
	}
	return &partition{transport: transport, all: make(map[proxyproto.Header]*share)}
}

// RoundTrip implements http.RoundTripper.
func (p *partition) RoundTrip(req *http.Request) (*http.Response, error) {
	s := p.enter(*proxyproto.FromContext(req.Context()))
	res, err := s.RoundTrip(req)
	// a 101 takes the connection out of the transport
	if err != nil || res.Body == http.NoBody || res.StatusCode == http.StatusSwitchingProtocols {
		p.leave(s)
		return res, err
	}
	res.Body = &shareBody{ReadCloser: res.Body, over: sync.OnceFunc(func() { p.leave(s) })}
	return res, nil
}

// enter returns the share for h and counts a request in it, until leave.
func (p *partition) enter(h proxyproto.Header) *share {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.all[h]
	switch {
	case s == nil:
		s = &share{Transport: p.transport(), header: h}
		p.all[h] = s
	case s.busy == 0:
		p.idle = slices.DeleteFunc(p.idle, func(other *share) bool { return other == s })
	}
	s.busy++
	return s
}

// leave counts a request of s out. If too many shares are idle then, the one
// that has been idle for longest is closed.
func (p *partition) leave(s *share) {
	p.mu.Lock()
	var old *share
	if s.busy--; s.busy == 0 {
		if p.idle = append(p.idle, s); len(p.idle) > maxApart {
			old, p.idle = p.idle[0], slices.Delete(p.idle, 0, 1)
			delete(p.all, old.header)
		}
	}
	p.mu.Unlock()
	if old != nil {
		old.CloseIdleConnections()
	}
}

// CloseIdleConnections closes the connections without a request.
func (p *partition) CloseIdleConnections() {
	p.mu.Lock()
	var all []*share
	for _, s := range p.all {
		all = append(all, s)
	}
	for _, s := range p.idle {
		delete(p.all, s.header)
	}
	p.idle = nil
	p.mu.Unlock()
	for _, s := range all {
		s.CloseIdleConnections()
	}
}

// A shareBody tells a partition that a response's body is closed.
type shareBody struct {
	io.ReadCloser
	over func()
}

// Close implements io.Closer.
func (b *shareBody) Close() error {
	defer b.over()
	return b.ReadCloser.Close()
}
