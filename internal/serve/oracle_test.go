package serve_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/serve"
)

// The oracle: net/http and the adapter serve random handlers of a small
// language. Handlers and clients must see the same. The language cannot express
// the deviations that the adapter's comment lists.

// A play is a handler that follows a script and notes what it sees.
type play struct {
	w      http.ResponseWriter
	q      *http.Request
	file   string
	open   bool // the body may end with the connection
	shut   bool // the request's body was closed, or may be once the response begins
	read   int64
	begun  bool // something was written
	twoWay bool // full duplex is enabled
	sized  bool // a Content-Length was set; the head may have it even if it was deleted later
	notes  []string
}

func (p *play) note(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf(format, args...))
}

// Words of the language, and their objects. Read-only.
var (
	codes   = []int{100, 102, 103, 200, 201, 204, 299, 404, 500}
	lengths = []int{0, 1, 10, 511, 512, 513, 2047, 2048, 2049, 4095, 5000, 20000, 70000}
	fields  = []field{
		{"Content-Length", "10"}, {"Content-Length", "5000"}, {"Content-Length", "0"},
		{"Content-Type", "text/x"}, {"Content-Encoding", "gzip"}, {"Connection", "close"}, {"Connection", "keep-alive"},
		{"Connection", "X-A"}, {"Transfer-Encoding", "identity"}, {"Transfer-Encoding", "chunked"}, {"Trailer", "X-T, X-U"},
		{"X-T", "t"}, {http.TrailerPrefix + "X-V", "v"}, {"X-A", " a\r\nb "}, {"bad name", "x"}, {"Date", "today"}, {"Set-Cookie", "a"},
	}
)

type field struct{ name, value string }

// act performs a word with its object. It returns false at the end of the play.
func (p *play) act(word, of byte) bool {
	size := lengths[int(of)%len(lengths)]
	text := strings.Repeat("<html>0123456789\n", size/17+1)[:size]
	rc := http.NewResponseController(p.w)
	p.begun = p.begun || 2 <= word%16 && word%16 <= 4 || 10 <= word%16 && word%16 <= 11
	switch f := fields[int(of)%len(fields)]; word % 16 {
	case 0, 1:
		if code := codes[int(of)%len(codes)]; code >= 200 || p.q.ProtoMinor > 0 && p.q.Header.Get("Expect") == "" {
			p.w.WriteHeader(code)
		}
	case 2, 3:
		n, err := p.w.Write([]byte(text))
		p.note("write %d %v", n, err)
	case 4:
		n, err := io.WriteString(p.w, text)
		p.note("string %d %v", n, err)
	case 5:
		p.note("flush %v", rc.Flush())
	case 6, 7:
		if f.value == "identity" {
			p.open, p.shut = true, true
		}
		if f.name == "Connection" || f.name == "Trailer" {
			p.w.Header().Del(f.name)
		}
		if f.name == "Content-Length" || f.name == "Transfer-Encoding" { // at most one of the two
			p.w.Header().Del("Content-Length")
			p.w.Header().Del("Transfer-Encoding")
		}
		p.sized = p.sized || f.name == "Content-Length"
		p.w.Header().Add(f.name, f.value)
	case 8:
		p.w.Header().Del(f.name)
	case 9:
		// after the end net/http returns various errors
		if p.shut || p.q.ContentLength < 0 && p.read == chunkedSize {
			return true
		}
		if p.q.Header.Get("Expect") != "" {
			size = 100 // all of it
		}
		n, err := io.ReadFull(p.q.Body, make([]byte, size))
		p.note("read %d %v", n, err)
		p.read += int64(n)
		p.shut = p.shut || err != nil || p.read == p.q.ContentLength
	case 10:
		p.copy(struct{ io.Reader }{strings.NewReader(text)})
	case 11:
		p.sendFile(int64(size))
	case 12:
		p.twoWay = true
		p.note("duplex %v", rc.EnableFullDuplex())
	case 13:
		p.shut = true
		p.note("close %v", p.q.Body.Close())
	case 14:
		p.note("deadlines %v %v", rc.SetReadDeadline(time.Now().Add(time.Hour)), rc.SetWriteDeadline(time.Time{}))
	case 15:
		return p.end(of)
	}
	return true
}

func (p *play) sendFile(size int64) {
	f, err := os.Open(p.file)
	if err != nil {
		p.note("file %v", err)
		return
	}
	defer f.Close()
	p.copy(io.LimitReader(f, size))
}

func (p *play) copy(r io.Reader) {
	if p.sized {
		return // net/http sends more than the Content-Length
	}
	n, err := io.Copy(p.w, r)
	p.note("copy %d %v", n, err)
}

// end ends the play early, in one of several ways.
func (p *play) end(of byte) bool {
	switch of % 8 {
	case 0:
		if !p.open {
			panic(http.ErrAbortHandler)
		}
	case 3:
		if !p.open {
			panic("a fault of the handler")
		}
	case 1:
		if p.begun {
			return true // net/http forgets what was written
		}
		nc, buf, err := http.NewResponseController(p.w).Hijack()
		if err != nil {
			p.note("hijack %v", err)
			return true
		}
		io.WriteString(buf, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen")
		buf.Flush()
		_, err = p.w.Write([]byte("x"))
		p.note("after %v", err)
		nc.Close()
		return false
	case 2:
		for k := range p.w.Header() {
			p.w.Header().Del(k)
		}
	}
	return true
}

// A stage serves plays.
type stage struct {
	addr string
	mu   sync.Mutex
	seen map[string][]string // by the number of the request
	done *sync.Cond
}

func newStage() *stage {
	s := &stage{seen: make(map[string][]string)}
	s.done = sync.NewCond(&s.mu)
	return s
}

// handler performs the script in each request.
func (s *stage) handler(file string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/next" {
			fmt.Fprint(w, "next")
			return
		}
		p := &play{w: w, q: q, file: file, open: q.ProtoMinor == 0}
		p.request()
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.seen[q.Header.Get("X-Number")] = p.notes
			s.done.Broadcast()
		}()
		script := []byte(q.Header.Get("X-Script"))
		for len(script) >= 4 {
			word, _ := strconv.ParseUint(string(script[:2]), 16, 8)
			of, _ := strconv.ParseUint(string(script[2:4]), 16, 8)
			if !p.act(byte(word), byte(of)) {
				return
			}
			script = script[4:]
		}
		// otherwise net/http reads the rest after the response, and the next
		// request at the same time
		if p.twoWay {
			_, _ = io.Copy(io.Discard, q.Body)
		}
		if !p.shut {
			p.note("trailer %v", q.Trailer)
		}
	})
}

// request notes the request as the handler sees it.
func (p *play) request() {
	q := p.q
	h := q.Header.Clone()
	h.Del("X-Number")
	_, local := q.Context().Value(http.LocalAddrContextKey).(net.Addr)
	server, _ := q.Context().Value(http.ServerContextKey).(*http.Server)
	p.note("%s %s %s %d.%d host %q header %v length %d coding %v close %v trailer %v uri %q url %+v body %v %v %v %v", q.Method, q.RequestURI, q.Proto,
		q.ProtoMajor, q.ProtoMinor, q.Host, h, q.ContentLength, q.TransferEncoding, q.Close, len(q.Trailer), q.RequestURI, *q.URL,
		q.Body == http.NoBody, local, server != nil, q.TLS != nil)
}

// told returns what the handler of a request has noted.
func (s *stage) told(number string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.seen[number] == nil {
		s.done.Wait()
	}
	return s.seen[number]
}

// stages starts net/http and the adapter with the same handler.
func stages(t testing.TB) (oracle, adapter *stage) {
	t.Helper()
	file := t.TempDir() + "/file"
	require.NoError(t, os.WriteFile(file, bytes.Repeat([]byte("0123456789abcde\n"), 8<<10), 0o600))
	oracle, adapter = newStage(), newStage()

	ln := proxytest.Listen(t)
	oracle.addr = ln.Addr().String()
	srv := &http.Server{Handler: oracle.handler(file), ErrorLog: log.New(io.Discard, "", 0), DisableGeneralOptionsHandler: true}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })

	adapter.addr = start(t, &serve.Server{Handler: adapter.handler(file)})
	return oracle, adapter
}

// start serves s on a port of its own, until the end of the test.
func start(t testing.TB, s *serve.Server) (addr string) {
	t.Helper()
	return startOn(t, s, proxytest.Listen(t))
}

func startOn(t testing.TB, s *serve.Server, ln net.Listener) (addr string) {
	t.Helper()
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return ln.Addr().String()
}

// requests are the possible requests: the part before the play's fields, and
// the part after them. Read-only.
var requests = []struct{ line, rest string }{
	{"GET /a?b=c HTTP/1.1", "Host: a.test\r\n\r\n"},
	{"GET /%2F/;x=*?? HTTP/1.1", "Host: a.test:80\r\nConnection: close\r\naccept: a\r\nAccept: b\r\nTrailer: x\r\n\r\n"},
	{"HEAD //x/../y? HTTP/1.1", "Host: a.test\r\n\r\n"},
	{"POST / HTTP/1.1", "Host: a.test\r\nContent-Length: 20\r\n\r\n01234567890123456789"},
	{"POST / HTTP/1.1", "Host: a.test\r\nContent-Length: 5000\r\n\r\n" + strings.Repeat("x", 5000)},
	{"PUT http://b.test/x HTTP/1.1", "Host: a.test\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nX-T: t\r\nx-u: u\r\n\r\n"},
	{"POST / HTTP/1.1", "Host: a.test\r\nContent-Length: 20\r\nExpect: 100-continue\r\n\r\n01234567890123456789"},
	{"OPTIONS * HTTP/1.1", "Host: a.test\r\n\r\n"},
	{"GET / HTTP/1.0", "Host: a.test\r\n\r\n"},
	{"GET / HTTP/1.0", "Connection: keep-alive\r\n\r\n"},
	{"POST / HTTP/1.0", "Host: a.test\r\nConnection: Keep-Alive\r\nContent-Length: 3\r\n\r\nabc"},
	{"BREW /pot HTTP/1.1", "Host: a.test\r\nTE: trailers\r\nUpgrade: tea\r\nConnection: upgrade\r\n\r\n"},
}

// chunkedSize is the size of the chunked body in requests.
const chunkedSize = int64(len("hello world"))

// A view is what a client sees of a response.
type view struct {
	Interim []string // heads
	Head    []string // the lines, all but the first sorted
	Body    string
	Trailer http.Header
	Reset   bool
	Whole   bool   // the response is complete
	Next    string // response to another request on the same connection; "" if that has closed
}

var number atomic.Int64 // number of requests; the only state of these tests

// watch sends a request and the script to s, and returns what the client sees.
func (s *stage) watch(t testing.TB, request int, script []byte) (v view, id string) {
	t.Helper()
	q := requests[request%len(requests)]
	id = strconv.FormatInt(number.Add(1), 10)
	c, err := net.Dial("tcp", s.addr)
	require.NoError(t, err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(proxytest.Patience))
	_, err = fmt.Fprintf(c, "%s\r\nX-Number: %s\r\nX-Script: %x\r\n%s", q.line, id, script, q.rest)
	require.NoError(t, err)
	r := bufio.NewReader(c)
	method, _, _ := strings.Cut(q.line, " ")
	for {
		head, err := readHead(r)
		if err != nil {
			return v, id
		}
		if strings.HasPrefix(head[0], "HTTP/1.1 1") {
			v.Interim = append(v.Interim, strings.Join(head, "\n"))
			continue
		}
		v.Head = head
		break
	}
	v.readBody(r, method)
	if v.Whole {
		_, _ = io.WriteString(c, "GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n")
		if head, err := readHead(r); err == nil {
			v.Next = head[0]
		}
	}
	return v, id
}

// readHead reads a head: its first line, then the other lines, sorted. It
// ignores the Date.
func readHead(r *bufio.Reader) (lines []string, err error) {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		line = strings.TrimSuffix(line, "\r\n")
		if line == "" {
			slices.Sort(lines[1:])
			return lines, nil
		}
		if strings.HasPrefix(line, "Date: ") && strings.HasSuffix(line, " GMT") {
			line = "Date: today"
		}
		lines = append(lines, line)
	}
}

// readBody reads the body by net/http's rules.
func (v *view) readBody(r *bufio.Reader, method string) {
	raw := strings.Join(v.Head, "\r\n") + "\r\n\r\n"
	p, err := http.ReadResponse(bufio.NewReader(io.MultiReader(strings.NewReader(raw), r)), &http.Request{Method: method})
	if err != nil {
		v.Body = err.Error()
		return
	}
	body, err := io.ReadAll(p.Body)
	v.Body, v.Trailer = string(body), p.Trailer
	v.Whole = err == nil && !(p.ContentLength < 0 && len(p.TransferEncoding) == 0)
	v.Reset = errors.Is(err, syscall.ECONNRESET)
}

// compare serves the same play with both servers.
func compare(t *testing.T, oracle, adapter *stage, request int, script []byte) {
	t.Helper()
	want, n := oracle.watch(t, request, script)
	got, m := adapter.watch(t, request, script)
	// how much of a cut-off body arrives is not defined
	if cut := min(len(want.Body), len(got.Body)); !want.Whole && !got.Whole {
		want.Body, got.Body = want.Body[:cut], got.Body[:cut]
	}
	assert.Equal(t, want, got, "%s, script %x", requests[request%len(requests)].line, script)
	assert.Equal(t, oracle.told(n), adapter.told(m), "%s, script %x", requests[request%len(requests)].line, script)
}

func FuzzTheAdapterServesWhatNetHTTPServes(f *testing.F) {
	oracle, adapter := stages(f)
	for i := range requests {
		f.Add(i, []byte{})
		f.Add(i, []byte{2, 2, 5, 0, 2, 10, 9, 2})
		f.Add(i, []byte{6, 11, 6, 12, 6, 13, 2, 2, 5, 0, 2, 3})
		f.Add(i, []byte{0, 2, 6, 1, 0, 3, 2, 10, 2, 10})
		f.Add(i, []byte{6, 0, 11, 2, 2, 4})
		f.Add(i, []byte{11, 12, 10, 12})
		f.Add(i, []byte{9, 12, 2, 9, 15, 0})
		f.Add(i, []byte{9, 12, 2, 9, 15, 3})
		f.Add(i, []byte{2, 9, 5, 0, 15, 3})
		f.Add(i, []byte{15, 3})
		f.Add(i, []byte{6, 9, 2, 5, 2, 5})
		f.Add(i, []byte{15, 1})
		f.Add(i, []byte{0, 5, 2, 2})
		f.Add(i, []byte{12, 0, 2, 9, 9, 1, 13, 0, 9, 1})
		f.Add(i, []byte{6, 6, 6, 4, 6, 14, 6, 15, 6, 16, 6, 17, 6, 17, 4, 2})
	}
	f.Add(5, []byte{9, 1, 9, 2, 11, 5, 9, 1}) // reads after the end of a chunked body
	f.Fuzz(func(t *testing.T, request int, script []byte) {
		if len(script) > 64 || request < 0 {
			return
		}
		compare(t, oracle, adapter, request, script)
	})
}
