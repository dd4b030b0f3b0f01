package header_test

import (
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/header"
)

func TestConnectionOptionsAreRecognized(t *testing.T) {
	tests := map[string]header.Options{
		"":                          0,
		" , ,\t":                    0,
		"close":                     header.OptionClose,
		" Close ,":                  header.OptionClose,
		"keep-alive":                header.OptionKeepAlive,
		"Keep-Alive, Upgrade":       header.OptionKeepAlive | header.OptionUpgrade,
		"upgrade, http2-settings":   header.OptionUpgrade,
		"TE":                        0,
		"x-internal-auth":           header.OptionField,
		"close,\tX-Foo":             header.OptionClose | header.OptionField,
		"X-Forwarded-For":           0,
		"host, content-length":      0,
		"clos":                      header.OptionField,
		"close x":                   header.OptionField,
		strings.Repeat("x,", 128):   header.OptionField,
		strings.Repeat("x,", 129):   header.OptionField | header.OptionExcess,
		strings.Repeat(",", 1000):   0,
		strings.Repeat("te,", 1000): 0,
	}
	for value, options := range tests {
		assert.Equal(t, options, header.ConnectionOptions(value), "%q", value)
		assert.Equal(t, options, header.ConnectionOptions([]byte(value)), "%q", value)
	}
}

func TestConnectionCannotNominateForwardingOrFramingFields(t *testing.T) {
	tests := []struct {
		value, name string
		want        bool
	}{
		{"X-Foo", "x-foo", true},
		{"close, \tX-FOO\t ,b", "X-Foo", true},
		{",,x-foo", "X-Foo", true},
		{"X-Foo-Bar", "X-Foo", false},
		{"X Foo", "X", false},
		{"", "", false},
		{",", "", false},
		{"x-forwarded-for, X-Real-IP, forwarded, X-Forwarded-Port", "X-Forwarded-For", false},
		{"x-forwarded-for, X-Real-IP, forwarded, X-Forwarded-Port", "X-Forwarded-Port", false},
		{"x-forwarded-for, X-Real-IP, forwarded, X-Forwarded-Port", "X-Real-Ip", false},
		{"host, content-length, transfer-encoding", "Host", false},
		{"host, content-length, transfer-encoding", "Content-Length", false},
		{"authorization", "Authorization", true},
	}
	for _, test := range tests {
		assert.Equal(t, test.want, header.Nominated([]byte(test.value), []byte(test.name)), "%q in %q", test.name, test.value)
		assert.Equal(t, test.want, header.Nominated(test.value, test.name), "%q in %q", test.name, test.value)
	}
}

// forwarding.md, Headers: hop-by-hop fields, and fields that Connection names,
// are removed. Behaviours: TestReverseProxyStripHeadersPresentInConnection,
// TestReverseProxyStripEmptyConnection.
func TestRemoveHopByHopRemovesFixedAndNominatedFields(t *testing.T) {
	tests := []struct {
		name     string
		in, want http.Header
	}{
		{"ordinary fields stay", http.Header{"Accept": {"*/*"}, "Cookie": {"a=b"}}, http.Header{"Accept": {"*/*"}, "Cookie": {"a=b"}}},
		{"the fixed set is removed without being named", http.Header{
			"Connection": {"close"}, "Keep-Alive": {"timeout=5"}, "Proxy-Connection": {"keep-alive"}, "Te": {"gzip"},
			"Trailer": {"X"}, "Transfer-Encoding": {"chunked"}, "Upgrade": {"h2c"}, "Http2-Settings": {"AAMAAABk"},
			"Proxy-Authorization": {"Basic eA=="}, "Proxy-Authenticate": {"Basic"}, "Close": {"x"},
		}, http.Header{}},
		{"a key that is not canonical is removed too", http.Header{"keep-alive": {"x"}, "TE": {"gzip"}}, http.Header{}},
		{"nominated fields are removed in any case, on several lines, with odd spaces", http.Header{
			"Connection": {"close, x-one", " ,\tX-TWO ,,X-Three\t", ""}, "X-One": {"1"}, "X-Two": {"2", "22"}, "X-Three": {"3"}, "X-Four": {"4"},
		}, http.Header{"X-Four": {"4"}}},
		{"an empty Connection is removed", http.Header{"Connection": {""}, "A": {"b"}}, http.Header{"A": {"b"}}},
		{"upgrade does not save a nominated field", http.Header{
			"Connection": {"upgrade, x-internal-auth"}, "Upgrade": {"websocket"}, "X-Internal-Auth": {"secret"},
		}, http.Header{}},
		{"TE: trailers stays as exactly that", http.Header{"Te": {"gzip;q=0.5, Trailers", "deflate"}, "Connection": {"TE"}}, http.Header{"Te": {"trailers"}}},
		{"trailers with a weight is not trailers", http.Header{"Te": {"trailers;q=0.5"}}, http.Header{}},
		{"forwarding fields cannot be nominated", http.Header{
			"Connection":      {"close, x-forwarded-for, X-Forwarded-Host, x-real-ip, forwarded, x-forwarded-port"},
			"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Port": {"443"},
		}, http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Port": {"443"}}},
		{"Content-Length cannot be nominated", http.Header{"Connection": {"content-length"}, "Content-Length": {"5"}}, http.Header{"Content-Length": {"5"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			header.RemoveHopByHop(test.in)
			assert.Equal(t, test.want, test.in)
		})
	}
}

func TestRemoveHopByHopOfNilHeader(t *testing.T) {
	assert.NotPanics(t, func() { header.RemoveHopByHop(nil); header.CleanResponse(nil) })
}

// forwarding.md, Headers: an upstream's Alt-Svc is dropped.
func TestCleanResponseRemovesHopByHopFieldsAndAltSvc(t *testing.T) {
	h := http.Header{
		"Alt-Svc": {`h3=":443"`}, "Te": {"trailers"}, "Connection": {"X-Hidden"}, "X-Hidden": {"1"},
		"Server": {"s"}, "Date": {"d"}, "Content-Length": {"5"},
	}
	header.CleanResponse(h)
	assert.Equal(t, http.Header{"Server": {"s"}, "Date": {"d"}, "Content-Length": {"5"}}, h)
}

func TestUpgradeProtocolRequiresConnectionAndOneProtocol(t *testing.T) {
	tests := []struct {
		name string
		h    http.Header
		want string
	}{
		{"none", http.Header{}, ""},
		{"websocket", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}, "websocket"},
		{"any case, among others, on another line", http.Header{"Connection": {"keep-alive", "x, uPGRADE"}, "Upgrade": {" WebSocket\t"}}, "websocket"},
		{"not nominated", http.Header{"Connection": {"keep-alive"}, "Upgrade": {"websocket"}}, ""},
		{"no Connection", http.Header{"Upgrade": {"websocket"}}, ""},
		{"no Upgrade", http.Header{"Connection": {"upgrade"}}, ""},
		{"two protocols", http.Header{"Connection": {"upgrade"}, "Upgrade": {"websocket, h2c"}}, ""},
		{"two lines", http.Header{"Connection": {"upgrade"}, "Upgrade": {"websocket", "h2c"}}, ""},
		{"a version", http.Header{"Connection": {"upgrade"}, "Upgrade": {"HTTP/2.0"}}, ""},
		{"empty", http.Header{"Connection": {"upgrade"}, "Upgrade": {""}}, ""},
		{"no ASCII", http.Header{"Connection": {"upgrade"}, "Upgrade": {"websoc\u212aet"}}, ""},
		{"h2c is named, for the caller to refuse", http.Header{"Connection": {"upgrade"}, "Upgrade": {"h2c"}}, "h2c"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { assert.Equal(t, test.want, header.UpgradeProtocol(test.h)) })
	}
}

// forwarding.md, Headers: a missing User-Agent stays missing.
func TestAMissingUserAgentStaysMissing(t *testing.T) {
	missing, empty, set := http.Header{}, http.Header{"User-Agent": {""}}, http.Header{"User-Agent": {"x"}}
	for _, h := range []http.Header{missing, empty, set} {
		header.OmitUserAgent(h)
	}
	assert.Equal(t, http.Header{"User-Agent": {""}}, missing)
	assert.Equal(t, http.Header{"User-Agent": {""}}, empty)
	assert.Equal(t, http.Header{"User-Agent": {"x"}}, set)

	var wire strings.Builder
	q, err := http.NewRequest(http.MethodGet, "http://example.com/", nil)
	require.NoError(t, err)
	q.Header = missing
	require.NoError(t, q.Write(&wire))
	assert.NotContains(t, wire.String(), "User-Agent")
}

// FuzzRemoveHopByHop checks that fields which Connection names are removed and
// others stay, that a second call changes nothing, and that the functions for
// bytes decide the same.
func FuzzRemoveHopByHop(f *testing.F) {
	f.Add("close, x-foo", " X-Bar\t,", "X-Foo", "x-bar", "trailers")
	f.Add("", ",,", "Keep-Alive", "X-Forwarded-For", "gzip, trailers")
	f.Add("x-forwarded-for", "te", "Host", "X-Forwarded-For", "")
	f.Fuzz(func(t *testing.T, c1, c2, name1, name2, te string) {
		if !header.ValidName(name1) || !header.ValidName(name2) {
			t.Skip()
		}
		h := http.Header{}
		h.Add(name1, "1")
		h.Add(name2, "2")
		h.Add("Te", te)
		h.Add("Connection", c1)
		h.Add("Connection", c2)
		before := maps.Clone(h)
		connection := h["Connection"]

		header.RemoveHopByHop(h)

		for name, values := range before {
			class := header.Classify(name)
			drop := class&header.HopByHop != 0
			for _, c := range connection {
				if header.Nominated([]byte(c), []byte(name)) {
					drop = true
					options := header.ConnectionOptions(c)
					require.True(t, class&header.HopByHop != 0 || options&header.OptionField != 0, "%q nominates %q", c, name)
				}
			}
			switch {
			case class&header.TE != 0:
				accepts := false
				for _, value := range values {
					accepts = accepts || header.AcceptsTrailers(value)
				}
				require.Equal(t, accepts, len(h["Te"]) == 1)
			case drop:
				require.NotContains(t, h, name)
			default:
				require.Equal(t, values, h[name])
			}
		}
		once := maps.Clone(h)
		header.RemoveHopByHop(h)
		require.Equal(t, once, h)
	})
}

func TestConnectionDoesNotAllocate(t *testing.T) {
	value, name := []byte("keep-alive, X-Foo"), []byte("x-foo")
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		if header.ConnectionOptions(value)&header.OptionField == 0 || !header.Nominated(value, name) {
			t.Fail()
		}
	}))
}

func TestDenominateRemovesNominatedFieldsButKeepsConnectionOptions(t *testing.T) {
	h := http.Header{
		"Connection": {"keep-alive, X-Mine", "Upgrade,x-user , , Host, X-Forwarded-For, close"},
		"X-Mine":     {"1"}, "X-User": {"2"}, "X-Other": {"3"}, "X-Forwarded-For": {"192.0.2.1"}, "Upgrade": {"websocket"},
	}
	header.Denominate(h)
	assert.Equal(t, http.Header{
		"Connection": {"keep-alive", "Upgrade, Host, X-Forwarded-For, close"},
		"X-Other":    {"3"}, "X-Forwarded-For": {"192.0.2.1"}, "Upgrade": {"websocket"},
	}, h)
	h.Set("X-User", "ours")
	header.RemoveHopByHop(h)
	assert.Equal(t, []string{"ours"}, h["X-User"])
}
