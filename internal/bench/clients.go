package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// A tally is the result of one goroutine of the in-tree generator.
type tally struct {
	requests float64
	errors   int64
	times    []time.Duration
	err      error // the last error
}

// add counts one response that took d.
func (t *tally) add(d time.Duration) {
	t.requests++
	t.times = append(t.times, d)
}

// runClients runs the load with one goroutine per connection.
func runClients(ctx context.Context, l *load) (*outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, l.duration+grace)
	defer cancel()
	loop := l.requestLoop
	switch l.kind {
	case handshakes:
		loop = l.handshakeLoop
	case messages:
		loop = l.messageLoop
	}
	tallies := make([]tally, l.conns)
	start := time.Now()
	var wg sync.WaitGroup
	for i := range tallies {
		wg.Go(func() {
			t := &tallies[i]
			if err := loop(ctx, i, start.Add(l.duration), t); err != nil {
				t.errors, t.err = t.errors+1, err
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return sum(tallies, time.Since(start))
}

// sum adds up the tallies. It returns an error if there was no response at all.
func sum(tallies []tally, elapsed time.Duration) (*outcome, error) {
	o := &outcome{elapsed: elapsed}
	err := errors.New("no answer in time")
	var all []time.Duration
	for _, t := range tallies {
		o.requests += t.requests
		o.errors += t.errors
		all = append(all, t.times...)
		if t.err != nil {
			err = t.err
		}
	}
	if o.requests == 0 {
		return nil, err
	}
	o.setPercentiles(all)
	return o, nil
}

// slowEvery is how many requests of a connection there are per slow one.
const slowEvery = 100

// requestLoop sends requests on one connection until end at the load's rate.
func (l *load) requestLoop(ctx context.Context, i int, end time.Time, t *tally) error {
	c, err := dialClient(ctx, l)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	usual, slow := l.requestBytes(l.path), l.requestBytes(l.slow)
	p := newPace(l, i)
	for n := i; ; n++ {
		from := p.wait()
		if !from.Before(end) {
			return nil
		}
		if l.slow != "" && n%slowEvery == 0 {
			if err := c.exchange(slow); err != nil {
				return err
			}
			// This delay is not the proxy's fault: the next request counts from
			// now.
			p.restart()
			t.requests++
			continue
		}
		if err := c.exchange(usual); err != nil {
			return err
		}
		t.add(time.Since(from))
	}
}

// A pace spreads one connection's requests over time.
type pace struct {
	interval time.Duration // 0 means no pause
	due      time.Time
}

// newPace returns the pace of connection i of l. Together, all connections make
// the load's rate, but they do not send at the same time.
func newPace(l *load, i int) *pace {
	p := &pace{due: time.Now()}
	if l.rate > 0 {
		p.interval = time.Duration(float64(l.conns) / l.rate * float64(time.Second))
		p.due = p.due.Add(p.interval * time.Duration(i) / time.Duration(l.conns))
	}
	return p
}

// wait sleeps until the next request is due. It returns the time from which the
// request's latency counts. If the previous response was late, that is the due
// time, so that a stall counts for all requests that it delayed. If wait has
// slept, it is the present, since a sleep that takes too long is the
// generator's fault.
func (p *pace) wait() time.Time {
	if p.interval == 0 {
		return time.Now()
	}
	from := p.due
	if early := time.Until(from); early > 0 {
		time.Sleep(early)
		from = time.Now()
	}
	p.due = from.Add(p.interval)
	return from
}

// restart makes the next request due one interval from now.
func (p *pace) restart() { p.due = time.Now().Add(p.interval) }

// handshakeLoop opens one connection after the other and sends one request on
// each. The server closes first, so that the client's ports stay free.
func (l *load) handshakeLoop(ctx context.Context, _ int, end time.Time, t *tally) error {
	conf := l.tlsConfig()
	if l.resume {
		conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	request := l.requestBytes(l.path, "Connection: close")
	for first := true; ; first = false {
		from := time.Now()
		if !from.Before(end) && !first {
			return nil
		}
		c, err := dialTLS(ctx, l, conf)
		if err != nil {
			return err
		}
		resumed := c.conn.(*tls.Conn).ConnectionState().DidResume
		err = c.exchange(request)
		if err == nil {
			_, err = io.Copy(io.Discard, c.r)
		}
		c.conn.Close()
		if err != nil {
			return err
		}
		if !first && resumed != l.resume {
			return fmt.Errorf("resumed: %t, want %t", resumed, l.resume)
		}
		t.add(time.Since(from))
	}
}

// messageLoop sends WebSocket messages on one connection, and waits for each
// one to come back.
func (l *load) messageLoop(ctx context.Context, _ int, end time.Time, t *tally) error {
	c, err := dialClient(ctx, l)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	if _, err := c.conn.Write(l.requestBytes(l.path, "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "+key)); err != nil {
		return err
	}
	if status, _, err := c.readHead(); err != nil || status != 101 {
		return fmt.Errorf("status %d, %v", status, err)
	}
	// A final text frame of 32 bytes with a zero mask (RFC 6455, 5.2).
	frame := append([]byte{0x81, 0x80 | 32, 0, 0, 0, 0}, bytes.Repeat([]byte("m"), 32)...)
	back := make([]byte, len(frame))
	for {
		from := time.Now()
		if !from.Before(end) {
			return nil
		}
		if _, err := c.conn.Write(frame); err != nil {
			return err
		}
		if _, err := io.ReadFull(c.r, back); err != nil {
			return err
		}
		if !bytes.Equal(frame, back) {
			return fmt.Errorf("sent %x, got %x", frame, back)
		}
		t.add(time.Since(from))
	}
}

// openIdle opens l.conns connections, uses each once, and leaves them open.
func openIdle(ctx context.Context, l *load) (open []*client, err error) {
	request := l.requestBytes(l.path)
	for range l.conns {
		c, err := dialClient(ctx, l)
		if err != nil {
			return open, err
		}
		open = append(open, c)
		ask := c.exchange
		if l.proto == h2TLS {
			request, ask = l.streamBytes(), c.exchange2
		}
		if err := ask(request); err != nil {
			return open, err
		}
		c.r = nil // frees memory: only the proxy's is of interest
	}
	return open, nil
}
