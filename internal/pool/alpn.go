package pool

import (
	"context"
	"errors"
	"os"
	"time"
)

// silent reports whether the target chose none of the protocols offered on c.
func (c *Conn) silent() bool {
	return c.tls != nil && len(c.pool.TLS.NextProtos) > 0 && c.tls.ConnectionState().NegotiatedProtocol == ""
}

// doubts reports whether Open has to find out what a silent target speaks.
func (p *Pool) doubts() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	life := p.lifetime()
	return p.asked.IsZero() || life > 0 && time.Since(p.asked) >= life
}

// doubt notes that a silent target has closed a connection without a byte of
// HTTP/1.1: the next Open finds out again what it speaks.
func (p *Pool) doubt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = time.Time{}
}

// Time limits for a silent target. A multiple of the time to connect to it is
// added.
const (
	offerTime  = time.Second            // to accept a second connection
	hangUpTime = 250 * time.Millisecond // to close one whose protocol it does not speak
)

// onlyHTTP2 reports whether the silent target of c speaks only HTTP/2. Most
// silent targets do not know ALPN, and speak HTTP/1.1. But a crypto/tls server
// that names only h2 accepts clients that offer http/1.1. net/http then closes
// their connection, unless it speaks HTTP/1.1 nevertheless, as in httptest.
// took is the time in which c was opened.
func (p *Pool) onlyHTTP2(ctx context.Context, c *Conn, took time.Duration) bool {
	// limited, since some targets serve one connection at a time
	bounded, cancel := context.WithTimeout(ctx, offerTime+4*took)
	defer cancel()
	conf := p.TLS.Clone()
	conf.NextProtos = append([]string{"h2"}, conf.NextProtos...)
	other, err := p.dial(bounded, conf)
	if err != nil && bounded.Err() == nil {
		return false // the next Open tries again
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

// hangsUp reports whether the target closes c within that time, before any
// request was sent on it. It waits in parts: if the machine stands still until
// a deadline has passed, that costs only one part.
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
