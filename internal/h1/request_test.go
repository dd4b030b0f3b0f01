package h1_test

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/h1"
)

// crlf joins the lines as they are sent, with the empty line at the end.
func crlf(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

func fields(fs []h1.Field) (out []string) {
	for _, f := range fs {
		out = append(out, string(f.Name)+"="+string(f.Value))
	}
	return out
}

func TestARequestIsParsedAsSent(t *testing.T) {
	head := crlf("POST /a%2Fb//c;d?x=1&y=%zz HTTP/1.1", "Host: Example.com:8080", "X-Empty:",
		"x-odd:\t spaced\tvalue \t", "Content-Length: 12", "Connection: keep-alive, X-Secret")
	var r h1.Request
	n, err := r.Parse([]byte(head + "body bytes and more"))
	require.NoError(t, err)
	assert.Equal(t, len(head), n)
	assert.Equal(t, "POST", string(r.Method))
	assert.Equal(t, "/a%2Fb//c;d?x=1&y=%zz", string(r.Target), "the target passes byte for byte")
	assert.Equal(t, "/a%2Fb//c;d", string(r.Path))
	assert.Equal(t, "?x=1&y=%zz", string(r.Query))
	assert.Equal(t, "Example.com:8080", string(r.Host))
	assert.Equal(t, 1, r.Minor)
	assert.EqualValues(t, 12, r.ContentLength)
	assert.Equal(t, h1.SizedBody, r.Framing())
	assert.True(t, r.KeepAlive)
	assert.True(t, r.Nominates)
	assert.False(t, r.Close)
	assert.True(t, r.Persistent())
	assert.Equal(t, []string{"Host=Example.com:8080", "X-Empty=", "x-odd=spaced\tvalue",
		"Content-Length=12", "Connection=keep-alive, X-Secret"}, fields(r.Fields))
	v, ok := r.Value("x-odd")
	assert.True(t, ok)
	assert.Equal(t, "spaced\tvalue", string(v))
	_, ok = r.Value("x-none")
	assert.False(t, ok)
}

func TestARequestKeepsNothingOfThePreviousOne(t *testing.T) {
	var r h1.Request
	_, err := r.Parse([]byte(crlf("POST /x?y HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", "Connection: close, x", "TE: trailers")))
	require.ErrorIs(t, err, h1.ErrUnusual)
	require.Equal(t, h1.ChunkedBody, r.Framing())
	require.False(t, r.Persistent())

	_, err = r.Parse([]byte(crlf("GET / HTTP/1.1", "Host: b")))
	require.NoError(t, err)
	assert.Equal(t, "b", string(r.Host))
	assert.Nil(t, r.Query)
	assert.EqualValues(t, -1, r.ContentLength)
	assert.Equal(t, h1.NoBody, r.Framing())
	assert.False(t, r.Chunked || r.Close || r.Nominates)
	assert.Zero(t, r.Unusual)
	assert.Len(t, r.Fields, 1)
}

func TestUnusualRequestsAreMarkedWithTheReason(t *testing.T) {
	for _, tt := range []struct {
		name string
		head string
		why  h1.Unusual
	}{
		{"a method that few use", crlf("PROPFIND / HTTP/1.1", "Host: a"), h1.UnusualMethod},
		{"a method in lower case", crlf("get / HTTP/1.1", "Host: a"), h1.UnusualMethod},
		{"absolute-form", crlf("GET http://a/x HTTP/1.1", "Host: a"), h1.UnusualTarget},
		{"asterisk-form", crlf("OPTIONS * HTTP/1.1", "Host: a"), h1.UnusualTarget},
		{"HTTP/1.0 without Host", crlf("GET / HTTP/1.0"), h1.UnusualVersion},
		{"Upgrade", crlf("GET / HTTP/1.1", "Host: a", "Connection: upgrade", "Upgrade: websocket"), h1.UnusualUpgrade},
		{"Expect", crlf("PUT / HTTP/1.1", "Host: a", "expect: 100-continue", "Content-Length: 1"), h1.UnusualExpect},
		{"Trailer", crlf("PUT / HTTP/1.1", "Host: a", "TRAILER: x", "Transfer-Encoding: Chunked"), h1.UnusualTrailer},
		{"TE", crlf("GET / HTTP/1.1", "Host: a", "te: trailers"), h1.UnusualTE},
		{"Max-Forwards with OPTIONS", crlf("OPTIONS / HTTP/1.1", "Host: a", "max-forwards: 3"), h1.UnusualForwards},
		{"two reasons", crlf("LOCK / HTTP/1.0", "Upgrade: x"),
			h1.UnusualMethod | h1.UnusualVersion | h1.UnusualUpgrade},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r h1.Request
			n, err := r.Parse([]byte(tt.head + "rest"))
			require.ErrorIs(t, err, h1.ErrUnusual)
			assert.Equal(t, len(tt.head), n)
			assert.Equal(t, tt.why, r.Unusual)
		})
	}
	t.Run("the preface of HTTP/2, before anything else is judged", func(t *testing.T) {
		var r h1.Request
		n, err := r.Parse([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
		require.ErrorIs(t, err, h1.ErrUnusual)
		assert.Zero(t, n)
		assert.Equal(t, h1.UnusualPreface, r.Unusual)
	})
}

// RFC 9112, 3.2.2: the authority of the target is used, regardless of Host.
func TestTheHostOfAnAbsoluteTargetReplacesTheHostHeader(t *testing.T) {
	for _, tt := range []struct{ target, host, path, query string }{
		{"http://b", "b", "/", ""},
		{"HTTPS://B.test:8443/x//y%2f?q=/&r=?", "B.test:8443", "/x//y%2f", "?q=/&r=?"},
		{"http://b?q", "b", "/", "?q"},
		{"http://b/?", "b", "/", "?"},
		{"http://[::1]:80/", "[::1]:80", "/", ""},
		{"http://b/http://c/", "b", "/http://c/", ""},
	} {
		t.Run(tt.target, func(t *testing.T) {
			for _, rest := range []string{crlf(" HTTP/1.1", "Host: a"), crlf(" HTTP/1.0", "Host: a"), crlf(" HTTP/1.0")} {
				var r h1.Request
				_, err := r.Parse([]byte("GET " + tt.target + rest))
				require.ErrorIs(t, err, h1.ErrUnusual)
				assert.NotZero(t, r.Unusual&h1.UnusualTarget)
				assert.Equal(t, []string{tt.target, tt.host, tt.path, tt.query}, []string{string(r.Target), string(r.Host), string(r.Path), string(r.Query)})
			}
			_, err := new(h1.Request).Parse([]byte("GET " + tt.target + crlf(" HTTP/1.1")))
			assert.Equal(t, &h1.Refusal{Status: 400, Reason: "Host is missing"}, err, "an absolute target does not replace a missing Host header")
		})
	}
}

// Each line of "Framing and desync" in the forwarding contract that a head can
// violate.
func TestForbiddenRequestsAreRefused(t *testing.T) {
	const host = "Host: a"
	many := make([]string, 0, h1.MaxFields+2)
	many = append(many, "GET / HTTP/1.1", host)
	for len(many) < h1.MaxFields+2 {
		many = append(many, "x: y")
	}
	for _, tt := range []struct {
		name   string
		head   string
		status int
	}{
		{"Content-Length with Transfer-Encoding", crlf("POST / HTTP/1.1", host, "Content-Length: 3", "Transfer-Encoding: chunked"), 400},
		{"Transfer-Encoding with Content-Length, on an unusual request", crlf("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", "Expect: 100-continue", "Content-Length: 3"), 400},
		{"two different Content-Lengths", crlf("POST / HTTP/1.1", host, "Content-Length: 3", "Content-Length: 4"), 400},
		{"the same Content-Length twice", crlf("POST / HTTP/1.1", host, "Content-Length: 3", "Content-Length: 3"), 400},
		{"Content-Length as a list", crlf("POST / HTTP/1.1", host, "Content-Length: 3, 3"), 400},
		{"Content-Length with a sign", crlf("POST / HTTP/1.1", host, "Content-Length: +3"), 400},
		{"negative Content-Length", crlf("POST / HTTP/1.1", host, "Content-Length: -3"), 400},
		{"Content-Length with an inner space", crlf("POST / HTTP/1.1", host, "Content-Length: 3 3"), 400},
		{"Content-Length in hex", crlf("POST / HTTP/1.1", host, "Content-Length: 0x3"), 400},
		{"Content-Length with underscore", crlf("POST / HTTP/1.1", host, "Content-Length: 1_0"), 400},
		{"Content-Length of 2^63", crlf("POST / HTTP/1.1", host, "Content-Length: 9223372036854775808"), 400},
		{"Content-Length that overflows", crlf("POST / HTTP/1.1", host, "Content-Length: 99999999999999999999"), 400},
		{"empty Content-Length (CVE-2023-40225)", crlf("POST / HTTP/1.1", host, "Content-Length:"), 400},
		{"Transfer-Encoding gzip, chunked", crlf("POST / HTTP/1.1", host, "Transfer-Encoding: gzip, chunked"), 501},
		{"Transfer-Encoding gzip and chunked on two lines", crlf("POST / HTTP/1.1", host, "Transfer-Encoding: gzip", "Transfer-Encoding: chunked"), 501},
		{"Transfer-Encoding identity, chunked", crlf("POST / HTTP/1.1", host, "Transfer-Encoding: identity , Chunked"), 501},
		{"Transfer-Encoding gzip, chunked, with Content-Length", crlf("POST / HTTP/1.1", host, "Transfer-Encoding: gzip, chunked", "Content-Length: 3"), 400},
		{"Transfer-Encoding gzip, chunked on HTTP/1.0", crlf("POST / HTTP/1.0", host, "Transfer-Encoding: gzip, chunked"), 400},
		{"Transfer-Encoding gzip", crlf("POST / HTTP/1.1", host, "Transfer-Encoding: gzip"), 400},
		{"Transfer-Encoding chunked, gzip", crlf("POST / HTTP/1.1", host, "Transfer-Encoding: chunked, gzip"), 400},
		{"Transfer-Encoding chunked and gzip on two lines", crlf("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", "Transfer-Encoding: gzip"), 400},
		{"Transfer-Encoding chunked, gzip, chunked", crlf("POST / HTTP/1.1", host, "Transfer-Encoding: chunked, gzip, chunked"), 400},
		{"Transfer-Encoding with an empty member", crlf("POST / HTTP/1.1", host, "Transfer-Encoding: , chunked"), 400},
		{"Transfer-Encoding with an empty line", crlf("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", "Transfer-Encoding:"), 400},
		{"Transfer-Encoding with a parameter", crlf("POST / HTTP/1.1", host, "Transfer-Encoding: chunked;q=1"), 400},
		{"Transfer-Encoding chunked twice", crlf("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400},
		{"Transfer-Encoding chunked, chunked", crlf("POST / HTTP/1.1", host, "Transfer-Encoding: chunked, chunked"), 400},
		{"Transfer-Encoding identity", crlf("POST / HTTP/1.1", host, "Transfer-Encoding: identity"), 400},
		{"Transfer-Encoding xchunked", crlf("POST / HTTP/1.1", host, "Transfer-Encoding: xchunked"), 400},
		{"Transfer-Encoding quoted", crlf("POST / HTTP/1.1", host, `Transfer-Encoding: "chunked"`), 400},
		{"Transfer-Encoding with vertical tab", crlf("POST / HTTP/1.1", host, "Transfer-Encoding: \vchunked"), 400},
		{"empty Transfer-Encoding", crlf("POST / HTTP/1.1", host, "Transfer-Encoding:"), 400},
		{"Transfer-Encoding on HTTP/1.0 (CVE-2026-2835)", crlf("POST / HTTP/1.0", host, "Transfer-Encoding: chunked"), 400},
		{"bare LF after the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", 400},
		{"bare LF after a field", "GET / HTTP/1.1\r\nHost: a\n\r\n", 400},
		{"bare LF as the end of the head", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400},
		{"bare CR in a value", crlf("GET / HTTP/1.1", host, "x: a\rb"), 400},
		{"bare CR in the target", crlf("GET /\r HTTP/1.1", host), 400},
		{"CR CR LF", "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400},
		{"obs-fold", crlf("GET / HTTP/1.1", host, "x: a", " b"), 400},
		{"obs-fold with tab", crlf("GET / HTTP/1.1", host, "x: a", "\tb"), 400},
		{"white space before the first field", crlf("GET / HTTP/1.1", " Host: a"), 400},
		{"space before the colon (CVE-2019-16276)", crlf("GET / HTTP/1.1", "Host : a"), 400},
		{"tab before the colon", crlf("GET / HTTP/1.1", host, "Content-Length\t: 3"), 400},
		{"no colon", crlf("GET / HTTP/1.1", host, "novalue"), 400},
		{"empty name", crlf("GET / HTTP/1.1", host, ": x"), 400},
		{"name that is no token", crlf("GET / HTTP/1.1", host, "x(y): z"), 400},
		{"non-ASCII name", crlf("GET / HTTP/1.1", host, "Content-Lengt\u0127: 3"), 400},
		{"NUL in a name", crlf("GET / HTTP/1.1", host, "x\x00y: z"), 400},
		{"NUL in a value", crlf("GET / HTTP/1.1", host, "x: long enough for a word \x00 z"), 400},
		{"DEL in a value", crlf("GET / HTTP/1.1", host, "x: \x7f"), 400},
		{"control byte in a value", crlf("GET / HTTP/1.1", host, "x: 12345678\x01"), 400},
		{"no Host", crlf("GET / HTTP/1.1", "x: y"), 400},
		{"no Host with absolute-form", crlf("GET http://a/ HTTP/1.1"), 400},
		{"two Hosts", crlf("GET / HTTP/1.1", host, host), 400},
		{"two Hosts on HTTP/1.0", crlf("GET / HTTP/1.0", host, "hOST: b"), 400},
		{"empty Host", crlf("GET / HTTP/1.1", "Host:"), 400},
		{"Host with userinfo", crlf("GET / HTTP/1.1", "Host: user@a"), 400},
		{"Host with a path", crlf("GET / HTTP/1.1", "Host: a/b"), 400},
		{"Host with a space", crlf("GET / HTTP/1.1", "Host: a b"), 400},
		{"Host with quotes", crlf("GET / HTTP/1.1", `Host: "a"`), 400},
		{"Host with other bytes (CVE-2023-29406)", crlf("GET / HTTP/1.1", "Host: a\xff"), 400},
		{"two spaces before the target", crlf("GET  / HTTP/1.1", host), 400},
		{"two spaces after the target", crlf("GET /  HTTP/1.1", host), 400},
		{"tab in the request line", crlf("GET\t/ HTTP/1.1", host), 400},
		{"space at the end of the request line", crlf("GET / HTTP/1.1 ", host), 400},
		{"no version (HTTP/0.9)", crlf("GET /"), 400},
		{"no target", crlf("GET HTTP/1.1", host), 400},
		{"empty target", crlf("GET  HTTP/1.1", host), 400},
		{"lower case version", crlf("GET / http/1.1", host), 400},
		{"version with two digits", crlf("GET / HTTP/1.10", host), 400},
		{"version with a sign", crlf("GET / HTTP/+1.1", host), 400},
		{"HTTP/3.0", crlf("GET / HTTP/3.0", host), 505},
		{"HTTP/2.1", crlf("GET / HTTP/2.1", host), 505},
		{"HTTP/1.", crlf("GET / HTTP/1.", host), 400},
		{"HTTP/1.x", crlf("GET / HTTP/1.x", host), 400},
		{"HTTP/2.0", crlf("GET / HTTP/2.0", host), 505},
		{"HTTP/0.9 spelled out", crlf("GET / HTTP/0.9", host), 505},
		{"method that is no token", crlf("G(T / HTTP/1.1", host), 400},
		{"CONNECT (CVE-2026-71324)", crlf("CONNECT a:443 HTTP/1.1", host), 501},
		{"CONNECT with a path", crlf("CONNECT / HTTP/1.1", host), 501},
		{"fragment (CVE-2023-47106)", crlf("GET /a#b HTTP/1.1", host), 400},
		{"non-ASCII target", crlf("GET /\u00e9 HTTP/1.1", host), 400},
		{"control byte in the target", crlf("GET /a\x01 HTTP/1.1", host), 400},
		{"asterisk with GET", crlf("GET * HTTP/1.1", host), 400},
		{"authority-form without CONNECT", crlf("GET a:80 HTTP/1.1", host), 400},
		{"absolute-form of another scheme", crlf("GET ftp://a/ HTTP/1.1", host), 400},
		{"absolute-form with a scheme that begins like one", crlf("GET httpx://a/ HTTP/1.1", host), 400},
		{"absolute-form without a scheme", crlf("GET ://a/ HTTP/1.1", host), 400},
		{"absolute-form without an authority", crlf("GET http:///x HTTP/1.1", host), 400},
		{"absolute-form with a query for an authority", crlf("GET http://?x HTTP/1.1", host), 400},
		{"absolute-form with only a scheme", crlf("GET http:// HTTP/1.1", host), 400},
		{"absolute-form without slashes", crlf("GET http:x HTTP/1.1", host), 400},
		{"absolute-form with userinfo", crlf("GET http://u@a/ HTTP/1.1", host), 400},
		{"absolute-form with an empty userinfo", crlf("GET http://@a/ HTTP/1.1", host), 400},
		{"absolute-form with an escape in the authority", crlf("GET http://a%2eb/ HTTP/1.1", host), 400},
		{"absolute-form with a backslash", crlf(`GET http://a\@b/ HTTP/1.1`, host), 400},
		{"absolute-form with a bad escape in the path", crlf("GET http://a/%zz HTTP/1.1", host), 400},
		{"absolute-form with an invalid Host", crlf("GET http://a/ HTTP/1.1", "Host: a/b"), 400},
		{"absolute-form with two Hosts", crlf("GET http://a/ HTTP/1.1", host, host), 400},
		{"a URL without authority", crlf("GET foo:bar HTTP/1.1", host), 400},
		{"a mail address", crlf("GET mailto:x@y HTTP/1.1", host), 400},
		{"asterisk-form with more", crlf("OPTIONS *x HTTP/1.1", host), 400},
		{"relative target", crlf("GET a/b HTTP/1.1", host), 400},
		{"bad escape in the path", crlf("GET /%zz HTTP/1.1", host), 400},
		{"cut escape at the end of the path", crlf("GET /%4?x HTTP/1.1", host), 400},
		{"two empty lines first", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"LF first", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"space first", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"more fields than allowed", crlf(many...), 431},
		{"a head larger than allowed", crlf("GET / HTTP/1.1", host, "x: "+strings.Repeat("y", h1.DefaultMaxHead)), 431},
		{"a target of 16 KB", crlf("GET /"+strings.Repeat("y", h1.DefaultMaxHead)+" HTTP/1.1", host), 414},
		{"a target of 70 KB, as far as a buffer holds it", "GET /" + strings.Repeat("y", h1.DefaultMaxHead), 414},
		{"a request line that fits, and then nothing", crlf("GET /"+strings.Repeat("y", h1.DefaultMaxHead-len("GET / HTTP/1.1\r\n"))+" HTTP/1.1", host), 431},
		{"a name of 70 KB (CVE-2021-40346)", crlf("GET / HTTP/1.1", host, strings.Repeat("n", 70<<10)+": y"), 431},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r h1.Request
			_, err := r.Parse([]byte(tt.head))
			var refusal *h1.Refusal
			require.ErrorAs(t, err, &refusal)
			assert.Equal(t, tt.status, refusal.Status, refusal.Reason)
		})
	}
}

// RFC 9110, 2.5: a recipient processes a later minor version as the latest one
// that it knows.
func TestLaterMinorVersionsAreReadAsHTTP11(t *testing.T) {
	for _, version := range []string{"HTTP/1.2", "HTTP/1.9"} {
		var r h1.Request
		_, err := r.Parse([]byte(crlf("POST / "+version, "Host: a", "Transfer-Encoding: chunked")))
		require.NoError(t, err)
		assert.Equal(t, 1, r.Minor)
		assert.True(t, r.Persistent())
		_, err = r.Parse([]byte(crlf("GET / "+version, "x: y")))
		assert.Equal(t, &h1.Refusal{Status: 400, Reason: "Host is missing"}, err)

		var s h1.Response
		_, err = s.Parse([]byte(crlf(version+" 200 OK", "Content-Length: 1")))
		require.NoError(t, err)
		assert.Equal(t, 1, s.Minor)
		assert.True(t, s.Persistent("GET"))
	}
}

func TestTLSOnAPlainPortIsRefusedAtItsFirstByte(t *testing.T) {
	var r h1.Request
	_, err := r.Parse([]byte("\x16"))
	var refusal *h1.Refusal
	require.ErrorAs(t, err, &refusal)
}

func TestOneEmptyLineBeforeARequestIsSkipped(t *testing.T) {
	head := "\r\n" + crlf("GET / HTTP/1.1", "Host: a")
	for i := range len(head) {
		var r h1.Request
		_, err := r.Parse([]byte(head[:i]))
		require.ErrorIs(t, err, h1.ErrMore, "%q", head[:i])
	}
	var r h1.Request
	n, err := r.Parse([]byte(head))
	require.NoError(t, err)
	assert.Equal(t, len(head), n)
}

func TestHeadLimitCountsEveryByteAndIsSettable(t *testing.T) {
	head := crlf("GET / HTTP/1.1", "Host: a")
	tooLarge := &h1.Refusal{Status: 431, Reason: "head too large"}
	for _, tt := range []struct {
		name string
		max  int
		give string
		want error
	}{
		{"exactly the limit", len(head), head, nil},
		{"exactly the limit, followed by more bytes", len(head), head + "more", nil},
		{"one byte too many", len(head) - 1, head, tooLarge},
		{"incomplete at the limit", len(head) - 2, head[:len(head)-2], tooLarge},
		{"incomplete below the limit", len(head), head[:len(head)-1], h1.ErrMore},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := h1.Request{Head: h1.Head{MaxHead: tt.max}}
			_, err := r.Parse([]byte(tt.give))
			assert.Equal(t, tt.want, err)
		})
	}
}

func TestAHeadThatArrivesByteByByteIsParsedFromAnyBuffer(t *testing.T) {
	head := crlf("GET /x?y HTTP/1.1", "Host: example.com", "Accept: */*")
	var r h1.Request
	for i := range len(head) {
		moved := []byte(head[:i])
		_, err := r.Parse(moved)
		require.ErrorIs(t, err, h1.ErrMore)
		clear(moved) // nothing may point here any more
	}
	n, err := r.Parse([]byte(head))
	require.NoError(t, err)
	assert.Equal(t, len(head), n)
	assert.Equal(t, "example.com", string(r.Host))
	assert.Equal(t, []string{"Host=example.com", "Accept=*/*"}, fields(r.Fields))
}

func TestIncompleteHeadIsForgottenOnReset(t *testing.T) {
	var r h1.Request
	_, err := r.Parse([]byte("GET /somewhere/far/away HTTP/1.1\r\nHost"))
	require.ErrorIs(t, err, h1.ErrMore)
	r.Reset()
	_, err = r.Parse([]byte(crlf("GET / HTTP/1.1", "Host: a", "x: 12345678901234567890")))
	require.NoError(t, err)
	assert.Equal(t, "/", string(r.Target))
}

func TestHeadsAreParsedWithoutAllocating(t *testing.T) {
	req, res := []byte(plainRequest), []byte(plainResponse)
	var q h1.Request
	var s h1.Response
	allocs := testing.AllocsPerRun(100, func() {
		_, err := q.Parse(req)
		_, err2 := s.Parse(res)
		if err != nil || err2 != nil {
			panic(errors.Join(err, err2))
		}
	})
	assert.Zero(t, allocs)
}

const (
	plainRequest = "GET /assets/app.css?v=20261123 HTTP/1.1\r\nHost: blog.example.com\r\nUser-Agent: curl/8.14.1\r\n" +
		"Accept: text/css,*/*;q=0.1\r\nAccept-Encoding: gzip, br\r\nX-Request-Id: 0f8fad5b-d9cb-469f-a165-70867728950e\r\nCookie: session=abcdef0123456789\r\n\r\n"
	plainResponse = "HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 23 Nov 2026 10:00:00 GMT\r\nContent-Type: text/plain\r\n" +
		"Content-Length: 45\r\nConnection: keep-alive\r\nETag: \"5f3a-2d\"\r\n\r\n"
)

func BenchmarkRequestParse(b *testing.B) {
	head := []byte(plainRequest)
	b.Run("impl=hostproxy", func(b *testing.B) {
		var r h1.Request
		b.ReportAllocs()
		for b.Loop() {
			if _, err := r.Parse(head); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("impl=net/http", func(b *testing.B) {
		b.ReportAllocs()
		in := bytes.NewReader(head)
		br := bufio.NewReader(in)
		for b.Loop() {
			in.Reset(head)
			br.Reset(in)
			if _, err := http.ReadRequest(br); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		plainRequest, crlf("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + "3\r\nabc\r\n0\r\nx: y\r\n\r\n",
		crlf("POST /?q HTTP/1.1", "Host: a", "Content-Length: 2") + "hiGET / HTTP/1.1\r\n", "\r\n" + crlf("GET / HTTP/1.1", "Host: [::1]:80"),
		crlf("GET //a%2f;b HTTP/1.1", "Host: a", "connection: close,,x ,keep-alive", "x:\t"), crlf("OPTIONS * HTTP/1.1", "Host: a"),
		crlf("GET http://b:80/x?y HTTP/1.1", "Host: a"), crlf("GET HTTPS://b HTTP/1.1", "Host: a"), crlf("GET / HTTP/1.7", "Host: a"),
		crlf("GET / HTTP/1.0"), "PRI * HTTP/2.0\r\n\r\n", crlf("GET / HTTP/1.1", "Host: a", "x: \x80\xff")} {
		f.Add([]byte(s), uint16(7))
	}
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) {
		var whole h1.Request
		n, err := whole.Parse(b)
		checkPrefix(t, b[:int(cut)%(len(b)+1)], b, err)
		absolute := err == h1.ErrUnusual && whole.Unusual == h1.UnusualTarget && whole.Target[0] != '*'
		if err != nil && !absolute {
			return
		}
		head := bytes.TrimPrefix(b, []byte("\r\n"))
		req, stdErr := http.ReadRequest(bufio.NewReaderSize(bytes.NewReader(head), 64<<10))
		if stdErr != nil && absolute {
			return // an authority that is not a host
		}
		require.NoError(t, stdErr, "net/http refuses what was accepted")
		sameRequest(t, &whole, req)
		sameBody(t, whole.Framing(), whole.ContentLength, b[n:], req.Body)
	})
}

// checkPrefix compares a parse in two steps with the result of one step.
func checkPrefix(t *testing.T, prefix, b []byte, want error) {
	var r h1.Request
	_, err := r.Parse(prefix)
	if err != h1.ErrMore {
		require.Equal(t, want, err, "a prefix has another result")
		return
	}
	_, err = r.Parse(b)
	sameConclusion(t, want, err)
}

// sameConclusion allows a parse in steps to find a fault only once the head is
// complete.
func sameConclusion(t *testing.T, want, err error) {
	var refusal *h1.Refusal
	if err != h1.ErrMore || !errors.As(want, &refusal) {
		require.Equal(t, want, err, "parsing in two steps has another result")
	}
}

func sameRequest(t *testing.T, r *h1.Request, req *http.Request) {
	require.Equal(t, req.Method, string(r.Method))
	require.Equal(t, req.RequestURI, string(r.Target))
	path, err := url.PathUnescape(string(r.Path))
	require.NoError(t, err)
	require.Equal(t, cmp.Or(req.URL.Path, "/"), path)
	require.Equal(t, req.URL.RawQuery, strings.TrimPrefix(string(r.Query), "?"))
	require.Equal(t, req.Host, string(r.Host))
	require.Equal(t, min(req.ProtoMinor, 1), r.Minor)
	require.Equal(t, req.Close, !r.Persistent())
	want := max(r.ContentLength, 0)
	if r.Chunked {
		want = -1
	}
	require.Equal(t, req.ContentLength, want)
	require.Equal(t, r.Chunked, len(req.TransferEncoding) == 1)
	sameFields(t, r.Fields, req.Header, "Host", "Transfer-Encoding")
}

// sameFields checks that got and want have the same values in the same order,
// except for names that net/http removes or merges.
func sameFields(t *testing.T, got []h1.Field, want http.Header, except ...string) {
	mine := http.Header{}
	for _, f := range got {
		mine.Add(string(f.Name), string(f.Value))
	}
	want = want.Clone()
	if _, ours := mine["Cache-Control"]; !ours && mine.Get("Pragma") == "no-cache" {
		want.Del("Cache-Control") // net/http adds one
	}
	for _, name := range except {
		mine.Del(name)
		want.Del(name)
	}
	if len(mine) == 0 && len(want) == 0 {
		return
	}
	require.Equal(t, want, mine)
}

// sameBody checks that rest, read in this framing, begins with the body that
// net/http read.
func sameBody(t *testing.T, framing h1.Framing, length int64, rest []byte, body io.Reader) {
	want, wantErr := io.ReadAll(body)
	switch framing {
	case h1.NoBody:
		require.Empty(t, want)
	case h1.SizedBody:
		require.Equal(t, want, rest[:min(int64(len(rest)), length)])
	case h1.ChunkedBody:
		var c h1.Chunks
		data, _, err := c.Decode(bytes.Clone(rest))
		if err == io.EOF && (wantErr == nil || !blankExtension.Match(rest)) {
			require.NoError(t, wantErr)
			require.Equal(t, want, bytes.Clone(data))
		}
	}
}
