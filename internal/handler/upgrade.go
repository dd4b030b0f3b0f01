package handler

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/tunnel"
)

// upgrade handles a 101: it switches both connections and copies bytes until
// both sides are done. A 101 without an upgrade request is the target's fault.
func (a *roundTrip) upgrade(res *http.Response) *exchange.Failure {
	upstream, _ := res.Body.(io.ReadWriteCloser)
	asked := a.f.UpgradeProtocol(a.q)
	if asked == "" {
		res.Body.Close()
		return a.classify(&exchange.AttemptError{Op: "read", Wrote: true, Err: exchange.ErrUnasked})
	}
	if err := a.grants(res, asked); err != nil {
		res.Body.Close()
		return &exchange.Failure{Op: "upgrade", Target: a.attempts.Target.Name, Side: exchange.SideUpstream, Status: http.StatusBadGateway,
			Reason: "http_upgrade_failed", Err: err}
	}
	defer upstream.Close()
	a.translate(res)
	if fail := a.modify(res); fail != nil {
		return fail
	}
	header.CleanResponse(res.Header)
	delete(a.w.Header(), a.x.Numbering.Name)
	a.x.Numbering.Show(res.Header, a.x.RequestID)
	a.edit.Apply(res.Header)
	a.attempts.AddOwn(res.Header, a.x.ClientScheme)

	client, ahead, err := a.switchClient(res, asked)
	switch {
	case errors.Is(err, http.ErrNotSupported):
		return &exchange.Failure{Op: "upgrade", Target: a.attempts.Target.Name, Side: exchange.SideProxy, Status: http.StatusInternalServerError,
			Reason: "proxy_internal_error", Err: fmt.Errorf("a handler around the Router passes on a ResponseWriter without Hijack: give it an Unwrap method: %w", err)}
	case err != nil:
		return &exchange.Failure{Op: "upgrade", Target: a.attempts.Target.Name, Side: exchange.SideClient, Status: exchange.StatusClientClosed,
			Reason: "http_upgrade_failed", Err: err}
	}
	a.tell() // a handler may return while the tunnel goes on
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cut := func() { // unblocks the tunnel in any state
		cancel()
		client.Close()
		upstream.Close()
	}
	defer a.bind(cancel, cut)()
	a.attempts.AddStreams(1)
	defer a.attempts.AddStreams(-1)
	a.flight.upgraded(cancel, a.f.StreamTimeout)
	t := tunnel.Tunnel{Client: tunnel.Side{Conn: client, Buffered: ahead}, Upstream: tunnel.Side{Conn: upstream},
		Idle: a.f.IdleTimeout, WebSocket: asked == "websocket"}
	end := t.Run(ctx)
	a.x.RequestBytes, a.x.ResponseBytes = end.FromClient, end.FromUpstream
	return nil
}

// grants returns nil if a 101 switches to the requested protocol, and otherwise
// an error that says why not.
func (a *roundTrip) grants(res *http.Response, asked string) error {
	_, ok := res.Body.(io.ReadWriteCloser)
	granted := header.UpgradeProtocol(res.Header)
	switch {
	case !ok || granted != asked:
		return fmt.Errorf("upgrade to %q requested, but the target switched to %q", asked, granted)
	case asked == "websocket" && !a.accepts(res.Header):
		return errAccept
	}
	return nil
}

var errAccept = errors.New("the target switched to WebSocket, but its Sec-WebSocket-Accept does not answer our key")

// bind calls end to end the upgraded connection politely, and cut to end it
// immediately. With a grace, the sweeper takes care of the route and the target
// instead. The returned function undoes bind.
func (a *roundTrip) bind(end, cut func()) (unbind func()) {
	target, lives := &a.attempts.Target.Span, a.x.Lives
	if stay := a.attempts.Stay(lives[exchange.RouteLife]); stay != nil {
		a.flight.remain(stay)
		target, lives[exchange.RouteLife] = stay.Span(), nil
	}
	undo := []func(){target.Bind(end, cut)}
	if around := a.attempts.Around(); around != nil {
		undo = append(undo, around.Bind(end, cut))
	}
	for _, life := range lives {
		if life != nil {
			stop := context.AfterFunc(life, end)
			undo = append(undo, func() { stop() })
		}
	}
	return func() {
		for _, f := range undo {
			f()
		}
	}
}

// switchClient sends the 101 (or, on an HTTP/2 stream, the 200 of RFC 8441) and
// returns the client's side with the bytes that it has already sent.
func (a *roundTrip) switchClient(res *http.Response, protocol string) (io.ReadWriteCloser, []byte, error) {
	rc := http.NewResponseController(a.w)
	if a.q.Method == http.MethodConnect {
		a.wrote = true
		a.x.Status = http.StatusOK
		res.Header.Del("Sec-Websocket-Accept") // answers the key we made
		a.edit.Drop(a.w.Header())
		a.x.Edited(a.edit.Spared())
		for k, v := range res.Header {
			a.w.Header()[k] = v
		}
		a.w.WriteHeader(http.StatusOK)
		return &stream{ReadCloser: a.q.Body, w: a.w, rc: rc}, nil, rc.Flush()
	}
	conn, brw, err := rc.Hijack()
	if err != nil {
		return nil, nil, err
	}
	switched := false
	defer func() {
		if !switched { // also after a panic in a connection of the program's own
			conn.Close()
		}
	}()
	a.wrote = true
	a.x.Status = http.StatusSwitchingProtocols
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	h := res.Header
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", protocol)
	for k, v := range a.w.Header() {
		if _, ours := h[k]; !ours && !a.edit.Drops(k) {
			h[k] = v
		}
	}
	err = writeSwitch(brw.Writer, h)
	ahead, _ := brw.Reader.Peek(brw.Reader.Buffered())
	err = errors.Join(err, conn.SetDeadline(time.Time{}))
	switched = err == nil
	return conn, ahead, err
}

// writeSwitch writes the head of a 101. http.Header.Write removes CR and LF
// from values.
func writeSwitch(w *bufio.Writer, h http.Header) error {
	_, err := w.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	return errors.Join(err, h.Write(w), second(w.WriteString("\r\n")), w.Flush())
}

func second(_ int, err error) error { return err }

// A stream is a client on an HTTP/2 stream: it sends the request's body, and
// gets the response's body.
type stream struct {
	io.ReadCloser
	w       io.Writer
	rc      *http.ResponseController
	writing atomic.Bool
}

// Write sends p immediately.
func (s *stream) Write(p []byte) (int, error) {
	s.writing.Store(true)
	defer s.writing.Store(false)
	n, err := s.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, s.rc.Flush()
}

// Close ends a Read and a Write in progress. A stream without a write in
// progress ends cleanly when its handler returns.
func (s *stream) Close() error {
	if s.writing.Load() {
		_ = s.rc.SetWriteDeadline(time.Unix(1, 0))
	}
	return s.ReadCloser.Close()
}
