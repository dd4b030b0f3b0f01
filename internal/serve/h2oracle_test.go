package serve_test

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/serve"
)

// startNetHTTP2 starts an HTTP/2 server of net/http without TLS.
func startNetHTTP2(t testing.TB, h http.Handler) string {
	t.Helper()
	ln := proxytest.Listen(t)
	s := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	s.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return ln.Addr().String()
}

// tell responds with what it sees of the request.
func tell(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	w.Header().Set("X-Asked", fmt.Sprint(q.Method, " ", q.RequestURI, " ", q.Host, " ", q.Proto, " ", q.ContentLength, " ", q.Header["Cookie"], " ", q.Header["X-A"]))
	switch q.URL.Path {
	case "/sized":
		w.Header().Set("Content-Length", "3000")
		_, _ = w.Write(make([]byte, 3000))
		return
	case "/204":
		w.WriteHeader(204)
		return
	case "/hints":
		w.WriteHeader(103)
		w.WriteHeader(201)
	case "/flush":
		_ = http.NewResponseController(w).Flush()
	case "/trailers":
		w.Header().Set("Trailer", "X-T")
		defer w.Header().Set("X-T", "t")
	}
	fmt.Fprint(w, len(body), " ", err, " ", q.Trailer)
}

// play sends the legal frames of a script, which has two bytes for each, and
// returns the reply of each stream.
func (p *peer) play(script []byte) map[uint32]reply {
	latest, open := uint32(0), map[uint32]bool{}
	any := func(arg byte) (uint32, bool) {
		if len(open) == 0 {
			return 0, false
		}
		ids := slices.Sorted(maps.Keys(open))
		return ids[int(arg)%len(ids)], true
	}
	_ = p.WriteWindowUpdate(0, 1<<20) // for all responses together
	sent := 0
	for ; len(script) >= 2 && latest < 60; script = script[2:] {
		p.move(script[0], script[1], &latest, open, any, &sent)
	}
	for id := range open {
		_ = p.WriteData(id, true, nil)
	}
	replies := map[uint32]reply{}
	for id := uint32(1); id <= latest; id += 2 {
		replies[id] = p.reply(id)
	}
	return replies
}

func (p *peer) move(what, arg byte, latest *uint32, open map[uint32]bool, any func(byte) (uint32, bool), sent *int) {
	id, ok := any(arg)
	switch what %= 12; {
	case what <= 3:
		p.openOne(what, arg, latest, open)
	case what == 4 && ok, what == 5 && ok, what == 6 && ok:
		if *sent += 10 * int(arg); *sent > 30_000 {
			return
		}
		_ = p.WriteDataPadded(id, what == 6, make([]byte, 10*int(arg)), make([]byte, arg%4))
		if what == 6 {
			delete(open, id)
		}
	case what == 7 && ok:
		_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.fields("x-sum", "1"), EndStream: true, EndHeaders: true})
		delete(open, id)
	case what == 8:
		_ = p.WritePing(false, [8]byte{arg})
	case what == 9:
		_ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10_000 + uint32(arg)})
	case what == 10 && ok:
		_ = p.WriteWindowUpdate(id, 1+uint32(arg))
	case what == 11:
		_ = p.WritePriority(*latest+2, http2.PriorityParam{Weight: arg})
	}
}

// openOne opens the next stream.
func (p *peer) openOne(what, arg byte, latest *uint32, open map[uint32]bool) {
	*latest += 2
	if *latest%2 == 0 {
		*latest--
	}
	path := []string{"/", "/sized", "/204", "/hints", "/flush", "/trailers", "/?a=b", "/%2F"}[arg%8]
	more := what >= 2
	method := "POST"
	if !more {
		method = []string{"GET", "HEAD", "DELETE"}[arg/8%3]
	}
	fields := of(method, path, "cookie", "a=1", "cookie", "b=2", "x-a", strings.Repeat("x", int(arg)))
	if more { // net/http drops trailers that are not announced
		fields = append(fields, "trailer", "x-sum")
	}
	block := p.fields(fields...)
	cut := len(block)
	if what%2 == 1 { // in two frames
		cut = int(arg) % len(block)
	}
	_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: *latest, BlockFragment: block[:cut], EndStream: !more, EndHeaders: cut == len(block), PadLength: arg % 3})
	if cut < len(block) {
		_ = p.WriteContinuation(*latest, true, block[cut:])
	}
	if more {
		open[*latest] = true
	}
}

// comparable returns r without Date, and with sorted fields.
func (r reply) comparable() reply {
	r.fields = slices.DeleteFunc(slices.Clone(r.fields), func(f string) bool { return strings.HasPrefix(f, "date: ") })
	slices.Sort(r.fields)
	slices.Sort(r.trailers)
	return r
}

// sameAsNetHTTP plays script to both servers.
func sameAsNetHTTP(t testing.TB, ours, theirs string, script []byte) {
	t.Helper()
	var got [2]map[uint32]reply
	for i, addr := range []string{ours, theirs} {
		c, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		p := newPeer(t, c)
		p.listen()
		got[i] = p.play(script)
		c.Close()
	}
	require.Equal(t, len(got[1]), len(got[0]))
	for id, want := range got[1] {
		assert.Equal(t, want.comparable(), got[0][id].comparable(), "stream %d", id)
	}
}

func TestLegalFramesGetTheSameRepliesAsFromNetHTTP(t *testing.T) {
	ours, theirs := startH2(t, tell), startNetHTTP2(t, http.HandlerFunc(tell))
	for seed := range uint64(150) {
		random := rand.New(rand.NewPCG(seed, 2))
		script := make([]byte, 60)
		for i := range script {
			script[i] = byte(random.Uint32())
		}
		sameAsNetHTTP(t, ours, theirs, script)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func FuzzLegalFrames(f *testing.F) {
	f.Add([]byte("\x00\x00\x02\x01\x04\x10\x06\x03"))
	f.Add([]byte("\x02\x05\x07\x00\x03\x20\x09\x01\x05\x30"))
	f.Add([]byte(strings.Repeat("\x91\x91", 30))) // responses of 90 KB
	ours := start(f, &serve.Server{Handler: http.HandlerFunc(tell), H2C: true})
	theirs := startNetHTTP2(f, http.HandlerFunc(tell))
	f.Fuzz(func(t *testing.T, script []byte) { sameAsNetHTTP(t, ours, theirs, script[:min(len(script), 200)]) })
}
