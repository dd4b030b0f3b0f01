package serve_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/serve"
)

// A peer is an HTTP/2 client that sends single frames and may break every rule.
// After listen, it reads frames in the background.
type peer struct {
	*http2.Framer
	t     testing.TB
	c     net.Conn
	block bytes.Buffer
	enc   *hpack.Encoder

	mu     sync.Mutex
	seen   []seen
	ended  bool
	why    error
	events chan struct{} // has room for one
	done   chan struct{} // closes when reading has ended
}

// seen is a frame received from the server.
type seen struct {
	kind   http2.FrameType
	stream uint32
	fields []string // of HEADERS, "name: value"
	data   string
	code   http2.ErrCode
	last   uint32 // of GOAWAY
	end    bool   // END_STREAM
	ack    bool
	by     uint32 // of WINDOW_UPDATE
}

func (s seen) String() string {
	return fmt.Sprint(s.kind, " ", s.stream, " ", s.fields, " ", len(s.data), " ", s.code, " ", s.end)
}

// status returns the status of a response head, or "".
func (s seen) status() string {
	for _, f := range s.fields {
		if v, ok := strings.CutPrefix(f, ":status: "); ok {
			return v
		}
	}
	return ""
}

// startH2 starts a server of h without TLS, and returns its address.
func startH2(t testing.TB, h http.HandlerFunc, tune ...func(*serve.Server)) string {
	t.Helper()
	s := &serve.Server{Handler: h, H2C: true, Log: slog.New(slog.DiscardHandler)}
	for _, f := range tune {
		f(s)
	}
	return start(t, s)
}

// dialH2 connects to the server at addr, and calls newPeer and listen.
func dialH2(t testing.TB, addr string, settings ...http2.Setting) *peer {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	p := newPeer(t, c, settings...)
	p.listen()
	return p
}

// newPeer sends the preface and settings on c.
func newPeer(t testing.TB, c net.Conn, settings ...http2.Setting) *peer {
	t.Helper()
	p := &peer{t: t, c: c, Framer: http2.NewFramer(c, c), events: make(chan struct{}, 1), done: make(chan struct{})}
	p.AllowIllegalWrites = true
	p.enc = hpack.NewEncoder(&p.block)
	t.Cleanup(func() { c.Close() })
	_, err := io.WriteString(c, http2.ClientPreface)
	require.NoError(t, err)
	require.NoError(t, p.WriteSettings(settings...))
	return p
}

// listen reads what the server sends.
func (p *peer) listen() {
	p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	from := p.Framer
	go func() {
		defer close(p.done)
		for {
			f, err := from.ReadFrame()
			p.mu.Lock()
			if err != nil {
				p.ended, p.why = true, err
			} else {
				p.seen = append(p.seen, see(f))
			}
			p.mu.Unlock()
			select {
			case p.events <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
}

func see(f http2.Frame) seen {
	s := seen{kind: f.Header().Type, stream: f.Header().StreamID}
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		s.end = f.StreamEnded()
		for _, field := range f.Fields {
			s.fields = append(s.fields, field.Name+": "+field.Value)
		}
	case *http2.DataFrame:
		s.data, s.end = string(f.Data()), f.StreamEnded()
	case *http2.RSTStreamFrame:
		s.code = f.ErrCode
	case *http2.GoAwayFrame:
		s.code, s.last = f.ErrCode, f.LastStreamID
	case *http2.WindowUpdateFrame:
		s.by = f.Increment
	case *http2.PingFrame:
		s.ack, s.data = f.IsAck(), string(f.Data[:])
	case *http2.SettingsFrame:
		s.ack = f.IsAck()
	}
	return s
}

// wait waits until is returns true for the frames seen, and returns them. ended
// means that the connection has ended.
func (p *peer) wait(what string, is func(all []seen, ended bool) bool) []seen {
	p.t.Helper()
	timeout := time.After(4 * proxytest.Patience)
	for {
		p.mu.Lock()
		all, ended := slices.Clone(p.seen), p.ended
		p.mu.Unlock()
		if is(all, ended) {
			return all
		}
		if ended {
			p.t.Fatalf("the connection ends before %s: %v, %v", what, p.why, all)
		}
		select {
		case <-p.events:
		case <-timeout:
			p.t.Fatalf("no %s: %v", what, all)
		}
	}
}

// frame waits for a frame.
func (p *peer) frame(what string, is func(seen) bool) seen {
	p.t.Helper()
	all := p.wait(what, func(all []seen, _ bool) bool { return slices.ContainsFunc(all, is) })
	return all[slices.IndexFunc(all, is)]
}

// closed waits for the end of the connection, and returns the code of its last
// GOAWAY.
func (p *peer) closed() (code http2.ErrCode, polite bool) {
	p.t.Helper()
	for _, s := range p.wait("end", func(_ []seen, ended bool) bool { return ended }) {
		if s.kind == http2.FrameGoAway {
			code, polite = s.code, true
		}
	}
	return code, polite
}

// A reply is the response of a stream, or its reset.
type reply struct {
	status   string
	fields   []string
	interim  []string // statuses of interim responses
	body     string
	trailers []string
	reset    bool
	code     http2.ErrCode
	ended    bool // by END_STREAM
}

// reply waits for the end of a stream's response.
func (p *peer) reply(stream uint32) (r reply) {
	p.t.Helper()
	p.wait(fmt.Sprint("answer on stream ", stream), func(all []seen, ended bool) bool {
		r = reply{}
		for _, s := range all {
			if s.stream == stream {
				r.add(s)
			}
		}
		return r.ended || r.reset
	})
	return r
}

func (r *reply) add(s seen) {
	switch {
	case s.kind == http2.FrameRSTStream:
		r.reset, r.code = true, s.code
	case s.kind == http2.FrameData:
		r.body += s.data
	case s.kind == http2.FrameHeaders && strings.HasPrefix(s.status(), "1"):
		r.interim = append(r.interim, s.status())
	case s.kind == http2.FrameHeaders && r.status == "":
		r.status, r.fields = s.status(), s.fields
	case s.kind == http2.FrameHeaders:
		r.trailers = s.fields
	}
	r.ended = r.ended || s.end
}

// fields encodes pairs of names and values.
func (p *peer) fields(pairs ...string) []byte {
	p.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		_ = p.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return bytes.Clone(p.block.Bytes())
}

// ask opens a stream with a request; more means that a body follows.
func (p *peer) ask(stream uint32, more bool, pairs ...string) {
	p.t.Helper()
	require.NoError(p.t, p.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: p.fields(pairs...), EndStream: !more, EndHeaders: true}))
}

// of returns the fields of a request.
func of(method, path string, more ...string) []string {
	return append([]string{":method", method, ":scheme", "http", ":authority", "a.test", ":path", path}, more...)
}

// dialBubble starts a server of in-memory connections in a synctest bubble. It
// stops with the bubble, or by stop.
func dialBubble(t *testing.T, tune func(*serve.Server), h http.HandlerFunc) (dial func() net.Conn, stop func() error) {
	t.Helper()
	ln := newPipes()
	s := &serve.Server{Handler: h, H2C: true, Log: slog.New(slog.DiscardHandler)}
	if tune != nil {
		tune(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { assert.NoError(t, stop()) })
	return ln.dial, stop
}

// startDraining is startH2 with a func that starts a drain. Its channel
// receives the result of Serve.
func startDraining(t testing.TB, h http.HandlerFunc) (addr string, drain func() <-chan error) {
	t.Helper()
	s := &serve.Server{Handler: h, H2C: true, Log: slog.New(slog.DiscardHandler)}
	ln := proxytest.Listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(cancel)
	return ln.Addr().String(), func() <-chan error {
		cancel()
		return done
	}
}
