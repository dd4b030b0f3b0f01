package e2e_test

import (
	"bufio"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// overHTTP2 returns the request of x for HTTP/2, unless that is impossible: it
// has fields about a connection, or a body above one window.
func (x *exchange) overHTTP2() (s stream2, body string, ok bool) {
	s, ok = (&refusal{raw: x.raw}).overHTTP2()
	if !ok {
		return s, "", false
	}
	s, ok = s.named()
	if i := slices.Index(s.fields, "transfer-encoding"); i >= 0 {
		s.fields = slices.Delete(s.fields, i, i+2)
	}
	for _, name := range []string{"connection", "keep-alive", "proxy-connection", "upgrade", "te"} {
		ok = ok && !slices.Contains(s.fields, name)
	}
	q, err := http.ReadRequest(bufio.NewReader(strings.NewReader(x.raw)))
	if !ok || err != nil {
		return s, "", false
	}
	all, err := io.ReadAll(q.Body)
	for name, values := range q.Trailer {
		for _, value := range values {
			s.trailers = append(s.trailers, strings.ToLower(name), value)
		}
	}
	return s, string(all), err == nil && len(all) < 60<<10
}

// begin2 opens the connection for ask2, with large windows.
func (k *track) begin2(t testing.TB) {
	t.Helper()
	k.two = newH2(t, k, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	require.NoError(t, k.two.WriteWindowUpdate(0, 1<<30))
	k.two.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
}

// ask2 is ask over HTTP/2, always on the same connection.
func (k *track) ask2(t testing.TB, x *exchange, s *stream2, body string) view {
	t.Helper()
	k.mirror.answer.Store(&x.answer)
	p := k.two
	_ = p.c.SetDeadline(time.Now().Add(proxytest.Patience))
	k.latest = k.latest + 2 | 1
	ends := body == "" && s.trailers == nil && !strings.Contains(x.raw, "Transfer-Encoding: ")
	require.NoError(t, p.ask(k.latest, ends, s.fields...))
	for rest := body; !ends; {
		n := min(len(rest), 10_000)
		ends = n == len(rest)
		require.NoError(t, p.WriteData(k.latest, ends && s.trailers == nil, []byte(rest[:n])))
		rest = rest[n:]
	}
	if s.trailers != nil {
		require.NoError(t, p.ask(k.latest, true, s.trailers...))
	}
	v := view{}
	for interim := 0; !v.hear(t, k, p, &interim); {
	}
	v.addUp(k)
	v.addRecord(k, 1)
	return v
}

// hear adds the next frame, and reports whether the response has ended. interim
// counts the heads of interim responses.
func (v view) hear(t testing.TB, k *track, p *h2, interim *int) (ended bool) {
	t.Helper()
	f, err := p.ReadFrame()
	require.NoError(t, err, "%s: the connection over HTTP/2", k.name)
	if f.Header().StreamID != k.latest {
		return false
	}
	switch f := f.(type) {
	case *http2.RSTStreamFrame:
		v["down cut"] = f.ErrCode.String()
		return true
	case *http2.DataFrame:
		v["down body"] += string(f.Data())
		return f.StreamEnded()
	case *http2.MetaHeadersFrame:
		v.addHead2(f, interim)
		return f.StreamEnded()
	}
	return false
}

// addHead2 adds a head of HTTP/2, or trailers.
func (v view) addHead2(f *http2.MetaHeadersFrame, interim *int) {
	status := f.PseudoValue("status")
	if status == "" {
		for _, field := range f.Fields {
			v.add("down trailer "+field.Name, field.Value)
		}
		return
	}
	what := "down"
	if status[0] == '1' {
		what = "interim " + itoa(*interim)
		*interim++
	}
	head := "\r\n"
	for _, field := range f.RegularFields() {
		head += field.Name + ": " + field.Value + "\r\n"
	}
	v.addHead(what, []byte(head+"\r\n"))
	v[what+" status"] = status
	if what == "down" {
		v["down body"] = ""
	}
}

// protocols are the only differences that our front may have between HTTP/2 and
// HTTP/1.1. Read-only.
var protocols = []class{
	{name: "version", why: "Via and the record say by which protocol the request came", in: byHTTP2,
		holds: func(d difference, x *exchange) bool {
			return d.is("up field via", "record request") && d.a == strings.NewReplacer("2.0 hostproxy", "1.1 hostproxy", "HTTP/2.0", "HTTP/1.1").Replace(d.b)
		}},
	{name: "spelling", why: "names have no case, and a status has no reason", in: byHTTP2,
		holds: func(d difference, x *exchange) bool {
			return strings.HasSuffix(d.fact, " names") || strings.HasSuffix(d.fact, " reason")
		}},
	{name: "connection", why: "what is about a connection is not about a stream (RFC 9113, 8.2.2)", in: byHTTP2,
		holds: func(d difference, x *exchange) bool {
			return d.is("down kept", "down field connection", "down field transfer-encoding", "down field upgrade") && !d.inB
		}},
	{name: "crumbs", why: "RFC 9113, 8.2.3: cookies are joined", in: byHTTP2,
		holds: func(d difference, x *exchange) bool {
			return d.is("up field cookie") && strings.ReplaceAll(d.a, " | ", "; ") == d.b
		}},
}

// byHTTP2 is the column of our front over HTTP/2. Read-only.
var byHTTP2 = []string{"fast over HTTP/2"}
