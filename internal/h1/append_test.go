package h1_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/h1"
)

func TestHeadsAreWrittenAsGiven(t *testing.T) {
	b := h1.AppendRequestLine(nil, "GET", "/a%2Fb?c")
	b = h1.AppendField(b, "Host", []byte("a"))
	b = h1.AppendContentLength(b, 12)
	assert.Equal(t, "GET /a%2Fb?c HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n", string(b))
	assert.Equal(t, "HTTP/1.1 404 Not Found\r\n", string(h1.AppendStatusLine(nil, 404, "Not Found")))
	assert.Equal(t, "HTTP/1.1 299 \r\n", string(h1.AppendStatusLine(nil, 299, "")))
	assert.Equal(t, "1f\r\n", string(h1.AppendChunkHeader(nil, 31)))
}

func TestNoLineEndCanBeWrittenIntoAHead(t *testing.T) {
	for _, tt := range []struct{ name, got, want string }{
		{"value", string(h1.AppendField(nil, "x", "a\r\nSet-Cookie: b\x00\x7f\tc")), "x: a  Set-Cookie: b  \tc\r\n"},
		{"long value", string(h1.AppendField(nil, "x", "0123456789abcdef\n")), "x: 0123456789abcdef \r\n"},
		{"name", string(h1.AppendField([]byte("-"), "x\r\ny", "a")), "-"},
		{"empty name", string(h1.AppendField([]byte("-"), "", "a")), "-"},
		{"reason", string(h1.AppendStatusLine(nil, 200, "O\r\nK")), "HTTP/1.1 200 O  K\r\n"},
		{"target", string(h1.AppendRequestLine(nil, "GET", "/a b\r\n#\xff")), "GET /a%20b%0D%0A%23%FF HTTP/1.1\r\n"},
		{"method", string(h1.AppendRequestLine(nil, "G\r\nET ", "/")), "G??ET? / HTTP/1.1\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, tt.got) })
	}
}

func TestHeadsAreWrittenWithoutAllocating(t *testing.T) {
	buf := make([]byte, 0, 1024)
	name, value := []byte("X-Request-Id"), []byte("0f8fad5b-d9cb-469f-a165-70867728950e")
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		b := h1.AppendRequestLine(buf[:0], name, "/")
		b = h1.AppendField(b, name, value)
		b = h1.AppendField(b, "Host", "a")
		b = h1.AppendContentLength(b, 1<<40)
		h1.AppendLastChunk(h1.AppendChunkHeader(b, 77), nil)
	}))
}

func FuzzHeadRoundTrip(f *testing.F) {
	f.Add("GET", "/x?y", "X-A", "b c")
	f.Add("G\nT", "/\r\n x", "X:", "b\r\nc: d")
	f.Fuzz(func(t *testing.T, method, target, name, value string) {
		if len(method)+3*len(target)+len(name)+len(value) > 8<<10 {
			return
		}
		b := h1.AppendRequestLine(nil, method, "/"+target)
		b = h1.AppendField(b, "Host", "a")
		b = h1.AppendField(b, name, value)
		require.Equal(t, 2+btoi(h1.ValidToken(name)), strings.Count(string(b), "\n"), "each value is on one line")
		require.Equal(t, strings.Count(string(b), "\r\n"), strings.Count(string(b), "\r"))
		require.Equal(t, strings.Count(string(b), "\r\n"), strings.Count(string(b), "\n"))

		s := h1.AppendStatusLine(nil, 200, value)
		s = append(h1.AppendField(s, name, value), "\r\n"...)
		var r h1.Response
		_, err := r.Parse(s)
		if _, framing := r.Value("content-length"); err != nil && !framing {
			_, framing = r.Value("transfer-encoding")
			require.True(t, framing, "our parser refuses what we write: %v", err)
		}
	})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
