package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
)

// A ServeFunc lets f forward q, as the handler lane does.
type ServeFunc func(f *Forwarder, w http.ResponseWriter, q *http.Request, x *exchange.Exchange)

// A mirror sends copies of a share of the requests to another Forwarder, whose
// answers nobody sees.
type mirror struct {
	to    *Forwarder
	share float64
	serve ServeFunc
	slots chan struct{} // one for each copy in flight

	mu   sync.Mutex         // guards what follows
	ctx  context.Context    // of the copies
	stop context.CancelFunc // ends it

	ending sync.Mutex // held by who waits for the end of all
}

// Bounds of mirrors. A copy beyond maxCopies is not made: a mirror that is slow
// must not cost memory without bound.
const (
	maxCopies   = 128
	copyTimeout = 30 * time.Second
	endPatience = 5 * time.Second // with what was told to end in the background
)

// Mirror sends copies of that share of the exchanges to the other Forwarder,
// from the next one on; nil ends it, and the copies in flight. Copies are sent
// when the exchange is over, if what it had of a body is whole and at most
// exchange.ReplayLimit. serve carries them.
func (f *Forwarder) Mirror(to *Forwarder, share float64, serve ServeFunc) error {
	switch {
	case to == nil:
		f.mirrored.Swap(nil).stopped()
		return nil
	case to == f:
		return errors.New("an upstream cannot mirror itself: pass another one")
	case !(share >= 0 && share <= 1): // NaN too
		return fmt.Errorf("the share of a mirror is %v: want 0 to 1, such as 0.1 for a tenth", share)
	}
	m := &mirror{to: to, share: share, serve: serve, slots: make(chan struct{}, maxCopies)}
	m.ctx, m.stop = context.WithCancel(context.Background())
	f.mirrored.Swap(m).stopped()
	return nil
}

// stopped ends what goes on because of a mirror that is one no more.
func (m *mirror) stopped() {
	if m != nil {
		m.end()
		m.to.CloseIdle()
	}
}

// end ends the copies in flight, and waits for that, but not for ever for a
// hook or a transport that does not heed its context. Others may follow.
func (m *mirror) end() {
	m.ending.Lock()
	defer m.ending.Unlock()
	m.mu.Lock()
	m.stop()
	m.ctx, m.stop = context.WithCancel(context.Background())
	m.mu.Unlock()
	late := time.NewTimer(endPatience)
	defer late.Stop()
	for range cap(m.slots) {
		select {
		case m.slots <- struct{}{}:
			defer func() { <-m.slots }()
		case <-late.C:
			return
		}
	}
}

// context returns that of a copy.
func (m *mirror) context() (context.Context, context.CancelFunc) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return context.WithTimeout(m.ctx, copyTimeout)
}

// Mirrors draws whether the exchange is to be copied.
func (f *Forwarder) Mirrors() bool {
	m := f.mirrored.Load()
	return m != nil && rand.Float64() < m.share
}

// CopyBytes sends a copy of req in the fast lane. body is its whole body; x
// says who it is from.
func (f *Forwarder) CopyBytes(req *h1.Request, body []byte, x *exchange.Exchange) {
	target := string(req.Target)
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return
	}
	q := &http.Request{Method: string(req.Method), URL: u, RequestURI: target, Host: string(req.Host),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: make(http.Header, len(req.Fields))}
	for i := range req.Fields {
		fd := &req.Fields[i]
		if name := http.CanonicalHeaderKey(string(fd.Name)); name != "Host" && name != "Content-Length" && name != "Transfer-Encoding" {
			q.Header.Add(name, string(fd.Value))
		}
	}
	f.send(x.Numbered(q), bytes.Clone(body), x)
}

// Copy sends a copy of q, whose body was body.
func (f *Forwarder) Copy(q *http.Request, body []byte, x *exchange.Exchange) {
	if m := f.mirrored.Load(); m != nil && m.to.Introduces() {
		x.OriginOf(q) // the copy knows no connection
	}
	c := q.Clone(context.Background())
	f.send(c, body, x)
}

// send lets the mirror serve q, on a goroutine of its own.
func (f *Forwarder) send(q *http.Request, body []byte, x *exchange.Exchange) {
	m := f.mirrored.Load()
	if m == nil {
		return
	}
	select {
	case m.slots <- struct{}{}:
	default:
		return
	}
	ctx, cancel := m.context()
	q.Body, q.ContentLength, q.TransferEncoding, q.Trailer = http.NoBody, 0, nil, nil
	if len(body) > 0 {
		q.Body, q.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	c := &exchange.Exchange{Via: x.Via, Name: x.Name, Trusted: x.Trusted, Mirrored: true}
	c.Client, c.Peer, c.Scheme, c.Start = x.Client, x.Peer, x.Scheme, time.Now()
	c.RequestID, c.Origin = x.RequestID, x.Origin
	go func() {
		defer func() { <-m.slots }()
		defer func() { _ = recover() }() // an answer that was cut off: nobody waits for it
		defer cancel()
		m.serve(m.to, &discard{header: make(http.Header)}, q.WithContext(ctx), c)
	}()
}

// discard is the client of a copy.
type discard struct{ header http.Header }

// Header implements http.ResponseWriter.
func (d *discard) Header() http.Header { return d.header }

// Write implements http.ResponseWriter.
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }

// WriteHeader implements http.ResponseWriter.
func (d *discard) WriteHeader(int) {}
