package h1_test

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/h1"
)

func TestAResponseIsParsedAsSent(t *testing.T) {
	head := crlf("HTTP/1.1 404 Not  Found\u00e9", "Server: x", "Set-Cookie: a=b", "set-cookie: c", "Connection: Upgrade", "Upgrade: websocket", "Trailer: x")
	var r h1.Response
	n, err := r.Parse([]byte(head + "HTTP/1.1"))
	require.NoError(t, err)
	assert.Equal(t, len(head), n)
	assert.Equal(t, 404, r.Status)
	assert.Equal(t, "Not  Found\u00e9", string(r.Reason))
	assert.Equal(t, 1, r.Minor)
	assert.True(t, r.Upgrade)
	assert.True(t, r.Trailer)
	assert.True(t, r.Nominates)
	assert.EqualValues(t, -1, r.ContentLength)
	assert.Equal(t, []string{"Server=x", "Set-Cookie=a=b", "set-cookie=c", "Connection=Upgrade", "Upgrade=websocket", "Trailer=x"}, fields(r.Fields))
}

func TestReasonMayBeEmptyOrMissing(t *testing.T) {
	for _, line := range []string{"HTTP/1.1 200 ", "HTTP/1.1 200"} {
		var r h1.Response
		_, err := r.Parse([]byte(crlf(line)))
		require.NoError(t, err, line)
		assert.Equal(t, 200, r.Status)
		assert.Empty(t, r.Reason)
	}
}

func TestResponseBodiesAreFramedByRFC9112(t *testing.T) {
	const length, chunked, closes = "Content-Length: 5", "Transfer-Encoding: chunked", "Connection: close"
	for _, tt := range []struct {
		name    string
		method  string
		head    string
		framing h1.Framing
		persist bool
	}{
		{"sized", "GET", crlf("HTTP/1.1 200 OK", length), h1.SizedBody, true},
		{"the same size twice is one", "GET", crlf("HTTP/1.1 200 OK", length, length), h1.SizedBody, true},
		{"of size 0", "GET", crlf("HTTP/1.1 200 OK", "Content-Length: 0"), h1.NoBody, true},
		{"chunked", "GET", crlf("HTTP/1.1 200 OK", "Transfer-Encoding: Chunked"), h1.ChunkedBody, true},
		{"until close", "GET", crlf("HTTP/1.1 200 OK"), h1.UntilClose, false},
		{"until close, though keep-alive is promised", "GET", crlf("HTTP/1.1 200 OK", "Connection: keep-alive"), h1.UntilClose, false},
		{"HEAD with a size", "HEAD", crlf("HTTP/1.1 200 OK", length), h1.NoBody, true},
		{"HEAD with chunked", "HEAD", crlf("HTTP/1.1 200 OK", chunked), h1.NoBody, true},
		{"HEAD without anything", "HEAD", crlf("HTTP/1.1 200 OK"), h1.NoBody, true},
		{"204 with a size", "GET", crlf("HTTP/1.1 204 No Content", length), h1.NoBody, true},
		{"304 with a size", "GET", crlf("HTTP/1.1 304 Not Modified", length), h1.NoBody, true},
		{"304 with chunked", "GET", crlf("HTTP/1.1 304 Not Modified", chunked), h1.NoBody, true},
		{"1xx does not end the exchange", "GET", crlf("HTTP/1.1 103 Early Hints", length), h1.NoBody, false},
		{"101 ends HTTP on the connection", "GET", crlf("HTTP/1.1 101 Switching Protocols"), h1.NoBody, false},
		{"sized, and closed afterwards", "GET", crlf("HTTP/1.1 200 OK", length, "Connection: Foo, CLOSE"), h1.SizedBody, false},
		{"sized, HTTP/1.0", "GET", crlf("HTTP/1.0 200 OK", length), h1.SizedBody, false},
		{"sized, HTTP/1.0 with keep-alive", "GET", crlf("HTTP/1.0 200 OK", length, "Connection: keep-alive"), h1.SizedBody, true},
		{"keep-alive and close", "GET", crlf("HTTP/1.1 200 OK", length, "Connection: keep-alive", closes), h1.SizedBody, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r h1.Response
			_, err := r.Parse([]byte(tt.head))
			require.NoError(t, err)
			assert.Equal(t, tt.framing, r.Framing(tt.method))
			assert.Equal(t, tt.persist, r.Persistent(tt.method))
		})
	}
}

func TestForbiddenResponsesAreRefused(t *testing.T) {
	const ok = "HTTP/1.1 200 OK"
	many := make([]string, 1, h1.MaxFields+2)
	many[0] = ok
	for len(many) < h1.MaxFields+2 {
		many = append(many, "x: y")
	}
	for _, tt := range []struct{ name, head string }{
		{"garbage", "SSH-2.0-OpenSSH_10.0\r\n"},
		{"garbage without a line end, at its first byte", "\x00"},
		{"HTTP/0.9", "<html>"},
		{"HTTP/2.0", crlf("HTTP/2.0 200 OK")},
		{"HTTP/1.x", crlf("HTTP/1.x 200 OK")},
		{"status of two digits", crlf("HTTP/1.1 20 OK")},
		{"status of four digits", crlf("HTTP/1.1 2000 OK")},
		{"status with a letter", crlf("HTTP/1.1 2x0 OK")},
		{"status with a sign", crlf("HTTP/1.1 +20 OK")},
		{"status below 100", crlf("HTTP/1.1 099 OK")},
		{"two spaces before the status", crlf("HTTP/1.1  200 OK")},
		{"control byte in the reason", crlf("HTTP/1.1 200 O\x00K")},
		{"bare CR in the reason", crlf("HTTP/1.1 200 O\rK")},
		{"bare LF", "HTTP/1.1 200 OK\n\n"},
		{"bare LF after a field", "HTTP/1.1 200 OK\r\nx: y\n\r\n"},
		{"empty line first", "\r\n" + crlf(ok)},
		{"obs-fold", crlf(ok, "x: y", " z")},
		{"space before the colon", crlf(ok, "Content-Length : 3")},
		{"NUL in a value (response splitting)", crlf(ok, "x: a\x00b")},
		{"bare CR in a value (response splitting)", crlf(ok, "x: a\rSet-Cookie: b")},
		{"Content-Length with Transfer-Encoding", crlf(ok, "Content-Length: 3", "Transfer-Encoding: chunked")},
		{"different Content-Lengths", crlf(ok, "Content-Length: 3", "Content-Length: 4")},
		{"Content-Length as a list", crlf(ok, "Content-Length: 3, 3")},
		{"negative Content-Length", crlf(ok, "Content-Length: -1")},
		{"invalid Transfer-Encoding taken as chunked (CVE-2022-1705)", crlf(ok, "Transfer-Encoding: chunked\v")},
		{"Transfer-Encoding gzip", crlf(ok, "Transfer-Encoding: gzip")},
		{"Transfer-Encoding gzip, chunked", crlf(ok, "Transfer-Encoding: gzip, chunked")},
		{"Transfer-Encoding twice", crlf(ok, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked")},
		{"Transfer-Encoding on HTTP/1.0", crlf("HTTP/1.0 200 OK", "Transfer-Encoding: chunked")},
		{"more fields than allowed", crlf(many...)},
		{"a head larger than allowed", crlf(ok, "x: "+strings.Repeat("y", h1.DefaultMaxHead))},
		{"an endless line", "HTTP/1.1 200 " + strings.Repeat("y", h1.DefaultMaxHead)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r h1.Response
			_, err := r.Parse([]byte(tt.head))
			var refusal *h1.Refusal
			require.ErrorAs(t, err, &refusal)
		})
	}
}

func BenchmarkResponseParse(b *testing.B) {
	var r h1.Response
	head := []byte(plainResponse)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Parse(head); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzResponse(f *testing.F) {
	for _, s := range []string{plainResponse + strings.Repeat("b", 45), crlf("HTTP/1.1 200", "Transfer-Encoding: chunked") + "1\r\na\r\n0\r\n\r\n",
		crlf("HTTP/1.0 200 ", "Connection: keep-alive") + "until close", crlf("HTTP/1.1 304 x", "Content-Length: 5"),
		crlf("HTTP/1.1 200 OK", "Content-Length: 5", "content-length: 5") + "12345", crlf("HTTP/1.1 100 Continue") + crlf("HTTP/1.1 200 OK")} {
		f.Add([]byte(s), uint16(9), false)
		f.Add([]byte(s), uint16(90), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, cut uint16, head bool) {
		var r h1.Response
		n, err := r.Parse(b)
		checkResponsePrefix(t, b[:int(cut)%(len(b)+1)], b, err)
		if err != nil {
			return
		}
		method := "GET"
		if head {
			method = "HEAD"
		}
		res, stdErr := http.ReadResponse(bufio.NewReaderSize(bytes.NewReader(b), 64<<10), &http.Request{Method: method})
		if stdErr != nil && strings.Contains(stdErr.Error(), "bad trailer key") {
			return // we drop invalid names in a Trailer field
		}
		require.NoError(t, stdErr, "net/http refuses what was accepted")
		require.Equal(t, res.StatusCode, r.Status)
		require.Equal(t, min(res.ProtoMinor, 1), r.Minor)
		// net/http applies Close from a 1xx, too, and drops the field that it
		// came from
		sameFields(t, r.Fields, res.Header, "Transfer-Encoding", "Content-Length", "Connection", "Trailer")
		if r.Framing(method) == h1.UntilClose {
			sameBody(t, h1.SizedBody, int64(len(b)-n), b[n:], res.Body)
			return
		}
		sameBody(t, r.Framing(method), r.ContentLength, b[n:], res.Body)
		if r.Status >= 200 {
			require.Equal(t, res.Close, !r.Persistent(method))
		}
	})
}

func checkResponsePrefix(t *testing.T, prefix, b []byte, want error) {
	var r h1.Response
	_, err := r.Parse(prefix)
	if err != h1.ErrMore {
		require.Equal(t, want, err, "a prefix has another result")
		return
	}
	_, err = r.Parse(b)
	sameConclusion(t, want, err)
}
