package serve_test

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
)

// A move sends one or two frames. Whether they are legal depends on the stream
// and its state.
type move struct {
	name string
	send func(p *peer, id uint32)
}

// moves are all moves. Read-only.
var moves = []move{
	{"a request", func(p *peer, id uint32) { p.ask(id, false, of("GET", "/")...) }},
	{"the head of an upload", func(p *peer, id uint32) { p.ask(id, true, of("POST", "/")...) }},
	{"trailers", func(p *peer, id uint32) { p.ask(id, false, "x-t", "1") }},
	{"trailers without END_STREAM", func(p *peer, id uint32) { p.ask(id, true, "x-t", "1") }},
	{"a malformed request", func(p *peer, id uint32) { p.ask(id, false, of("GET", "/", "X-A", "1")...) }},
	{"an invalid header block", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, "\xff\xff\xff\xff\xff\x7f")},
	{"a header block that ends in a field", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, "\x00\x05x")},
	{"a table that is too large", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, "\x3f\xe2\x1f")},
	{"a request that depends on itself", func(p *peer, id uint32) {
		_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.fields(of("GET", "/")...), EndStream: true, EndHeaders: true, Priority: http2.PriorityParam{StreamDep: id, Weight: 1}})
	}},
	{"a request that is all padding", raw(http2.FrameHeaders, http2.FlagHeadersPadded|http2.FlagHeadersEndHeaders, "\x09\x82")},
	{"a request of no bytes", raw(http2.FrameHeaders, http2.FlagHeadersPadded|http2.FlagHeadersEndHeaders, "")},
	{"a PING in a header block", func(p *peer, id uint32) {
		_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.fields(of("GET", "/")...)})
		_ = p.WritePing(false, [8]byte{})
	}},
	{"the continuation of another stream", func(p *peer, id uint32) {
		_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.fields(of("GET", "/")...)})
		_ = p.WriteContinuation(id+2, true, nil)
	}},
	{"a continuation of nothing", raw(http2.FrameContinuation, http2.FlagContinuationEndHeaders, "\x82")},
	{"data", raw(http2.FrameData, 0, "abc")},
	{"the last data", raw(http2.FrameData, http2.FlagDataEndStream, "abc")},
	{"the end of the data", raw(http2.FrameData, http2.FlagDataEndStream, "")},
	{"more data than was announced", raw(http2.FrameData, 0, "abcdef")},
	{"padded data", raw(http2.FrameData, http2.FlagDataPadded, "\x02a\x00\x00")},
	{"data that is all padding", raw(http2.FrameData, http2.FlagDataPadded, "\x05abc")},
	{"data without a length of padding", raw(http2.FrameData, http2.FlagDataPadded, "")},
	{"a frame that is too large", raw(http2.FrameData, 0, strings.Repeat("x", 1<<14+1))},
	{"a reset", raw(http2.FrameRSTStream, 0, "\x00\x00\x00\x08")},
	{"a short reset", raw(http2.FrameRSTStream, 0, "\x00\x00\x00")},
	{"a window", raw(http2.FrameWindowUpdate, 0, "\x00\x00\x00\x01")},
	{"no window", raw(http2.FrameWindowUpdate, 0, "\x00\x00\x00\x00")},
	{"a window beyond the limit", raw(http2.FrameWindowUpdate, 0, "\x7f\xff\xff\xff")},
	{"a short window", raw(http2.FrameWindowUpdate, 0, "\x00\x00\x01")},
	{"a priority", raw(http2.FramePriority, 0, "\x00\x00\x00\x00\x10")},
	{"a priority of itself", func(p *peer, id uint32) { _ = p.WritePriority(id, http2.PriorityParam{StreamDep: id}) }},
	{"a short priority", raw(http2.FramePriority, 0, "\x00\x00\x00\x00")},
	{"settings", raw(http2.FrameSettings, 0, "\x00\x04\x00\x00\x10\x00\x00\xff\x00\x00\x00\x00")},
	{"an initial window beyond the limit", raw(http2.FrameSettings, 0, "\x00\x04\x80\x00\x00\x00")},
	{"frames that are too small", raw(http2.FrameSettings, 0, "\x00\x05\x00\x00\x00\x01")},
	{"a switch that is neither on nor off", raw(http2.FrameSettings, 0, "\x00\x02\x00\x00\x00\x02")},
	{"short settings", raw(http2.FrameSettings, 0, "\x00\x04\x00\x00\x10")},
	{"an acknowledgement of settings with a payload", raw(http2.FrameSettings, http2.FlagSettingsAck, "\x00\x04\x00\x00\x10\x00")},
	{"a PING", raw(http2.FramePing, 0, "12345678")},
	{"an answer to no PING", raw(http2.FramePing, http2.FlagPingAck, "12345678")},
	{"a short PING", raw(http2.FramePing, 0, "1234567")},
	{"a short GOAWAY", raw(http2.FrameGoAway, 0, "\x00\x00\x00\x00\x00\x00\x00")},
	{"a GOAWAY", raw(http2.FrameGoAway, 0, "\x00\x00\x00\x00\x00\x00\x00\x00")},
	{"a push", raw(http2.FramePushPromise, http2.FlagPushPromiseEndHeaders, "\x00\x00\x00\x02\x82")},
	{"a frame of an unknown kind", raw(0xee, 0xff, "whatever")},
}

// raw sends a frame without any check.
func raw(kind http2.FrameType, flags http2.Flags, payload string) func(*peer, uint32) {
	return func(p *peer, id uint32) { _ = p.WriteRawFrame(kind, flags, id, []byte(payload)) }
}

// states are streams in all states that are possible at the beginning of a
// session. Read-only.
var states = []struct {
	id   uint32
	name string
	open func(p *peer, id uint32)
}{
	{0, "the connection", nil},
	{1, "answered", func(p *peer, id uint32) { p.ask(id, false, of("GET", "/")...) }},
	{3, "open", func(p *peer, id uint32) { p.ask(id, true, of("POST", "/")...) }},
	{5, "half closed", func(p *peer, id uint32) { p.ask(id, false, of("GET", "/wait")...) }},
	{7, "reset by its client", func(p *peer, id uint32) {
		p.ask(id, true, of("POST", "/")...)
		_ = p.WriteRSTStream(id, http2.ErrCodeCancel)
	}},
	{9, "reset by its server", func(p *peer, id uint32) { p.ask(id, false, of("GET", "/", "X-A", "1")...) }},
	{11, "reset by its server before its end", func(p *peer, id uint32) { p.ask(id, true, of("POST", "/", "X-A", "1")...) }},
	{13, "skipped", nil},
	{15, "open, with a length", func(p *peer, id uint32) { p.ask(id, true, of("POST", "/", "content-length", "5")...) }},
	{16, "the server's", nil},
	{17, "idle", nil},
	{19, "idle, further on", nil},
}

// A deviation is an outcome of a move that differs from net/http's.
type deviation struct {
	ours, theirs, why string
	reset             bool // only for a stream that our server has reset
}

const (
	severe  = "RFC 9113, 5.4.1: a stream error may be treated as a connection error; we do so where only an attacker would gain otherwise"
	earlier = "there are two faults, and we report the other one"
)

// deviations are all known deviations. Read-only.
var deviations = []deviation{
	{"GOAWAY PROTOCOL_ERROR", "reset PROTOCOL_ERROR", severe, false},
	{"GOAWAY STREAM_CLOSED", "reset STREAM_CLOSED", severe, false},
	{"GOAWAY FLOW_CONTROL_ERROR", "reset FLOW_CONTROL_ERROR", severe, false},
	{"GOAWAY STREAM_CLOSED", "reset PROTOCOL_ERROR", severe, false},
	{"GOAWAY PROTOCOL_ERROR", "reset STREAM_CLOSED", severe, false},
	{"GOAWAY STREAM_CLOSED", "GOAWAY PROTOCOL_ERROR", "net/http does not know which streams have ended", false},
	{"", "reset STREAM_CLOSED", "RFC 9113, 5.1: frames for a stream that we have reset are ignored", true},
	{"", "reset PROTOCOL_ERROR", "the same", true},
	{"", "GOAWAY PROTOCOL_ERROR", "the same", true},
	{"GOAWAY STREAM_CLOSED", "GOAWAY COMPRESSION_ERROR", earlier, false},
	{"GOAWAY PROTOCOL_ERROR", "GOAWAY COMPRESSION_ERROR", earlier, false},
	{"GOAWAY PROTOCOL_ERROR", "GOAWAY FRAME_SIZE_ERROR", earlier, false},
	{"GOAWAY FRAME_SIZE_ERROR", "GOAWAY PROTOCOL_ERROR", earlier, false},
	{"GOAWAY FRAME_SIZE_ERROR", "the end", "RFC 9113, 5.4.1: net/http does not say why", false},
	{"GOAWAY FRAME_SIZE_ERROR", "", "net/http takes frames of up to 1 MiB", false},
	{"GOAWAY FRAME_SIZE_ERROR", "reset STREAM_CLOSED", "the same", false},
	{"GOAWAY FRAME_SIZE_ERROR", "reset PROTOCOL_ERROR", "the same", false},
	{"reset PROTOCOL_ERROR", "reset INTERNAL_ERROR", "RFC 9113, 8.1.1: net/http leaves a body that is too short to its handler", false},
	{"", "GOAWAY NO_ERROR", "we send GOAWAY only with the last response", false},
}

// A rebel is a client that breaks rules. It runs in a synctest bubble.
type rebel struct {
	*peer
	told  int             // number of frames already reported
	reset map[uint32]bool // streams that the server has reset
}

// newRebel opens the streams of states.
func newRebel(t *testing.T, dial func() net.Conn) *rebel {
	t.Helper()
	p := &rebel{peer: newPeer(t, dial()), reset: map[uint32]bool{}}
	p.listen()
	for _, s := range states {
		if s.open != nil {
			s.open(p.peer, s.id)
			synctest.Wait()
		}
	}
	p.news(0)
	return p
}

// does makes a move on stream id. It returns the outcome, and whether the
// connection is over.
func (p *rebel) does(m *move, id uint32) (outcome string, over bool) {
	m.send(p.peer, id)
	synctest.Wait()
	return p.news(id)
}

// news returns what the server has sent since the last call. Streams other than
// id have their numbers in it.
func (p *rebel) news(id uint32) (outcome string, over bool) {
	var all []string
	for _, f := range p.seen[p.told:] {
		about := fmt.Sprint(f.stream, ": ")
		if f.stream == id {
			about = ""
		}
		switch {
		case f.kind == http2.FrameGoAway:
			all, over = append(all, "GOAWAY "+f.code.String()), true
		case f.kind == http2.FrameRSTStream:
			all = append(all, about+"reset "+f.code.String())
			p.reset[f.stream] = true
		case f.status() != "":
			all = append(all, about+f.status())
		}
	}
	p.told = len(p.seen)
	if p.ended && !over {
		all, over = append(all, "the end"), true
	}
	slices.Sort(all)
	return strings.Join(all, ", "), over
}

// obey answers after it has read the body. For /wait it first waits for the end
// of the context.
func obey(w http.ResponseWriter, q *http.Request) {
	if q.URL.Path == "/wait" {
		<-q.Context().Done()
	}
	if _, err := io.ReadAll(q.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
	io.WriteString(w, "read")
}

// refusesLikeNetHTTP plays a script of two bytes a move to both servers, until
// they differ or end the connection. It counts deviations in used.
func refusesLikeNetHTTP(t *testing.T, script []byte, used map[deviation]int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		dial, _ := dialBubble(t, nil, obey)
		dialTheirs, stop := dialNetHTTP(http.HandlerFunc(obey))
		defer stop()
		// net/http's connections go on for a second after GOAWAY, so wait
		// longer
		defer time.Sleep(2 * time.Second)
		ours, theirs := newRebel(t, dial), newRebel(t, dialTheirs)
		defer ours.c.Close()
		defer theirs.c.Close()
		for ; len(script) >= 2; script = script[2:] {
			m, s := &moves[int(script[0])%len(moves)], &states[int(script[1])%len(states)]
			ignored := ours.reset[s.id]
			got, over := ours.does(m, s.id)
			want, too := theirs.does(m, s.id)
			if got != want {
				i := slices.IndexFunc(deviations, func(d deviation) bool { return d.ours == got && d.theirs == want && (ignored || !d.reset) })
				require.GreaterOrEqual(t, i, 0, "%s, stream %d, %s: we say %q, net/http %q", m.name, s.id, s.name, got, want)
				used[deviations[i]]++
				return
			}
			// net/http forgets that a malformed request has opened a stream
			if over || too || s.open == nil && strings.HasPrefix(got, "reset") {
				return
			}
		}
	})
}

// dialNetHTTP is dialBubble for net/http's server.
func dialNetHTTP(h http.Handler) (dial func() net.Conn, stop func()) {
	ln := newPipes()
	s := &http.Server{Handler: h, Protocols: new(http.Protocols), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	s.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	return ln.dial, func() {
		s.Close()
		<-done
	}
}

// Each move on a stream in each state has the same outcome as with net/http's
// server, apart from the deviations in the table.
func TestIllegalFramesHaveTheSameOutcomeAsWithNetHTTP(t *testing.T) {
	used := map[deviation]int{}
	for m := range moves {
		for s := range states {
			refusesLikeNetHTTP(t, []byte{byte(m), byte(s)}, used)
		}
	}
	for _, d := range deviations {
		assert.NotZero(t, used[d], "nothing differs by %q and %q: remove the deviation", d.ours, d.theirs)
	}
}

func FuzzIllegalFrames(f *testing.F) {
	random := rand.New(rand.NewPCG(1, 2)) // deterministic
	for range 200 {
		var script []byte
		for range 1 + random.IntN(20) {
			script = append(script, byte(random.IntN(len(moves))), byte(random.IntN(len(states))))
		}
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		refusesLikeNetHTTP(t, script[:min(len(script), 100)], map[deviation]int{})
	})
}
