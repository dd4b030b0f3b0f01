package handler

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/header"
)

// respond copies the target's final response to the client.
func (a *roundTrip) respond(res *http.Response) *exchange.Failure {
	defer res.Body.Close()
	defer a.stopUpload(res)
	a.translate(res)
	if fail := a.modify(res); fail != nil {
		return fail
	}
	if page := a.f.Page(res.StatusCode, a.q.Header.Get("Content-Type")); page != nil && pageable(a.x) {
		a.page(res, page)
		return nil
	}
	if res != &a.res {
		a.copyHeader(res)
	}
	if res.ContentLength < 0 && res.Body != http.NoBody && (a.events || !a.wrote && forward.EventStream(a.w.Header().Get("Content-Type"))) {
		a.flight.remain(a.attempts.Stay(a.x.Lives[exchange.RouteLife]))
	}
	announced := 0
	if !a.wrote {
		announced = a.writeHead(res)
	}
	switch {
	case res.Body == http.NoBody:
	case res.ContentLength < 0:
		tellEnding(a.w, ending.Unsized)
	case res.ProtoMajor == 1: // a length excludes trailers
		tellEnding(a.w, ending.Untrailed)
	}
	stream := streams(res) // before another goroutine reads the body, which fills Trailer
	if a.absorbs(res) {
		behind := a.readAhead(res.Body, a.f.BufferResponses)
		defer behind.Close()
		defer a.stopUpload(res)
		res.Body = behind
	}
	if fail := a.copyBody(res, stream); fail != nil {
		return fail
	}
	a.writeTrailers(res, announced)
	return nil
}

// stopUpload ends the upload before a response of HTTP/2 is closed. Closing
// would wait for the upload. The client may have stopped that, and may itself
// wait for the end of the response.
func (a *roundTrip) stopUpload(res *http.Response) {
	if res.ProtoMajor == 2 && a.body != nil && !a.body.Whole() {
		a.body.detach()
	}
}

// absorbs reports whether to read the response ahead. A stream is not read
// ahead.
func (a *roundTrip) absorbs(res *http.Response) bool {
	return a.f.BufferResponses > 0 && res.Body != http.NoBody && res.ContentLength != 0 && a.q.Method != http.MethodConnect && !a.x.Mirrored &&
		!forward.EventStream(a.w.Header().Get("Content-Type")) && exchange.TakesPage(a.q.Header.Get("Content-Type"))
}

// page sends a page of the program in place of the response's body, and stops
// reading that.
func (a *roundTrip) page(res *http.Response, page http.Handler) {
	res.Body.Close()
	maps.DeleteFunc(res.Header, func(k string, _ []string) bool { return exchange.DescribesBody(k) })
	a.copyHeader(res)
	h := a.w.Header()
	a.x.Numbering.Show(h, a.x.RequestID)
	a.edit.Apply(h)
	a.x.Edited(a.edit.Spared())
	a.attempts.AddOwn(h, a.x.ClientScheme)
	a.closeAfter()
	a.wrote = true
	servePage(&exchange.Answer{Status: res.StatusCode, Page: page}, a.w, a.q, a.x)
}

// translate rewrites paths in the head to those that the client knows. On the
// short way that is already done.
func (a *roundTrip) translate(res *http.Response) {
	if a.f.Translates() && res != &a.res {
		a.f.TranslateHeader(res.Header, a.attempts.Target, a.q.Host, a.x.ClientHost)
	}
}

// modify runs the user's hook. An error of the hook, or a panic in it, is the
// failure.
func (a *roundTrip) modify(res *http.Response) *exchange.Failure {
	if a.f.ModifyResponse == nil {
		return nil
	}
	var err error
	func() {
		defer exchange.Contain("ModifyResponse", &err)
		err = a.f.ModifyResponse(res)
	}()
	if err == nil {
		return nil
	}
	return &exchange.Failure{Op: "read", Target: a.attempts.Target.Name, Side: exchange.SideProxy, Status: hookStatus(err),
		Reason: "proxy_internal_error", Err: err}
}

// copyHeader copies the fields that are forwarded. Fields set by outer handlers
// stay.
func (a *roundTrip) copyHeader(res *http.Response) {
	a.named = res.Header["Connection"]
	required := res.Header["Upgrade"]
	header.CleanResponse(res.Header)
	h := a.w.Header()
	a.requireUpgrade(h, res.StatusCode, required)
	for k, v := range res.Header {
		if k == "Content-Length" && (len(res.Trailer) > 0 && a.q.ProtoMajor == 1 || res.StatusCode == http.StatusNoContent) {
			continue // trailers need chunks on HTTP/1.1, and a 204 has no length (RFC 9110, 8.6)
		}
		if old, ok := h[k]; ok {
			v = append(old[:len(old):len(old)], v...)
		}
		h[k] = v
	}
}

// requireUpgrade tells a client of HTTP/1.1 which protocols a 426 requires (RFC
// 9110, 15.5.22).
func (a *roundTrip) requireUpgrade(h http.Header, status int, protocols []string) {
	if status == http.StatusUpgradeRequired && len(protocols) > 0 && a.q.ProtoMajor == 1 && !exchange.IsHTTP10(a.q) {
		h["Upgrade"], h["Connection"] = protocols, []string{"Upgrade"}
	}
}

// writeHead sends the status and the fields, and returns how many trailers it
// announced.
func (a *roundTrip) writeHead(res *http.Response) (announced int) {
	h := a.w.Header()
	a.x.Numbering.Show(h, a.x.RequestID)
	a.edit.Apply(h)
	a.x.Edited(a.edit.Spared())
	a.attempts.AddOwn(h, a.x.ClientScheme)
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // net/http would guess one
	}
	if len(res.Trailer) > 0 { // avoids an allocation for sorting nothing
		announced = a.announceTrailers(h, res.Trailer)
	}
	if a.flight.order.Answer.Keys != nil {
		exchange.Arrange(a.w, a.answerOrder())
	}
	a.closeAfter()
	a.x.Status = res.StatusCode
	a.wrote = true
	a.w.WriteHeader(res.StatusCode)
	return announced
}

// announceTrailers adds the names of the forwarded trailers to h, sorted.
func (a *roundTrip) announceTrailers(h, trailers http.Header) (announced int) {
	for _, k := range slices.Sorted(maps.Keys(trailers)) {
		if a.passes(k) {
			h.Add("Trailer", k)
			announced++
		}
	}
	return announced
}

// An ending is a writer that takes hints about the end of a response.
type ending interface {
	// Unsized lets a response without a length from its target go out without
	// one, however short it is.
	Unsized()

	// Untrailed promises that no trailers follow a body of known length.
	Untrailed()
}

// tellEnding calls how for the ending below w. With a foreign server there is
// none, and a short response may get a length.
func tellEnding(w http.ResponseWriter, how func(ending)) {
	for {
		switch inner := w.(type) {
		case ending:
			how(inner)
			return
		case interface{ Unwrap() http.ResponseWriter }:
			w = inner.Unwrap()
		default:
			return
		}
	}
}

// streams reports whether the response has a body of unknown length, trailers,
// or an event stream.
func streams(res *http.Response) bool {
	return res.ContentLength < 0 || len(res.Trailer) > 0 ||
		strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream")
}

// copyBody copies the response body as it arrives. It flushes whenever the
// target has no more bytes for now. Some clients cannot tell that: then a
// stream is flushed after each read, and any other body after a short read.
func (a *roundTrip) copyBody(res *http.Response, stream bool) *exchange.Failure {
	a.flight.begun.Store(true)
	if a.body != nil {
		a.body.Answer()
	}
	a.flight.open.Store(stream && res.Body != http.NoBody)
	buf := exchange.Buffers.Get().(*[32 << 10]byte)
	defer exchange.Buffers.Put(buf)
	for last := len(buf); ; {
		left := buffered(res.Body)
		if left <= 0 {
			a.flight.touch() // from now on the target's time counts
		}
		if left == 0 || left < 0 && (stream || last < len(buf)) {
			a.flight.slow.Store(true)
			err := a.flight.rc.Flush() // a write error shows on the next write
			a.flight.slow.Store(false)
			if errors.Is(err, http.ErrNotSupported) {
				a.unflushed()
			}
		}
		n, err := res.Body.Read(buf[:])
		last = n
		if n > 0 {
			a.flight.touch() // the client's time counts
			a.flight.slow.Store(true)
			m, werr := a.w.Write(buf[:n])
			a.flight.slow.Store(false)
			if !a.x.Watched { // otherwise a Watcher counts
				a.x.ResponseBytes += int64(m)
			}
			if errors.Is(werr, http.ErrHandlerTimeout) {
				return a.cut(exchange.SideProxy, a.x.Status, exchange.ErrDeadline)
			}
			if werr != nil && !errors.Is(werr, http.ErrBodyNotAllowed) {
				return a.cut(exchange.SideClient, exchange.StatusClientClosed, werr)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return a.copyFailure(err)
		}
	}
}

// unflushed reports an event stream, or a response of gRPC, that cannot be
// flushed: its client waits for what has already come. For other responses that
// matters less.
func (a *roundTrip) unflushed() {
	kind := a.w.Header().Get("Content-Type")
	if !a.x.Mirrored && (a.events || forward.EventStream(kind) || !exchange.TakesPage(kind)) {
		a.f.NotFlushed(a.x.Pattern)
	}
}

// copyFailure returns the failure of a body that ended early, with the side
// that caused it.
func (a *roundTrip) copyFailure(err error) *exchange.Failure {
	var hook *exchange.PanicError
	if a.body != nil && (errors.As(a.body.Failed(), &hook) || a.body.Failed() == exchange.ErrSpoiled) {
		return a.cut(exchange.SideProxy, a.x.Status, a.body.Failed())
	}
	switch cut := a.flight.why(); {
	case a.interrupted():
	case errors.As(cut, &hook):
		return a.cut(exchange.SideProxy, a.x.Status, cut)
	case cut == exchange.ErrIdle:
		return a.cut(exchange.SideUpstream, a.x.Status, cut)
	case cut == exchange.ErrCut:
		return a.cut(exchange.SideDrain, a.x.Status, cut)
	case exchange.Revoked(a.q.Context()) != nil:
		return a.cut(exchange.SideProxy, a.x.Status, exchange.Revoked(a.q.Context()))
	case cut == exchange.ErrStalled: // the client read on, but too late
		return a.cut(exchange.SideClient, exchange.StatusClientClosed, cut)
	case a.body != nil && a.body.Failed() != nil:
		return a.cut(exchange.SideClient, exchange.StatusClientClosed, a.body.Failed())
	case a.q.Context().Err() != nil:
		return a.cut(exchange.SideClient, exchange.StatusClientClosed, err)
	}
	return a.cut(exchange.SideUpstream, a.x.Status, err)
}

// interrupted reports whether the attempt has failed before the end of the
// upload.
func (a *roundTrip) interrupted() bool { return a.body != nil && a.body.interrupted.Load() }

// cut returns the failure of a response that has begun.
func (a *roundTrip) cut(side exchange.Side, status int, err error) *exchange.Failure {
	f := &exchange.Failure{Op: "copy", Target: a.attempts.Target.Name, Side: side, Status: a.x.Status,
		Reason: "http_response_incomplete", Err: err}
	a.x.Status = status
	return f
}

// buffered returns how many bytes of body can be read without waiting, or a
// negative number if that is unknown.
func buffered(body io.Reader) int {
	if b, ok := body.(interface{ Buffered() int }); ok {
		return b.Buffered()
	}
	return -1
}

// writeTrailers sends the trailers, including those that were not announced.
func (a *roundTrip) writeTrailers(res *http.Response, announced int) {
	if len(res.Trailer) == 0 {
		return
	}
	_ = a.flight.rc.Flush() // forces chunks, without which there is no trailer
	h := a.w.Header()
	for k, v := range res.Trailer {
		if !a.passes(k) {
			continue
		}
		delete(h, k) // otherwise net/http sends the head's field of that name again
		if announced != len(res.Trailer) {
			k = http.TrailerPrefix + k
		}
		h[k] = v
	}
}

// passes reports whether a trailer of the response is forwarded.
func (a *roundTrip) passes(name string) bool {
	edit := a.edit
	if a.x.About != nil { // the Router edits the head later, but no trailers
		edit = a.f.EditIn(outer(a.x.About))
	}
	return edit.PassesTrailer(name, a.named...)
}
