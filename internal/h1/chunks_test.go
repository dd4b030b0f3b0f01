package h1_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http/httputil"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/h1"
)

// decode feeds body to c in pieces of size step, as a connection would. Bytes
// left over are put in front of the next piece.
func decode(c *h1.Chunks, body string, step int) (data, rest string, err error) {
	var buf []byte
	for err == nil {
		k := min(step, len(body))
		buf, body = append(buf, body[:k]...), body[k:]
		var d []byte
		var n int
		d, n, err = c.Decode(buf)
		data += string(d)
		buf = bytes.Clone(buf[n:])
		if err == nil && len(body) == 0 {
			return data, string(buf), h1.ErrMore
		}
	}
	return data, string(buf) + body, err
}

func TestChunkedBodiesDecodeInAnySplit(t *testing.T) {
	body := "3\r\nabc\r\n1;ext=\"q\"\r\nd\r\n0A \t;\t a = b ; c\r\n0123456789\r\n0\r\n"
	for _, tt := range []struct {
		name, end string
		trailers  []string
	}{
		{"without trailers", "\r\n", nil},
		{"with trailers", "X-Sum: 1\r\nx-empty:\r\n\r\n", []string{"X-Sum=1", "x-empty="}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for step := 1; step < len(body+tt.end)+1; step++ {
				var c h1.Chunks
				data, rest, err := decode(&c, body+tt.end+"GET /next", step)
				require.Equal(t, io.EOF, err)
				require.Equal(t, "abcd0123456789", data)
				require.True(t, strings.HasPrefix("GET /next", rest[:min(len(rest), 9)]))
				require.Len(t, rest, len("GET /next"), "exactly the body is consumed")
			}
			var c h1.Chunks
			_, _, err := c.Decode([]byte(body + tt.end))
			require.Equal(t, io.EOF, err)
			assert.Equal(t, tt.trailers, fields(c.Trailers))
		})
	}
}

func TestChunkSizesPaddedWithWhiteSpaceNeedPadded(t *testing.T) {
	c := h1.Chunks{Padded: true}
	for range 2 {
		data, _, err := decode(&c, "2 \t\r\nab\r\n0  \r\n\r\n", 1)
		require.Equal(t, io.EOF, err)
		assert.Equal(t, "ab", data)
		c.Reset()
	}
	_, _, err := decode(&c, "1 a\r\na\r\n", 1)
	var refusal *h1.Refusal
	require.ErrorAs(t, err, &refusal, "other bytes after a size are refused")
	_, _, err = decode(&h1.Chunks{}, "2 \r\nab\r\n0\r\n\r\n", 1)
	require.ErrorAs(t, err, &refusal)
}

func TestDecodedDataIsASliceOfTheBuffer(t *testing.T) {
	b := []byte("2\r\nab\r\n3\r\ncde\r\n")
	var c h1.Chunks
	data, n, err := c.Decode(b)
	require.NoError(t, err)
	assert.Equal(t, len(b), n)
	assert.Equal(t, "abcde", string(data))
	assert.Same(t, &b[3], &data[0])
	assert.Equal(t, len(data), cap(data), "appending must not reach what follows")
}

func TestNothingIsReadAfterTheEndOfABody(t *testing.T) {
	var c h1.Chunks
	_, _, err := c.Decode([]byte("0\r\n\r\n"))
	require.Equal(t, io.EOF, err)
	data, n, err := c.Decode([]byte("1\r\na\r\n"))
	assert.Equal(t, io.EOF, err)
	assert.Zero(t, n)
	assert.Empty(t, data)
	c.Reset()
	data, _, err = c.Decode([]byte("1\r\na\r\n"))
	assert.NoError(t, err)
	assert.Equal(t, "a", string(data))
}

func TestMalformedChunkedBodiesAreRefused(t *testing.T) {
	var many strings.Builder
	for i := range h1.MaxFields + 1 {
		fmt.Fprintf(&many, "x%d: y\r\n", i)
	}
	for _, tt := range []struct{ name, body string }{
		{"no digit", "\r\n"},
		{"not hex", "g\r\n"},
		{"a sign", "+1\r\na\r\n"},
		{"a prefix", "0x1\r\na\r\n"},
		{"an underscore", "1_0\r\n"},
		{"a space before the size", " 1\r\na\r\n"},
		{"17 digits", "00000000000000001\r\n"},
		{"a size that overflows", "ffffffffffffffff\r\n"},
		{"a size just below 2^63", "7fffffffffffffff\r\n"},
		{"bare LF in the size line (CVE-2025-22871)", "1\na\r\n0\r\n\r\n"},
		{"bare CR in the size line", "1\ra\r\n"},
		{"bare LF in an extension", "1;a\na\r\n"},
		{"control byte in an extension", "1;a\x00\r\na\r\n"},
		{"extension without semicolon", "1 a\r\na\r\n"},
		{"white space without an extension", "1 \r\na\r\n"},
		{"white space and bare LF", "1 \na\r\n"},
		{"data longer than its size", "1\r\nab\r\n"},
		{"LF after the data", "1\r\na\n0\r\n\r\n"},
		{"CR without LF after the data", "1\r\na\rx"},
		{"an extension of 2 KB", "1;" + strings.Repeat("x", 2<<10) + "\r\na\r\n"},
		{"bare LF in the trailer section", "0\r\nx: y\n\r\n"},
		{"bare LF as the end of the trailer section", "0\r\n\n"},
		{"a trailer with a space before the colon", "0\r\nx : y\r\n\r\n"},
		{"a trailer that continues", "0\r\nx: y\r\n z\r\n\r\n"},
		{"a trailer without a name", "0\r\n: y\r\n\r\n"},
		{"more trailers than allowed", "0\r\n" + many.String() + "\r\n"},
		{"more trailer bytes than allowed", "0\r\nx: " + strings.Repeat("y", h1.MaxTrailer) + "\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, step := range []int{1, 3, 1 << 20} {
				var c h1.Chunks
				_, _, err := decode(&c, tt.body, step)
				var refusal *h1.Refusal
				require.ErrorAs(t, err, &refusal)
			}
		})
	}
}

func TestDataBeforeAFaultIsReturnedWithIt(t *testing.T) {
	var c h1.Chunks
	data, _, err := c.Decode([]byte("2\r\nab\r\nx"))
	assert.Error(t, err)
	assert.Equal(t, "ab", string(data))
}

// CVE-2023-39326: a body that is mostly chunk extensions.
func TestTheTotalSizeOfChunkExtensionsIsLimited(t *testing.T) {
	chunk := []byte("1;" + strings.Repeat("x", 1000) + "\r\na\r\n")
	var c h1.Chunks
	sent := 0
	for err := error(nil); err == nil; sent += len(chunk) {
		require.Less(t, sent, 1<<20, "refused early")
		_, _, err = c.Decode(bytes.Clone(chunk))
	}
	t.Run("one byte in each chunk is allowed", func(t *testing.T) {
		var c h1.Chunks
		for range 100_000 {
			_, _, err := c.Decode([]byte("1\r\na\r\n"))
			require.NoError(t, err)
		}
	})
}

func TestChunksAreDecodedWithoutAllocating(t *testing.T) {
	body := []byte("5\r\nhello\r\n0\r\nx: y\r\n\r\n")
	var c h1.Chunks
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		c.Reset()
		if _, _, err := c.Decode(body); err != io.EOF {
			panic(err)
		}
	}))
}

// blankExtension finds white space before an extension (RFC 9112, 7.1.1).
var blankExtension = regexp.MustCompile(`[0-9A-Fa-f][ \t]+;`)

func FuzzChunks(f *testing.F) {
	for _, s := range []string{"3\r\nabc\r\n0\r\n\r\n", "a;x=y\r\n0123456789\r\n0\r\nx: y\r\n\r\nGET", "1 \r\na\r\n", "1 ; a = b\r\na\r\n0\r\n\r\n", "00\r\n\r\n", "1\r\na\r\n1\r\nb\r\n"} {
		f.Add(s, uint8(3))
	}
	f.Fuzz(func(t *testing.T, body string, step uint8) {
		whole, split := h1.Chunks{Padded: step%2 == 1}, h1.Chunks{Padded: step%2 == 1}
		data, rest, err := decode(&whole, body, len(body)+1)
		data2, rest2, err2 := decode(&split, body, int(step)+1)
		require.Equal(t, err, err2, "the split of the input changes the result")
		require.Equal(t, data, data2)
		if err == io.EOF {
			require.Equal(t, rest, rest2)
			want, stdErr := io.ReadAll(httputil.NewChunkedReader(strings.NewReader(body)))
			if stdErr != nil && blankExtension.MatchString(body) {
				return // net/http refuses it
			}
			require.NoError(t, stdErr, "net/http refuses what was accepted")
			require.Equal(t, string(want), data)
		}
	})
}

func FuzzChunksRoundTrip(f *testing.F) {
	f.Add([]byte("some data"), uint8(3), "X-Sum", "a b")
	f.Add([]byte{}, uint8(0), "", "\r\nx: y")
	f.Fuzz(func(t *testing.T, data []byte, size uint8, name, value string) {
		var wire []byte
		for rest := data; len(rest) > 0; {
			k := min(int(size)+1, len(rest))
			wire = append(append(h1.AppendChunkHeader(wire, k), rest[:k]...), "\r\n"...)
			rest = rest[k:]
		}
		if len(name)+len(value) > 1000 {
			return
		}
		wire = h1.AppendLastChunk(wire, []h1.Field{{Name: []byte(name), Value: []byte(value)}})
		var c h1.Chunks
		got, n, err := c.Decode(wire)
		require.Equal(t, io.EOF, err)
		require.Equal(t, len(wire), n)
		require.Equal(t, string(data), string(got))
		require.LessOrEqual(t, len(c.Trailers), 1)
		require.Equal(t, h1.ValidToken(name), len(c.Trailers) == 1)
	})
}
