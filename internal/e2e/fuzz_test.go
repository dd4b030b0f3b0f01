package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A menu makes choices by a fuzzer's bytes. When they run out, it always
// chooses the first.
type menu []byte

// pick returns a number below n.
func (m *menu) pick(n int) int {
	if len(*m) == 0 {
		return 0
	}
	b := (*m)[0]
	*m = (*m)[1:]
	return int(b) % n
}

func (m *menu) of(choices ...string) string { return choices[m.pick(len(choices))] }

// text returns up to 15 of the fuzzer's bytes, only such as a field value may
// have.
func (m *menu) text() string {
	n := min(m.pick(16), len(*m))
	b := bytes.Clone((*m)[:n])
	*m = (*m)[n:]
	for i := range b {
		if b[i] < ' ' || b[i] == 0x7f {
			b[i] = '\t'
		}
	}
	return string(b)
}

func (m *menu) target() string {
	var b strings.Builder
	b.WriteString("/")
	for range m.pick(8) {
		b.WriteString(m.of("a", "/", "..", "%2F", "%2e", ";x", "?", "&", "a=b", "%zz", "|", "\"", "+", "%00", "[", "]", "\\", "*", "://", "{", "%", "~", "'", "#"))
	}
	return b.String()
}

// requestField returns a field line that a client may send.
func (m *menu) requestField() string {
	name := m.of("X-Own", "x-oWn", "Cookie", "Accept", "User-Agent", "Via", "Keep-Alive", "Proxy-Connection", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host",
		"X-Forwarded-Port", "Forwarded", "X-Real-IP", "X_Forwarded_For", "X-Real.Ip", "Authorization", "Proxy-Authorization", "Range", "Date", "Content-Type",
		"Accept-Encoding", "If-None-Match", "Cache-Control", "X-Secret", "Te", "Connection", "Upgrade", "Http2-Settings", "Alt-Svc", "Trailer", "Close", "Content_Length")
	return name + ":" + m.of("", " ", "\t") + m.value() + m.of("", " ", " \t") + "\r\n"
}

func (m *menu) value() string {
	return m.of(m.text(), "", "close", "keep-alive", "X-Secret", "x-own, close", "upgrade", "websocket", "h2c", "trailers", "gzip;q=0", "10.0.0.1", "127.0.0.1, 10.1.1.1",
		"[::1]:80", "https", "c.test", "X-Sum", "a=b; c=d", "Host, Content-Length, X-Forwarded-For", ",,", "\xff", "1.0 x")
}

// body returns the framing fields, the end of the head, and the body of a
// message.
func (m *menu) body() string {
	body := strings.Repeat("x", m.pick(256)*m.pick(80))
	switch m.pick(4) {
	case 0, 1:
		return sized(body)
	default:
		trailers := []string{"X-Sum: " + m.text(), "x-other:b", "Content-Length: 1", "Set-Cookie: a=b", "Host: b.test"}[:m.pick(6)]
		return "Transfer-Encoding: chunked\r\n\r\n" + chunked(body, 1+m.pick(256)*m.pick(64), trailers...)
	}
}

// exchange composes a request and its response, which are usually legal.
func (m *menu) exchange() *exchange {
	method := m.of("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE")
	var b strings.Builder
	version := m.of("1.1", "1.1", "1.1", "1.1", "1.1", "1.1", "1.0")
	b.WriteString(method + " " + m.target() + " HTTP/" + version + "\r\nHost: " +
		m.of("a.test", "A.test:80", "b.test.", "[::1]", "a..test", "xn--bcher-kva.test", "127.0.0.1") + "\r\n" + laneProbe + ": p\r\n")
	for range m.pick(8) {
		b.WriteString(m.requestField())
	}
	switch body := m.body(); {
	case m.pick(2) == 0, version == "1.0" && strings.HasPrefix(body, "T"):
		// no chunks in HTTP/1.0: the front loop refuses them, net/http ignores
		// them
		b.WriteString("\r\n")
	default:
		b.WriteString(body)
	}
	return &exchange{name: "fuzz", raw: b.String(), answer: m.answer(method)}
}

func (m *menu) answer(method string) answer {
	var b strings.Builder
	for range m.pick(3) {
		b.WriteString(m.of("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 102 P\r\nConnection: X-Own\r\nX-Own: 1\r\n\r\n"))
	}
	status := m.of("200 OK", "404 Not", "204 None", "304 Same", "500 ", "999 x", "206", "301 Moved")
	b.WriteString("HTTP/1." + m.of("1", "1", "1", "0") + " " + status + "\r\n")
	for range m.pick(6) {
		name := m.of("X-Own", "x-oWn", "Set-Cookie", "Server", "Date", "Content-Type", "Connection", "Keep-Alive", "Alt-Svc", "Via", "X-Secret", "Upgrade", "Trailer", "Vary")
		b.WriteString(name + ": " + m.value() + "\r\n")
	}
	ends := m.pick(4) == 0
	if ends { // otherwise the next request may use a connection that is about to close
		b.WriteString("Connection: close\r\n")
	}
	if method == "HEAD" || status[:3] == "204" || status[:3] == "304" {
		return answer{raw: b.String() + "\r\n", close: ends}
	}
	switch m.pick(6) {
	case 0:
		return answer{raw: b.String() + "\r\n" + m.text(), close: true}
	case 1:
		return answer{raw: b.String() + m.of("Content-Length: x", "Transfer-Encoding: gzip", "bad name: x", " folded") + "\r\n\r\n", close: true}
	}
	return answer{raw: b.String() + m.body(), close: ends}
}

// Whatever a client and a backend send, all lanes forward the same, or all
// refuse it.
func FuzzTheLanesAreOne(f *testing.F) {
	f.Add([]byte(nil))
	random := rand.New(rand.NewPCG(1, 2)) // the same each time
	for range 300 {
		seed := make([]byte, 20+random.IntN(300))
		for i := range seed {
			seed[i] = byte(random.Uint32())
			if len(seed)%2 == 0 && random.IntN(3) > 0 {
				seed[i] = 0 // the first choice, which is the simplest one
			}
		}
		f.Add(seed)
	}
	tracks := []*track{newFast(f, shape{}), newAdapter(f, shape{}), newHooked(f, shape{}), newForeign(f, shape{})}
	for _, k := range tracks {
		k.records = nil // refusals by net/http have none
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m := menu(data)
		x := m.exchange()
		a := tracks[0].ask(t, x)
		for _, k := range tracks[1:] {
			b := k.ask(t, x)
			if a["up requests"] == "0" && b["up requests"] == "0" {
				require.Equal(t, b["down status"], a["down status"], "%s is refused", short(x.raw))
				continue
			}
			compare(t, x, "fast", a, k.name, b, classes, map[string]int{})
		}
	})
}

// Whatever bytes a client sends: each request that reaches the backend is one
// that http.ReadRequest reads from them, in order, with the same body. When the
// client has sent everything, the connection ends.
func FuzzForwardedIsWhatNetHTTPReads(f *testing.F) {
	for _, seed := range []string{
		get, get + get, "\r\n" + get, "POST / HTTP/1.1\r\nHost: a.test\r\n" + sized("hello") + get,
		"POST /x?y HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked("hello", 2, "X-Sum: 1") + get,
		"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + get,
		"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!" + get,
		"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n" + get,
		"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\n\r\nhello\r\n0\r\n\r\n" + get,
		"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: X-A, close\r\nX-A: 1\r\nX_Forwarded_For: 1\r\n\r\n" + get,
		"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n" + get, "OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n" + get,
		"GET / HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n" + get, "GET / HTTP/1.0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + get,
		"POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\n" + sized("hello") + get,
		"HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\nGET / HTTP/1.1\nHost: a.test\n\n", "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n" + get,
	} {
		f.Add([]byte(seed))
	}
	router := &hostproxy.Router{Logger: silent()}
	addr := proxytest.StartPlain(f, &hostproxy.Server{Router: router}).Plain
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 64<<10 {
			return
		}
		m := newMirror(t)
		m.answer.Store(&say)
		u := hostproxy.To(m.ln.Addr().String())
		require.NoError(t, router.Set("*", u))

		c := proxytest.Dial(t, addr)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			_ = c.Conn.Send(string(raw)) // fails if a refusal comes first
			_ = c.CloseWrite()
		}()
		c.Rest()
		<-sent
		require.NoError(t, u.Drain(context.Background()))
		m.close()
		checkForwarded(t, raw, m.taken())
	})
}

// checkForwarded checks that the requests that the backend got are among those
// that http.ReadRequest reads from raw, in the same order.
func checkForwarded(t *testing.T, raw []byte, got []*proxytest.Request) {
	t.Helper()
	r := bufio.NewReaderSize(bytes.NewReader(raw), 1<<20)
	for i, q := range got {
		for {
			// RFC 9112, 2.2: one empty line is skipped; net/http skips it after
			// a POST
			if b, _ := r.Peek(2); string(b) == "\r\n" {
				_, _ = r.Discard(2)
			}
			want, err := http.ReadRequest(r)
			require.NoError(t, err, "request %d of %d comes from nowhere: %s", i, len(got), short(string(q.Raw)))
			body, err := io.ReadAll(want.Body)
			if err == nil && alike(want, string(body), q) {
				break
			}
		}
	}
}

// alike reports whether q is want after a proxy.
func alike(want *http.Request, body string, q *proxytest.Request) bool {
	target := want.RequestURI
	if !strings.HasPrefix(target, "/") && target != "*" {
		target = want.URL.RequestURI()
	}
	if want.Method != q.Method || target != q.RequestURI || want.Host != "" && want.Host != q.Host || body != string(q.Content) {
		return false
	}
	for name, values := range q.Trailer {
		if !slices.Equal(want.Trailer[name], values) || slices.Contains([]string{"Content-Length", "Transfer-Encoding", "Host"}, name) {
			return false
		}
	}
	return assert.ObjectsAreEqual(endToEnd(want.Header), endToEnd(q.Header))
}

// endToEnd returns the fields of h except hop-by-hop and forwarding fields.
func endToEnd(h http.Header) http.Header {
	kept := http.Header{}
	nominated := strings.ToLower(strings.Join(h["Connection"], ","))
	for name, values := range h {
		plain := strings.Map(func(r rune) rune {
			if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
				return r
			}
			return '-'
		}, strings.ToLower(name))
		switch plain {
		case "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings", "proxy-authorization",
			"proxy-authenticate", "close", "content-length", "forwarded", "x-forwarded", "x-real-ip", "via":
			continue
		}
		names := strings.FieldsFunc(nominated, func(r rune) bool { return r == ',' })
		named := slices.ContainsFunc(names, func(n string) bool { return textproto.TrimString(n) == strings.ToLower(name) })
		if strings.HasPrefix(plain, "x-forwarded-") || named {
			continue
		}
		if plain == "user-agent" && slices.Equal(values, []string{""}) {
			continue // net/http omits an empty one
		}
		kept[name] = values
	}
	return kept
}
