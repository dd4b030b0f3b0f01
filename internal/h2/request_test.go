package h2_test

import (
	"bytes"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2/hpack"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/h2"
)

// encode returns the header block of the given fields, each "name: value".
func encode(t testing.TB, fields ...string) []byte {
	t.Helper()
	var wire bytes.Buffer
	enc := hpack.NewEncoder(&wire)
	for _, f := range fields {
		name, value, ok := strings.Cut(strings.TrimPrefix(f, ":"), ": ")
		require.True(t, ok, f)
		if f[0] == ':' {
			name = ":" + name
		}
		require.NoError(t, enc.WriteField(hpack.HeaderField{Name: name, Value: value}))
	}
	return wire.Bytes()
}

// list decodes the given fields.
func list(t testing.TB, fields ...string) *h2.List {
	t.Helper()
	l := &h2.List{EndStream: true}
	require.NoError(t, new(h2.Decoder).Decode(l, encode(t, fields...)))
	return l
}

const (
	get       = ":method: GET"
	post      = ":method: POST"
	https     = ":scheme: https"
	path      = ":path: /x?y"
	authority = ":authority: a.test"
)

func TestARequestIsDecodedToItsHTTP11Form(t *testing.T) {
	l := list(t, post, ":scheme: http", ":path: /a%2Fb?x=1", ":authority: A.test:8443", "cookie: a=b", "x-one: 1",
		"cookie: c=d", "content-length: 12", "x-empty: ", "cookie: e", "x-two: 2")
	l.EndStream = false
	var r h1.Request
	require.NoError(t, l.Request(&r))
	assert.Equal(t, []string{"POST", "/a%2Fb?x=1", "/a%2Fb", "?x=1", "A.test:8443"},
		[]string{string(r.Method), string(r.Target), string(r.Path), string(r.Query), string(r.Host)})
	assert.Equal(t, []string{"cookie: a=b; c=d; e", "x-one: 1", "content-length: 12", "x-empty: ", "x-two: 2"}, lines(r.Fields))
	assert.Equal(t, h1.SizedBody, r.Framing())
	assert.EqualValues(t, 12, r.ContentLength)
	assert.Equal(t, "http", string(l.Scheme))
	assert.Equal(t, 1, r.Minor)
	assert.True(t, r.Persistent())

	for _, b := range [][]byte{r.Method, r.Target, r.Host, r.Fields[0].Value, r.Fields[4].Name, l.Scheme} {
		at := uintptr(unsafe.Pointer(unsafe.SliceData(b))) - uintptr(unsafe.Pointer(unsafe.SliceData(l.Text())))
		require.Less(t, at, uintptr(len(l.Text())), "%q is a part of the text", b)
		assert.Equal(t, string(b), string(l.Text()[at:][:len(b)]))
	}
}

func TestBodiesHaveTheFramingOfHTTP11(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ended bool
		extra []string
		want  h1.Framing
	}{
		{"nothing follows", true, nil, h1.NoBody},
		{"nothing follows, and a length says so", true, []string{"content-length: 0"}, h1.NoBody},
		{"a body of unknown length", false, nil, h1.ChunkedBody},
		{"a body of known length", false, []string{"content-length: 5"}, h1.SizedBody},
		{"a body of no length", false, []string{"content-length: 0"}, h1.NoBody},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := list(t, append([]string{post, https, path, authority}, tt.extra...)...)
			l.EndStream = tt.ended
			var r h1.Request
			require.NoError(t, l.Request(&r))
			assert.Equal(t, tt.want, r.Framing())
		})
	}
}

func TestUnusualRequestsAreMarkedWithTheReason(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fields []string
		why    h1.Unusual
	}{
		{"another method", []string{":method: PROPFIND", https, path, authority}, h1.UnusualMethod},
		{"asterisk-form", []string{":method: OPTIONS", https, ":path: *", authority}, h1.UnusualTarget},
		{"TE", []string{get, https, path, authority, "te: Trailers"}, h1.UnusualTE},
		{"Trailer", []string{get, https, path, authority, "trailer: x"}, h1.UnusualTrailer},
		{"Expect", []string{get, https, path, authority, "expect: 100-continue"}, h1.UnusualExpect},
		{"extended CONNECT", []string{":method: CONNECT", ":protocol: websocket", https, path, authority}, h1.UnusualConnect},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r h1.Request
			require.ErrorIs(t, list(t, tt.fields...).Request(&r), h1.ErrUnusual)
			assert.Equal(t, tt.why, r.Unusual)
		})
	}
}

func TestAnExtendedCONNECTIsDecodedWithItsProtocol(t *testing.T) {
	l := list(t, ":method: CONNECT", ":protocol: websocket", https, path, authority, "sec-websocket-version: 13")
	l.EndStream = false
	var r h1.Request
	require.ErrorIs(t, l.Request(&r), h1.ErrUnusual)
	assert.Equal(t, "websocket", string(r.Protocol))
	assert.Equal(t, "/x", string(r.Path))
	assert.Equal(t, "a.test", string(r.Host))
	assert.Equal(t, h1.NoBody, r.Framing(), "DATA belongs to the tunnel, not to a body")

	require.NoError(t, list(t, get, https, path, authority).Request(&r))
	assert.Nil(t, r.Protocol, "nothing remains from the previous request")
}

func TestHostReplacesAMissingAuthority(t *testing.T) {
	var r h1.Request
	require.NoError(t, list(t, get, https, path, "host: b.test").Request(&r))
	assert.Equal(t, "b.test", string(r.Host))
	require.NoError(t, list(t, get, https, path, authority, "host: A.test").Request(&r))
	assert.Equal(t, "a.test", string(r.Host))
}

// RFC 9113, 8.1.1: a malformed request is a stream error.
func TestMalformedRequestsAreFaultsOfTheirStream(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fields []string
	}{
		{"no method", []string{https, path, authority}},
		{"no scheme", []string{get, path, authority}},
		{"no path", []string{get, https, authority}},
		{"an empty path", []string{get, https, ":path: ", authority}},
		{"a path in absolute-form", []string{get, https, ":path: https://a.test/", authority}},
		{"a path that does not begin with a slash", []string{get, https, ":path: x", authority}},
		{"asterisk-form with more", []string{":method: OPTIONS", https, ":path: *x", authority}},
		{"two methods", []string{get, get, https, path, authority}},
		{"two authorities", []string{get, https, path, authority, authority}},
		{"two paths, the first of them empty", []string{get, https, ":path: ", path, authority}},
		{"an unknown pseudo-header", []string{get, https, path, authority, ":x: y"}},
		{"that of a response", []string{get, https, path, authority, ":status: 200"}},
		{"a pseudo-header after a field", []string{get, https, path, "x: y", authority}},
		{"a protocol without CONNECT", []string{get, ":protocol: websocket", https, path, authority}},
		{"an extended CONNECT without authority", []string{":method: CONNECT", ":protocol: websocket", https, path}},
		{"an extended CONNECT without path", []string{":method: CONNECT", ":protocol: websocket", https, authority}},
		{"a CONNECT with a path", []string{":method: CONNECT", path, authority}},
		{"a CONNECT with a scheme", []string{":method: CONNECT", https, authority}},
		{"a name in upper case", []string{get, https, path, authority, "X-a: b"}},
		{"a blank before a value", []string{get, https, path, authority, "x:  b"}},
		{"a tab after a value", []string{get, https, path, authority, "x: b\t"}},
		{"Connection", []string{get, https, path, authority, "connection: close"}},
		{"Keep-Alive", []string{get, https, path, authority, "keep-alive: x"}},
		{"Proxy-Connection", []string{get, https, path, authority, "proxy-connection: x"}},
		{"Transfer-Encoding", []string{get, https, path, authority, "transfer-encoding: chunked"}},
		{"Upgrade", []string{get, https, path, authority, "upgrade: websocket"}},
		{"TE of more than trailers", []string{get, https, path, authority, "te: trailers, deflate"}},
		{"a length, but no body", []string{post, https, path, authority, "content-length: 7"}},
		{"a length, but no body, on an unusual request", []string{post, https, path, authority, "content-length: 7", "te: trailers"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r h1.Request
			err := list(t, tt.fields...).Request(&r)
			var fault *h2.Fault
			require.ErrorAs(t, err, &fault)
			assert.Equal(t, h2.ProtocolError, fault.Code)
			assert.True(t, fault.Stream, "it is a stream error")
		})
	}
}

// Requests that HTTP/1.1 refuses get the same response.
func TestForbiddenRequestsGetTheStatusOfHTTP11(t *testing.T) {
	many := []string{get, https, path, authority}
	for range h1.MaxFields + 1 {
		many = append(many, "x: y")
	}
	for _, tt := range []struct {
		name   string
		fields []string
		status int
	}{
		{"a length with a letter", []string{post, https, path, authority, "content-length: 5x"}, 400},
		{"a length with a sign", []string{post, https, path, authority, "content-length: +5"}, 400},
		{"a list of lengths", []string{post, https, path, authority, "content-length: 5, 5"}, 400},
		{"an empty length", []string{post, https, path, authority, "content-length: "}, 400},
		{"a negative length", []string{post, https, path, authority, "content-length: -1"}, 400},
		{"a length in hex", []string{post, https, path, authority, "content-length: 0x5"}, 400},
		{"two lengths", []string{post, https, path, authority, "content-length: 5", "content-length: 6"}, 400},
		{"the same length twice", []string{post, https, path, authority, "content-length: 5", "content-length: 5"}, 400},
		{"two hosts", []string{get, https, path, authority, "host: a.test", "host: a.test"}, 400},
		{"a host that is not the authority", []string{get, https, path, authority, "host: b.test"}, 400},
		{"neither host nor authority", []string{get, https, path}, 400},
		{"an empty authority", []string{get, https, path, ":authority: "}, 400},
		{"an empty host", []string{get, https, path, authority, "host: "}, 400},
		{"an authority with userinfo", []string{get, https, path, ":authority: u@a.test"}, 400},
		{"an authority with a path (CVE-2019-18802)", []string{get, https, path, ":authority: a.test/x"}, 400},
		{"an authority with a line end", []string{get, https, path, ":authority: a.test\r\nx: y"}, 400},
		{"another scheme", []string{get, ":scheme: ftp", path, authority}, 400},
		{"asterisk-form with GET", []string{get, https, ":path: *", authority}, 400},
		{"a fragment", []string{get, https, ":path: /#x", authority}, 400},
		{"a bad escape", []string{get, https, ":path: /%zz", authority}, 400},
		{"a space in the path (CVE-2021-40438)", []string{get, https, ":path: /x HTTP/1.1", authority}, 400},
		{"a line end in the path (CVE-2023-25690)", []string{get, https, ":path: /\r\nx: y", authority}, 400},
		{"a method that is no token", []string{":method: G T", https, path, authority}, 400},
		{"an empty method", []string{":method: ", https, path, authority}, 400},
		{"CONNECT", []string{":method: CONNECT", authority}, 501},
		{"an extended CONNECT with a length", []string{":method: CONNECT", ":protocol: websocket", https, path, authority, "content-length: 0"}, 400},
		{"a protocol that is no token", []string{":method: CONNECT", ":protocol: a b", https, path, authority}, 400},
		{"a name that is no token", []string{get, https, path, authority, "x y: z"}, 400},
		{"a colon in a name (CVE-2021-40239)", []string{get, https, path, authority, "x:y: z"}, 400},
		{"a line end in a name", []string{get, https, path, authority, "x\r\ny: z"}, 400},
		{"a control byte in a value", []string{get, https, path, authority, "x: a\x00b"}, 400},
		{"a line end in a value", []string{get, https, path, authority, "x: a\r\ny: b"}, 400},
		{"a line end in a crumb", []string{get, https, path, authority, "cookie: a", "cookie: b\nc"}, 400},
		{"more fields than allowed", many, 431},
		{"a path of more bytes than allowed", []string{get, https, ":path: /" + strings.Repeat("y", h1.DefaultMaxHead), authority}, 414},
		{"more bytes than allowed", []string{get, https, path, authority, "x: " + strings.Repeat("y", h1.DefaultMaxHead)}, 431},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r h1.Request
			err := list(t, tt.fields...).Request(&r)
			var refusal *h1.Refusal
			require.ErrorAs(t, err, &refusal)
			assert.Equal(t, tt.status, refusal.Status, refusal.Reason)
		})
	}
}

func TestARefusedRequestKeepsItsMethodPathAndHost(t *testing.T) {
	var r h1.Request
	require.Error(t, list(t, get, https, path, authority, "x: "+strings.Repeat("y", h1.DefaultMaxHead)).Request(&r))
	assert.Equal(t, []string{"GET", "/x", "a.test"}, []string{string(r.Method), string(r.Path), string(r.Host)})
}

func TestTheFieldLimitIsThatOfHTTP11(t *testing.T) {
	fields := []string{get, https, path, authority}
	for range h1.MaxFields - 2 {
		fields = append(fields, "x: y")
	}
	for range 150 {
		fields = append(fields, "cookie: a=b")
	}
	var r h1.Request
	require.NoError(t, list(t, fields...).Request(&r))
	assert.Len(t, r.Fields, h1.MaxFields-1, "150 crumbs are one field, and the authority is another")
}

func TestInvalidTrailersAreRefused(t *testing.T) {
	got, err := list(t, "grpc-status: 0", "x: ").Trailers()
	require.NoError(t, err)
	assert.Equal(t, []string{"grpc-status: 0", "x: "}, lines(got))
	for _, field := range []string{":path: /", ":status: 200", "X: y", "x:  y", "connection: close", "te: gzip", "x y: z", "x: \x01"} {
		_, err := list(t, "a: b", field).Trailers()
		assert.Error(t, err, "%q", field)
	}
	var l h2.List
	require.NoError(t, new(h2.Decoder).Decode(&l, []byte("\x00\x00\x01x")))
	_, err = l.Trailers()
	assert.Error(t, err, "an empty name")
}

// chrome is the fields of a browser's request.
var chrome = [][]string{
	{get, authority, https, ":path: /assets/app.css?v=20261123", `sec-ch-ua: "Chromium";v="142", "Not_A Brand";v="99"`, "sec-ch-ua-mobile: ?0",
		"user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
		"accept: text/css,*/*;q=0.1", "sec-fetch-site: same-origin", "sec-fetch-mode: no-cors", "sec-fetch-dest: style",
		"referer: https://a.test/", "accept-encoding: gzip, deflate, br, zstd", "accept-language: en-GB,en;q=0.9",
		"cookie: session=abcdef0123456789", "cookie: theme=dark", "priority: u=0"},
}

// blocks are the header blocks of a browser's first request, and of the same
// request repeated.
func blocks(t testing.TB) (first, again []byte) {
	t.Helper()
	var wire bytes.Buffer
	enc := hpack.NewEncoder(&wire)
	write := func() []byte {
		wire.Reset()
		for _, f := range chrome[0] {
			name, value, _ := strings.Cut(f[1:], ": ")
			require.NoError(t, enc.WriteField(hpack.HeaderField{Name: f[:1] + name, Value: value}))
		}
		return bytes.Clone(wire.Bytes())
	}
	return write(), write()
}

func TestRequestsAreDecodedWithoutAllocating(t *testing.T) {
	first, again := blocks(t)
	var d h2.Decoder
	var l h2.List
	var r h1.Request
	decode := func(block []byte) {
		l.EndStream = true
		if d.Decode(&l, block) != nil || l.Request(&r) != nil {
			panic("refused")
		}
	}
	for range 50 { // the table allocates all its memory
		decode(first)
	}
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		decode(first)
		decode(again)
	}))
	assert.Len(t, r.Fields, 12)
}

var responseFields = []h1.Field{
	{Name: []byte("Server"), Value: []byte("nginx")}, {Name: []byte("Content-Type"), Value: []byte("text/plain; charset=utf-8")},
	{Name: []byte("ETag"), Value: []byte(`"5f3a-2d"`)}, {Name: []byte("Cache-Control"), Value: []byte("max-age=3600")},
	{Name: []byte("X-Request-Id"), Value: []byte("0f8fad5b-d9cb-469f-a165-70867728950e")},
	{Name: []byte("Set-Cookie"), Value: []byte("session=abcdef0123456789; HttpOnly")},
}

const date = "Mon, 23 Nov 2026 10:00:00 GMT"

// appendResponse writes the frames of a small response.
func appendResponse(dst []byte, e *h2.Encoder) []byte {
	start := len(dst)
	dst = e.AppendResponse(h2.OpenHeaders(dst), 200, responseFields)
	dst = h2.AppendContentLength(h2.AppendDate(dst, date), 45)
	dst = h2.CloseHeaders(dst, start, 1, 0, h2.DefaultMaxFrame)
	return h2.AppendHead(dst, h2.Data, h2.FlagEndStream, 1, 45)
}

func TestResponsesAreEncodedWithoutAllocating(t *testing.T) {
	var e h2.Encoder
	buf := make([]byte, 0, 1024)
	assert.Zero(t, testing.AllocsPerRun(100, func() { appendResponse(buf, &e) }))
	events, err := parseAll(t, new(h2.Parser), append(appendResponse(nil, &e), make([]byte, 45)...), 1<<20)
	require.ErrorIs(t, err, h2.ErrMore)
	require.Len(t, events, 2)
	assert.Contains(t, decode(t, new(h2.Decoder), []byte(events[0].Payload)), "date: "+date)
}

func BenchmarkDecode(b *testing.B) {
	first, again := blocks(b)
	for _, bb := range []struct {
		name string
		give []byte
	}{{"block=literal", first}, {"block=indexed", again}} {
		b.Run(bb.name+"/impl=hostproxy", func(b *testing.B) {
			var d h2.Decoder
			l := h2.List{EndStream: true}
			require.NoError(b, d.Decode(&l, first))
			b.ReportAllocs()
			for b.Loop() {
				if d.Decode(&l, bb.give) != nil {
					b.Fatal()
				}
			}
		})
		b.Run(bb.name+"/impl=x-net", func(b *testing.B) {
			d := hpack.NewDecoder(h2.TableSize, func(hpack.HeaderField) {})
			_, err := d.Write(first)
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.Write(bb.give); err != nil || d.Close() != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRequest measures a request from its block to its fields.
func BenchmarkRequest(b *testing.B) {
	first, again := blocks(b)
	var d h2.Decoder
	l := h2.List{EndStream: true}
	require.NoError(b, d.Decode(&l, first))
	var r h1.Request
	b.ReportAllocs()
	for b.Loop() {
		if d.Decode(&l, again) != nil || l.Request(&r) != nil {
			b.Fatal()
		}
	}
}

func BenchmarkResponse(b *testing.B) {
	b.Run("impl=hostproxy", func(b *testing.B) {
		var e h2.Encoder
		buf := make([]byte, 0, 1024)
		b.ReportAllocs()
		for b.Loop() {
			appendResponse(buf, &e)
		}
	})
	b.Run("impl=x-net", func(b *testing.B) {
		var wire bytes.Buffer
		enc := hpack.NewEncoder(&wire)
		fields := []hpack.HeaderField{{Name: ":status", Value: "200"}}
		for _, f := range responseFields {
			fields = append(fields, hpack.HeaderField{Name: strings.ToLower(string(f.Name)), Value: string(f.Value)})
		}
		fields = append(fields, hpack.HeaderField{Name: "date", Value: date}, hpack.HeaderField{Name: "content-length", Value: "45"})
		b.ReportAllocs()
		for b.Loop() {
			wire.Reset()
			for _, f := range fields {
				if enc.WriteField(f) != nil {
					b.Fatal()
				}
			}
		}
	})
}

// FuzzRequest checks that an accepted request, written as HTTP/1.1, is accepted
// by that parser, too, with the same result.
func FuzzRequest(f *testing.F) {
	f.Add("GET\nhttps\n/x?y\na.test\nx\ny\ncookie\na\ncookie\nb", true)
	f.Add("POST\nhttp\n/\na.test:80\nhost\nA.test\ncontent-length\n5\nte\ntrailers", false)
	f.Add("OPTIONS\nhttps\n*\n[::1]\nmax-forwards\n3\nexpect\n100-continue", true)
	f.Fuzz(func(t *testing.T, text string, ended bool) {
		words := strings.Split(text, "\n")
		if len(words) < 4 || len(text) > 4<<10 {
			return
		}
		var wire bytes.Buffer
		enc := hpack.NewEncoder(&wire)
		for i, name := range []string{":method", ":scheme", ":path", ":authority"} {
			require.NoError(t, enc.WriteField(hpack.HeaderField{Name: name, Value: words[i]}))
		}
		for i := 4; i+1 < len(words); i += 2 {
			require.NoError(t, enc.WriteField(hpack.HeaderField{Name: words[i], Value: words[i+1]}))
		}
		l := h2.List{EndStream: ended, MaxSize: 1 << 20}
		require.NoError(t, new(h2.Decoder).Decode(&l, wire.Bytes()))
		var r h1.Request
		err := l.Request(&r)
		if err != nil && err != h1.ErrUnusual {
			return
		}
		head := h1.AppendRequestLine(nil, r.Method, r.Target)
		head = h1.AppendFields(head, r.Fields)
		if _, ok := r.Value("host"); !ok {
			head = h1.AppendField(head, "host", r.Host)
		}
		if r.Chunked {
			head = h1.AppendField(head, "transfer-encoding", "chunked")
		}
		head = append(head, "\r\n"...)
		var again h1.Request
		n, err1 := again.Parse(head)
		require.Equal(t, err, err1, "%q", head)
		require.Equal(t, len(head), n)
		require.Equal(t, r.Unusual, again.Unusual)
		require.Equal(t, r.Framing(), again.Framing())
		require.Equal(t, r.ContentLength, again.ContentLength)
		require.True(t, bytes.EqualFold(r.Host, again.Host))
		require.Equal(t, string(r.Path)+string(r.Query), string(again.Path)+string(again.Query))
		require.Equal(t, lines(r.Fields), lines(again.Fields[:len(r.Fields)]))
		require.True(t, again.Persistent())
	})
}
