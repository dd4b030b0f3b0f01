package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A stream2 is an invalid HTTP/2 request: pairs of names and values, which are
// sent as they are.
type stream2 struct {
	about            string
	fields, trailers []string
	body             bool     // as in a refusal
	want             []string // the allowed outcomes
}

// Outcomes of a stream for its client and in its record.
const (
	said400  = "400, recorded as 400 read client"
	said501  = "501, recorded as 501 read client"
	reset400 = "reset PROTOCOL_ERROR, recorded as 400 read client"
	calm     = "GOAWAY ENHANCE_YOUR_CALM"
)

// otherwise has the refusals whose outcome differs from that over HTTP/1.1, by
// the beginning of about. Read-only.
var otherwise = []struct{ about, why, want string }{
	{"an unknown coding", "RFC 9113, 8.2.2: no coding is one that might be known", reset400},
	{"identity before chunked", "the same", reset400},
	{`CONNECT of "/"`, "RFC 9113, 8.5: CONNECT has no path", reset400},
	{`CONNECT of "http://a.test/"`, "the same", reset400},
	{`GET of "http://a.test/aaa`, "70 KB: beyond four times the limit a head is not decoded to its end", calm},
	{"a name of 70 KB", "the same", calm},
}

// streams2 returns the corpus: the refusals of HTTP/1.1 that are possible in
// HTTP/2, with the host in Host and in :authority, and those that only HTTP/2
// can have.
func streams2() (all []stream2) {
	for _, x := range refusals() {
		s, ok := x.overHTTP2()
		if !ok {
			continue
		}
		all = append(all, s)
		if named, ok := s.named(); ok {
			all = append(all, named)
		}
	}
	return append(all, ownRefusals()...)
}

// overHTTP2 returns a refusal of HTTP/1.1 as an HTTP/2 request, which has no
// lines, versions and chunks. ok is false if that is impossible.
func (x *refusal) overHTTP2() (s stream2, ok bool) {
	head, rest, _ := strings.Cut(x.raw, "\r\n\r\n")
	line, lines, _ := strings.Cut(head, "\r\n")
	line, current := strings.CutSuffix(line, " HTTP/1.1")
	method, target, two := strings.Cut(line, " ")
	fields, ok := pairsOf(lines)
	if !current || !two || !ok {
		return s, false
	}
	start := []string{":method", method, ":scheme", "http", ":path", target}
	if scheme, after, absolute := strings.Cut(target, "://"); absolute && target[0] != '/' && method != "CONNECT" {
		if !slices.Contains(fields, "host") {
			return s, false // in HTTP/2 that is a valid request
		}
		host, _, _ := strings.Cut(after, "/")
		start = []string{":method", method, ":scheme", scheme, ":authority", host, ":path", after[len(host):]}
	} else if method == "CONNECT" && !strings.Contains(target, "/") {
		start = start[:2]
	}
	s = stream2{about: x.about, fields: append(start, fields...), body: x.body, want: x.inHTTP2()}
	return s, !x.body || s.trail(rest)
}

// trail turns a chunked body into trailers, if it has only trailers.
func (s *stream2) trail(body string) (ok bool) {
	section, empty := strings.CutPrefix(body, "0\r\n")
	section, whole := strings.CutSuffix(section, "\r\n\r\n")
	s.trailers, ok = pairsOf(section)
	s.fields = slices.DeleteFunc(s.fields, func(text string) bool { return text == "transfer-encoding" || text == "chunked" })
	return ok && empty && whole
}

// pairsOf returns the names and values of header lines.
func pairsOf(lines string) (pairs []string, ok bool) {
	for line := range strings.SplitSeq(lines, "\r\n") {
		name, value, colon := strings.Cut(line, ":")
		switch folded := pairs != nil && strings.IndexAny(line, " \t") == 0; {
		case folded:
			pairs[len(pairs)-1] += "\r\n" + line
		case !colon:
			return nil, false
		default:
			pairs = append(pairs, strings.ToLower(name), strings.Trim(value, " \t"))
		}
	}
	return pairs, true
}

// inHTTP2 returns the allowed outcomes of x: its status, or also a reset if the
// status is 400, since RFC 9113, 8.1.1, may call the request malformed.
func (x *refusal) inHTTP2() []string {
	for _, o := range otherwise {
		if strings.HasPrefix(x.about, o.about) {
			return []string{o.want}
		}
	}
	if x.want == 400 {
		return []string{said400, reset400}
	}
	return []string{fmt.Sprintf("%d, recorded as %[1]d read client", x.want)}
}

// named returns s with :authority in place of its only Host.
func (s *stream2) named() (n stream2, ok bool) {
	i := slices.Index(s.fields, "host")
	if i < 0 || slices.Contains(s.fields[i+1:], "host") || slices.Contains(s.fields, ":authority") {
		return n, false
	}
	n = *s
	n.about += ", in :authority"
	n.fields = slices.Concat([]string{":authority", s.fields[i+1]}, s.fields[:i], s.fields[i+2:])
	return n, true
}

// ownRefusals are requests that only HTTP/2 can have (RFC 9113, 8.2 and 8.3).
// CVE-2019-18802, CVE-2023-27491, CVE-2023-25690: bytes that HTTP/1.1 would
// read as lines, spaces or framing.
func ownRefusals() (all []stream2) {
	add := func(want string, pairs ...string) {
		all = append(all, stream2{about: label(strings.Join(pairs, " ")), fields: pairs, want: []string{want}})
	}
	with := func(want string, pairs ...string) { add(want, slices.Concat(ordinary, pairs)...) }
	swap := func(want, name string, values ...string) {
		for _, value := range values {
			pairs := slices.Clone(ordinary)
			pairs[slices.Index(pairs, name)+1] = value
			add(want, pairs...)
		}
	}
	swap(said400, ":path", "/a\r\nX-Evil: 1", "/ HTTP/1.1\r\nHost: b.test\r\n\r\nGET /", "/a\x00", "/\xff", "*")
	swap(reset400, ":path", "", "a", "http://b.test/")
	swap(said400, ":method", "GET /x HTTP/1.1\r\nX:", "", "G T")
	swap(said400, ":authority", "a.test\r\nX-Evil: 1", "a b", "..x", "u@a.test", "")
	swap(said400, ":scheme", "a b", "ftp", "")
	for _, value := range []string{"b\r\nx-evil: 1", "b\nx-evil: 1", "b\x00"} {
		with(said400, "x-a", value)
	}
	for _, name := range []string{"x-a\r\nx-evil", "x a", "", "x:a"} {
		with(said400, name, "1")
	}
	for _, name := range []string{"X-A", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te", ":path", ":unknown", ":protocol", ":status"} {
		with(reset400, name, "x")
	}
	with(reset400, "x-a", "1", ":path", "/late")
	with(reset400, "x-a", " b")
	with(reset400, "x-a", "b\t")
	with(said400, "host", "b.test")
	with(said400, "host", "a.test", "host", "a.test")
	with(reset400, "content-length", "5") // and nothing behind it
	for _, value := range []string{"5x", "+5", "5, 5", "", "-1", "0x5"} {
		with(said400, "content-length", value)
	}
	with(said400, "content-length", "0", "content-length", "0")
	add(reset400, ordinary[:4]...)
	add(reset400, ordinary[:6]...)
	add(reset400, ordinary[2:]...)
	add(said501, ":method", "CONNECT", ":authority", "a.test:443")
	add(reset400, ":method", "CONNECT", ":authority", "a.test:443", ":scheme", "http")
	add(reset400, ":method", "CONNECT", ":protocol", "websocket", ":authority", "a.test")
	add(reset400, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/")
	return all
}

// places2 returns the places that HTTP/2 can reach.
func places2() (all []place) {
	for _, p := range places() {
		if p.name != "the port of challenges" {
			p.shape.tune = func(s *hostproxy.Server) { s.H2C = !p.shape.secure }
			all = append(all, p)
		}
	}
	return all
}

// Invalid requests are refused over HTTP/2 as over HTTP/1.1, with the same
// outcome at every place. No target gets them, and the connection goes on.
func TestARefusalIsTheSameOverHTTP2(t *testing.T) {
	t.Parallel()
	all := streams2()
	first := map[string]string{} // the outcome of each at the first place
	for _, p := range places2() {
		t.Run(p.name, func(t *testing.T) {
			p.outcomes2(t, p.start(t), all, func(x *stream2, got string) {
				if x.body && !p.reads {
					assert.Equal(t, fmt.Sprintf("%d, recorded as %[1]d ", p.usual), got, x.about)
					return
				}
				assert.Contains(t, x.want, got, x.about)
				if first[x.about] == "" {
					first[x.about] = got
				}
				assert.Equal(t, first[x.about], got, x.about)
			})
		})
	}
}

// A leniency is a kind of request that net/http's server accepts over HTTP/2.
type leniency struct {
	why string
	is  func(x *stream2) bool
}

// lenient has all kinds. Read-only.
var lenient = []leniency{
	{"a length is not looked at", func(x *stream2) bool { return slices.Contains(x.fields, "content-length") }},
	{"nor is a Host that differs from :authority, or from another one", func(x *stream2) bool {
		i := slices.Index(x.fields, "host")
		return i >= 0 && (slices.Contains(x.fields, ":authority") || slices.Contains(x.fields[i+1:], "host"))
	}},
	{"a head has 1 MB and as many fields, and so have trailers", func(x *stream2) bool {
		all := slices.Concat(x.fields, x.trailers)
		return len(all) > 200 || len(strings.Join(all, "")) > 4<<10
	}},
	{"blanks around a value are part of it", func(x *stream2) bool {
		return slices.ContainsFunc(x.fields, func(v string) bool { return strings.Trim(v, " \t") != v })
	}},
}

// net/http's server in front of the same Router refuses the same requests, by a
// status or a reset, except those that it accepts.
func TestNetHTTPRefusesTheSameOverHTTP2(t *testing.T) {
	p := place{front: newForeign, usual: 200}
	k := p.start(t)
	k.records = nil // refusals by net/http's server have no records
	used := map[string]bool{}
	p.outcomes2(t, k, streams2(), func(x *stream2, got string) {
		wanted := []string{"reset PROTOCOL_ERROR"}
		for _, want := range x.want {
			status, _, _ := strings.Cut(strings.Replace(want, reset400, said400, 1), ",")
			wanted = append(wanted, status)
		}
		if slices.Contains(wanted, got) {
			return
		}
		i := slices.IndexFunc(lenient, func(l leniency) bool { return l.is(x) })
		require.True(t, i >= 0 && strings.HasPrefix(got, "200, and the target is asked for "), "%s: %s, want %s", x.about, got, wanted)
		used[lenient[i].why] = true
	})
	assert.Len(t, used, len(lenient), "what is let through")
}

// outcomes2 calls tell with the outcome of each request. They share a
// connection, unless it ends by a GOAWAY.
func (p *place) outcomes2(t *testing.T, k *track, all []stream2, tell func(x *stream2, got string)) {
	t.Helper()
	k.mirror.answer.Store(&say)
	lets, _ := pairsOf(strings.TrimSuffix(p.fields, "\r\n"))
	plain := slices.Concat(ordinary[:6], []string{":path", "/opening"}, lets)
	var c *h2
	stream := uint32(0)
	for i := range all {
		if c == nil {
			c, stream = newH2(t, k), 1
			c.listen()
		}
		_ = c.c.SetDeadline(time.Now().Add(2 * proxytest.Patience)) // for each request
		x := &all[i]
		_ = c.ask(stream, x.trailers == nil, slices.Concat(x.fields, lets)...)
		if x.trailers != nil {
			_ = c.ask(stream, true, x.trailers...)
		}
		got := c.verdict(t, stream)
		if strings.HasPrefix(got, "GOAWAY") {
			c.c.Close()
			c = nil
		} else {
			got += k.recorded(t) + k.heard()
			require.NoError(t, c.ask(stream+2, true, plain...))
			require.Equal(t, itoa(p.usual), c.verdict(t, stream+2), "a plain request behind %s", x.about)
			k.recorded(t)
			stream += 4
		}
		tell(x, got+k.heard())
	}
}

// verdict waits for the outcome of a stream: a status, or the code of a
// RST_STREAM or a GOAWAY.
func (p *h2) verdict(t testing.TB, stream uint32) string {
	t.Helper()
	timeout := time.After(proxytest.Patience)
	for {
		select {
		case h, open := <-p.frames:
			switch {
			case !open:
				return "the end"
			case h.kind == http2.FrameGoAway:
				return "GOAWAY " + h.code.String()
			case h.stream != stream:
			case h.kind == http2.FrameRSTStream:
				return "reset " + h.code.String()
			case h.status != "":
				return h.status
			}
		case <-timeout:
			t.Fatalf("stream %d got neither a response nor a reset", stream)
		}
	}
}

// recorded returns the status and the error in the next record, or "" without
// records.
func (k *track) recorded(t testing.TB) string {
	t.Helper()
	if k.records == nil {
		return ""
	}
	select {
	case x := <-k.records:
		v := view{}
		v.addFacts(&x)
		return ", recorded as " + v["record status"] + " " + v["record error"]
	case <-time.After(proxytest.Patience):
		t.Fatal("no record")
		return ""
	}
}
