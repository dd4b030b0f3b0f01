package pool

import (
	"context"
	"time"
)

// unclear reports whether it is not known what the target speaks, to which c has
// been opened: it has chosen none of the protocols that it was offered.
func (p *Pool) unclear(c *Conn) bool {
	if c.tls == nil || len(p.TLS.NextProtos) == 0 || c.tls.ConnectionState().NegotiatedProtocol != "" {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	life := p.lifetime()
	return p.asked.IsZero() || life > 0 && time.Since(p.asked) >= life
}

// inquire opens a connection to a target that has chosen none of the protocols of
// p. Most of those know no ALPN, and are to be taken as they are. But one that
// knows h2 only may let the client in all the same: crypto/tls does that for
// clients that offer http/1.1. Such a target chooses h2 when it is offered both.
func (p *Pool) inquire(ctx context.Context) (*Conn, error) {
	conf := p.TLS.Clone()
	conf.NextProtos = append([]string{"h2"}, conf.NextProtos...)
	c, err := p.dial(ctx, conf)
	if err != nil {
		return nil, err
	}
	if c.tls.ConnectionState().NegotiatedProtocol == "h2" {
		c.bye()
		return nil, &HandshakeError{ErrHTTP2}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = time.Now()
	return c, nil
}
