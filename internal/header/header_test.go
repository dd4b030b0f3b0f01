package header_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/header"
)

// want has the expected classes, written independently of the table. NoTrailer
// has its own test.
var want = map[string]header.Class{
	"connection":          header.HopByHop | header.Connection,
	"close":               header.HopByHop,
	"keep-alive":          header.HopByHop,
	"proxy-connection":    header.HopByHop,
	"proxy-authenticate":  header.HopByHop,
	"proxy-authorization": header.HopByHop,
	"te":                  header.HopByHop | header.TE,
	"trailer":             header.HopByHop,
	"transfer-encoding":   header.HopByHop | header.Framing,
	"upgrade":             header.HopByHop,
	"http2-settings":      header.HopByHop,
	"content-length":      header.Framing,
	"forwarded":           header.Forwarding | header.Rewritten,
	"x-forwarded":         header.Forwarding | header.Rewritten,
	"x-forwarded-for":     header.Forwarding | header.Rewritten | header.ForwardedFor,
	"x-forwarded-proto":   header.Forwarding | header.Rewritten | header.ForwardedProto,
	"x-forwarded-host":    header.Forwarding | header.Rewritten | header.ForwardedHost,
	"x-forwarded-prefix":  header.Forwarding | header.ForwardedPrefix,
	"x-real-ip":           header.Forwarding | header.Rewritten,
	"host":                header.Host,
	"expect":              header.Expect,
	"via":                 header.Via,
	"alt-svc":             header.AltSvc,
}

// decide returns what Classify must return for a name, except NoTrailer.
func decide(name string) header.Class {
	lower := asciiLower(name)
	folded := []byte(lower) // CGI folds bytes, not multi-byte letters
	for i, b := range folded {
		if !('a' <= b && b <= 'z' || '0' <= b && b <= '9') {
			folded[i] = '-'
		}
	}
	plain := string(folded)
	class, ok := want[plain]
	if !ok && strings.HasPrefix(plain, "x-forwarded-") {
		class = header.Forwarding
	}
	if plain != lower {
		if class&(header.HopByHop|header.Framing|header.Forwarding) != 0 {
			return header.Alias
		}
		return 0
	}
	return class
}

func asciiLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func TestClassifyFindsTheClassInAnySpelling(t *testing.T) {
	for name, class := range want {
		for _, spelling := range []string{name, strings.ToUpper(name), http.CanonicalHeaderKey(name)} {
			assert.Equal(t, class, header.Classify(spelling)&^header.NoTrailer, spelling)
			assert.Equal(t, header.Classify(spelling), header.Classify([]byte(spelling)), spelling)
		}
	}
	tests := map[string]header.Class{
		"":                          0,
		"x":                         0,
		"X-Forwarded-Port":          header.Forwarding,
		"X-Forwarded-Server":        header.Forwarding,
		"X-Forwarded-Ssl":           header.Forwarding,
		"X-Forwarded-Client-Crt":    header.Forwarding,
		"X-Forwarded-":              header.Forwarding,
		"X-ForwardedFor":            0,
		"X_Forwarded_For":           header.Alias,
		"X-Forwarded_For":           header.Alias,
		"x.forwarded.for":           header.Alias,
		"X_FORWARDED_USER":          header.Alias,
		"x.real.ip":                 header.Alias,
		"Transfer_Encoding":         header.Alias,
		"Content.Length":            header.Alias,
		"Keep_Alive":                header.Alias,
		"User_Agent":                0,
		"Content_Type":              0,
		"Upgrade-Insecure-Requests": 0,
		"Accept":                    0,
		"Hosts":                     0,
	}
	for name, class := range tests {
		assert.Equal(t, class, header.Classify(name)&^header.NoTrailer, name)
		assert.Equal(t, header.Classify(name), header.Classify([]byte(name)), name)
	}
}

func FuzzClassify(f *testing.F) {
	for name := range want {
		f.Add(name)
		f.Add(strings.ReplaceAll(name, "-", "_"))
	}
	f.Add("X-Forwarded-Port")
	f.Add("\xc3\x84-forwarded")
	f.Fuzz(func(t *testing.T, name string) {
		class := header.Classify(name)
		require.Equal(t, decide(name), class&^header.NoTrailer)
		require.Equal(t, class, header.Classify([]byte(name)))
		if class&(header.HopByHop|header.Framing|header.Forwarding|header.Alias) != 0 {
			require.True(t, header.ForbiddenTrailer(name))
		}
	})
}

// forwarding.md, Framing: Content-Length and other framing or routing names in
// trailers are dropped. Threats: forbidden trailers.
func TestFramingRoutingAndCredentialFieldsAreForbiddenInTrailers(t *testing.T) {
	forbidden := []string{
		"Content-Length", "transfer-encoding", "TRAILER", "TE", "Host", "Connection", "Keep-Alive", "Upgrade", "Proxy-Connection",
		"Authorization", "Proxy-Authorization", "Www-Authenticate", "Proxy-Authenticate", "Set-Cookie", "Cookie",
		"Content-Type", "Content-Encoding", "Content-Range", "Content-Disposition", "content-security-policy",
		"Cache-Control", "Pragma", "Expect", "Max-Forwards", "Range", "If-Match", "if-none-match", "Vary", "Age", "Date",
		"Expires", "Location", "Retry-After", "Warning", "Via", "Alt-Svc",
		"X-Forwarded-For", "X-Forwarded-Port", "Forwarded", "X-Real-Ip", "X_Forwarded_For",
		"Content_Length", "Transfer_Encoding", "Set_Cookie", "Content_Type", "If_Match", "Content_Digest",
	}
	for _, name := range forbidden {
		assert.True(t, header.ForbiddenTrailer(name), name)
		assert.True(t, header.ForbiddenTrailer([]byte(name)), name)
	}
	for _, name := range []string{
		"Grpc-Status", "grpc-message", "Grpc-Status-Details-Bin", "Server-Timing", "Etag", "Digest", "Repr-Digest",
		"Content-Digest", "X-Checksum", "Iffy", "Authentication-Info", "",
	} {
		assert.False(t, header.ForbiddenTrailer(name), name)
		assert.False(t, header.ForbiddenTrailer([]byte(name)), name)
	}
}

// forwarding.md, Framing: a header cannot contain CR or LF.
func TestNamesAndValuesWithControlBytesAreInvalid(t *testing.T) {
	for _, name := range []string{"", "a b", "a:", "a\r", "a\n", "a\x00", "ä"} {
		assert.False(t, header.ValidName(name), "%q", name)
	}
	assert.True(t, header.ValidName("X-Request_ID.1"))
	for _, value := range []string{"a\rb", "a\nb", "a\x00b", "\x7f"} {
		assert.False(t, header.ValidValue(value), "%q", value)
	}
	for _, value := range []string{"", "a\tb", "ä, ö"} {
		assert.True(t, header.ValidValue(value), "%q", value)
	}
}

func TestClassifyDoesNotAllocate(t *testing.T) {
	names := [][]byte{[]byte("Accept-Encoding"), []byte("X-Forwarded-For"), []byte("X-Forwarded-Port"), []byte("Connection"), []byte("x_real_ip")}
	var sum header.Class
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		for _, name := range names {
			sum |= header.Classify(name)
		}
	}))
	assert.NotZero(t, sum)
}

func BenchmarkClassify(b *testing.B) {
	names := [][]byte{[]byte("Host"), []byte("User-Agent"), []byte("Accept"), []byte("Accept-Encoding"), []byte("Cookie"), []byte("X-Forwarded-For")}
	b.ReportAllocs()
	var sum header.Class
	for b.Loop() {
		for _, name := range names {
			sum |= header.Classify(name)
		}
	}
	_ = sum
}
