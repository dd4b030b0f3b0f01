package pool

import (
	"context"
	"errors"
	"os"
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

// hangUpTime is how long a target has, besides a multiple of the time that it takes
// to connect to it, to close a connection whose protocol it does not speak.
const hangUpTime = 100 * time.Millisecond

// onlyHTTP2 reports whether the target of c, which has chosen none of the protocols
// of p, speaks HTTP/2 alone. Most such targets know no ALPN, and are to be taken as
// they are. But crypto/tls lets clients in that offer http/1.1 to a server which
// names h2 alone: net/http closes their connection then, unless it speaks HTTP/1.1
// all the same, as it does in httptest. took is how long c has taken to open.
func (p *Pool) onlyHTTP2(ctx context.Context, c *Conn, took time.Duration) bool {
	patience := hangUpTime + 4*took
	bounded, cancel := context.WithTimeout(ctx, patience) // some targets serve one connection at a time
	defer cancel()
	conf := p.TLS.Clone()
	conf.NextProtos = append([]string{"h2"}, conf.NextProtos...)
	other, err := p.dial(bounded, conf)
	if err != nil {
		return false
	}
	chosen := other.tls.ConnectionState().NegotiatedProtocol
	other.bye()
	if chosen == "h2" && c.hangsUp(patience) {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = time.Now()
	return false
}

// hangsUp reports whether the target closes c, which nothing was sent on yet, within
// that time.
func (c *Conn) hangsUp(patience time.Duration) bool {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	err := c.Fill()
	_ = c.SetReadDeadline(time.Time{})
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}
