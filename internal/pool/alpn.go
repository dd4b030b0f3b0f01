package pool

import (
	"context"
	"errors"
	"os"
	"time"
)

// silent reports whether the target has chosen none of the protocols that it
// was offered on c.
func (c *Conn) silent() bool {
	return c.tls != nil && len(c.pool.TLS.NextProtos) > 0 && c.tls.ConnectionState().NegotiatedProtocol == ""
}

// doubts reports whether it is to be found out what a silent target speaks.
func (p *Pool) doubts() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	life := p.lifetime()
	return p.asked.IsZero() || life > 0 && time.Since(p.asked) >= life
}

// doubt notes that a silent target has closed a connection without a byte of
// HTTP/1.1.
func (p *Pool) doubt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = time.Time{}
}

// How long a silent target has, besides a multiple of the time that it takes to
// connect to it.
const (
	offerTime  = time.Second            // to take a second connection
	hangUpTime = 250 * time.Millisecond // to close one whose protocol it does not speak
)

// onlyHTTP2 reports whether the silent target of c speaks HTTP/2 alone. Most
// such targets know no ALPN, and are to be taken as they are. But crypto/tls
// lets clients in that offer http/1.1 to a server which names h2 alone:
// net/http closes their connection then, unless it speaks HTTP/1.1 all the
// same, as it does in httptest. took is how long c has taken to open.
func (p *Pool) onlyHTTP2(ctx context.Context, c *Conn, took time.Duration) bool {
	// some targets serve one connection at a time
	bounded, cancel := context.WithTimeout(ctx, offerTime+4*took)
	defer cancel()
	conf := p.TLS.Clone()
	conf.NextProtos = append([]string{"h2"}, conf.NextProtos...)
	other, err := p.dial(bounded, conf)
	if err != nil && bounded.Err() == nil {
		return false // and is asked again
	}
	if err == nil {
		chosen := other.tls.ConnectionState().NegotiatedProtocol
		other.bye()
		if chosen == "h2" && c.hangsUp(hangUpTime+4*took) {
			return true
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = time.Now()
	return false
}

// hangsUp reports whether the target closes c, which nothing was sent on yet,
// within that time. It waits in parts: a machine that stands still for a while,
// and then finds a deadline passed, costs one of them.
func (c *Conn) hangsUp(patience time.Duration) bool {
	const parts = 8
	err := os.ErrDeadlineExceeded
	for i := 0; i < parts && errors.Is(err, os.ErrDeadlineExceeded); i++ {
		_ = c.SetReadDeadline(time.Now().Add(patience / parts))
		err = c.Fill()
	}
	_ = c.SetReadDeadline(time.Time{})
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}
