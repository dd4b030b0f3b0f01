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

// A ServeFunc forwards q by f, as the handler lane does.
type ServeFunc func(f *Forwarder, w http.ResponseWriter, q *http.Request, x *exchange.Exchange)

// A mirror sends copies of a share of the requests to another Forwarder, and
// discards the responses.
type mirror struct {
	to    *Forwarder
	share float64
	serve ServeFunc
	slots chan struct{} // one for each copy in flight

	mu   sync.Mutex         // guards what follows
	ctx  context.Context    // of the copies
	stop context.CancelFunc // ends ctx

	ending sync.Mutex // held while end waits for all copies
}

// Limits of mirrors. A copy beyond maxCopies is not made, since a slow mirror
// must not cost unlimited memory.
const (
	maxCopies   = 128
	copyTimeout = 30 * time.Second
	endPatience = 5 * time.Second // longest wait for the end of background work
)

// Mirror sends copies of that share of the exchanges to the other Forwarder,
// from the next one on; nil ends that, and the copies in flight. A copy is sent
// when the exchange is over, if the request's body is complete and at most
// exchange.ReplayLimit long. serve forwards the copies.
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

// stopped ends the copies and the background work of a mirror that was replaced
// or removed.
func (m *mirror) stopped() {
	if m != nil {
		m.end()
		m.to.CloseIdle()
	}
}

// end ends the copies in flight and waits for them, but at most endPatience: a
// hook or a transport may ignore its context. New copies may follow.
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

// context returns the context of a copy.
func (m *mirror) context() (context.Context, context.CancelFunc) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return context.WithTimeout(m.ctx, copyTimeout)
}

// Mirrors decides at random whether the exchange is copied.
func (f *Forwarder) Mirrors() bool {
	m := f.mirrored.Load()
	return m != nil && rand.Float64() < m.share
}

// CopyBytes sends a copy of req in the fast lane. body is its whole body; x has
// its client.
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
		x.OriginOf(q) // the copy has no connection to ask
	}
	c := q.Clone(context.Background())
	f.send(c, body, x)
}

// send lets the mirror serve q, on its own goroutine.
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
		defer func() { _ = recover() }() // a response that was cut off, which does not matter
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
