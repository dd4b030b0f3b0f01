package h1_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/h1"
)

// start is an ordinary request in another version of HTTP.
func start() *h1.Start {
	return &h1.Start{Method: []byte("GET"), Target: []byte("/x?y"), Authority: []byte("a.test"), Ended: true}
}

// fieldList is a list of fields, each "name: value".
func fieldList(lines ...string) (fs []h1.Field) {
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		fs = append(fs, h1.Field{Name: []byte(name), Value: []byte(value)})
	}
	return fs
}

func TestARequestIsFilledAsIfItHadBeenParsed(t *testing.T) {
	var r h1.Request
	_, err := r.Parse([]byte(crlf("POST http://b/ HTTP/1.0", "Host: b", "Connection: close, x")))
	require.ErrorIs(t, err, h1.ErrUnusual)

	require.NoError(t, r.Fill(start(), fieldList("accept: */*", "content-length: 0")))
	assert.Equal(t, []string{"GET", "/x?y", "/x", "?y", "a.test"}, []string{string(r.Method), string(r.Target), string(r.Path), string(r.Query), string(r.Host)})
	assert.Equal(t, []string{"accept=*/*", "content-length=0"}, fields(r.Fields))
	assert.Zero(t, r.ContentLength)
	assert.Zero(t, r.Unusual)
	assert.True(t, r.Persistent() && !r.Nominates && r.Minor == 1, "nothing remains from the previous request")

	n, err := r.Parse([]byte(crlf("GET / HTTP/1.1", "Host: c")))
	require.NoError(t, err)
	assert.Positive(t, n)
	assert.Equal(t, "c", string(r.Host))
}

func TestAFilledRequestIsRefusedLikeAParsedOne(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*h1.Start)
		fields []h1.Field
		status int
	}{
		{"a target in absolute-form", func(s *h1.Start) { s.Target = []byte("http://a.test/") }, nil, 400},
		{"no target", func(s *h1.Start) { s.Target = nil }, nil, 400},
		{"CONNECT", func(s *h1.Start) { s.Method, s.Target = []byte("CONNECT"), []byte("a.test:443") }, nil, 501},
		{"a protocol without CONNECT, and no method", func(s *h1.Start) { s.Method, s.Protocol = nil, []byte("websocket") }, nil, 400},
		{"an authority that is no host", func(s *h1.Start) { s.Authority = []byte("u@a") }, nil, 400},
		{"neither authority nor Host", func(s *h1.Start) { s.Authority = nil }, nil, 400},
		{"a Host that is not the authority", nil, fieldList("host: b.test"), 400},
		{"two Hosts", nil, fieldList("host: a.test", "host: a.test"), 400},
		{"a name that is no token", nil, fieldList("x y: z"), 400},
		{"an empty name", nil, fieldList(": z"), 400},
		{"a control byte in a value", nil, fieldList("x: \x00"), 400},
		{"two lengths", nil, fieldList("content-length: 1", "content-length: 1"), 400},
		{"Transfer-Encoding, which only HTTP/1.1 has", nil, fieldList("transfer-encoding: chunked"), 400},
		{"more fields than allowed", nil, tooMany("x: y"), 431},
		{"as many fields as allowed, and an authority", nil, tooMany("x: y")[1:], 431},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start()
			if tt.change != nil {
				tt.change(s)
			}
			err := new(h1.Request).Fill(s, tt.fields)
			var refusal *h1.Refusal
			require.ErrorAs(t, err, &refusal)
			assert.Equal(t, tt.status, refusal.Status, refusal.Reason)
		})
	}
}

func tooMany(line string) []h1.Field {
	fs := make([]string, h1.MaxFields+1)
	for i := range fs {
		fs[i] = line
	}
	return fieldList(fs...)
}

func TestATrailerSectionIsChecked(t *testing.T) {
	assert.NoError(t, h1.CheckFields(fieldList("x: y", "z: ")))
	most := "x: " + strings.Repeat("y", h1.MaxTrailer-len("x: \r\n\r\n"))
	assert.NoError(t, h1.CheckFields(fieldList(most)))
	for _, fs := range [][]h1.Field{fieldList("x: y", "a b: c"), fieldList("x: \n"), tooMany("x: y"), fieldList(most + "y")} {
		assert.Error(t, h1.CheckFields(fs))
	}
}

func TestRequestsAreFilledWithoutAllocating(t *testing.T) {
	s, fs := start(), fieldList("accept: */*", "user-agent: curl", "cookie: a=b")
	var r h1.Request
	require.NoError(t, r.Fill(s, fs))
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		if r.Fill(s, fs) != nil {
			panic("refused")
		}
	}))
}
