package status_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/status"
)

// explanation explains q, with name in every string that a client may choose.
func explanation(name string, q *http.Request) *status.Explanation {
	e := &status.Explanation{
		Method: q.Method, Host: q.Host, Path: q.URL.EscapedPath(), Client: q.RemoteAddr, Pattern: name, Handlers: []string{name, "*hostproxy.Upstream"},
		Candidates: []status.Choice{{Name: name}, {Name: "*", Why: name}},
		Targets:    []status.Choice{{Name: name, Why: name}, {Name: "b:1"}}, Selection: "the next in turn", Target: "b:1",
		TLS: "a certificate of its own", Certificate: &status.Certificate{Host: name, State: "valid", Issuer: name, NotAfter: time.Date(2026, 3, 2, 3, 4, 5, 0, time.UTC)},
	}
	e.Rule("Upstream.Deny", status.Passes, "the client's address is not on the list of %s", name)
	if q.TLS != nil {
		e.Rule("TLS", status.Passes, "server name %s", q.TLS.ServerName)
	}
	return e
}

func TestTheFormShowsTheExplanation(t *testing.T) {
	h := handler("app.test")
	without := body(t, get(t, h, "GET", "/", ""))
	assert.Contains(t, without, `name="url"`)
	assert.NotContains(t, without, "<pre>")

	b := body(t, get(t, h, "GET", "/?method=put&client=2001:db8::1&url="+url.QueryEscape("https://app.test:8443/a%2Fb?c=d"), ""))
	assert.Contains(t, b, `value="https://app.test:8443/a%2Fb?c=d"`)
	assert.Contains(t, b, "<pre>PUT app.test:8443/a%2Fb from [2001:db8::1]:0\n")
	for _, line := range []string{
		"response: from target b:1", "route: app.test", "  app.test: serves", "  *: app.test",
		"handlers: app.test, then *hostproxy.Upstream", "  TLS passes: server name app.test", "targets: the next in turn", "  b:1: eligible",
		"certificate: a certificate of its own: valid, issued by app.test, valid until 2026-03-02 03:04:05Z",
	} {
		assert.Contains(t, b, "\n"+line+"\n")
	}

	res := get(t, h, "GET", "/?format=json&url=app.test", "")
	var got struct {
		status.Explanation
		Text string
	}
	require.NoError(t, json.Unmarshal([]byte(body(t, res)), &got))
	assert.Equal(t, []string{"GET", "app.test", "/"}, []string{got.Method, got.Host, got.Path})
	assert.Contains(t, got.Client, "192.0.2.1", "the one that asks")
	assert.Contains(t, got.Text, "server name app.test", "https unless the URL says something else")
	assert.Equal(t, 405, get(t, h, "POST", "/?url=app.test", "").StatusCode)
}

func TestAnInvalidQueryIsAnsweredWithTheRule(t *testing.T) {
	h := status.Handler(func() status.Page { return status.Page{} }, func(*http.Request) *status.Explanation { panic("explained") })
	for query, want := range map[string]string{
		"url=" + url.QueryEscape("ftp://a.test/"):            `the URL "ftp://a.test/" has the scheme "ftp": want http or https`,
		"url=a.test&client=me":                               `the client "me" is not an IP address`,
		"url=a.test&method=" + url.QueryEscape("G T"):        `invalid method "G T"`,
		"url=" + url.QueryEscape("http://a.test:x/"):         "invalid port",
		"url=" + url.QueryEscape(strings.Repeat("a", 10000)): "the URL has 10000 bytes: at most 8192 are allowed",
	} {
		var got struct{ Text string }
		require.NoError(t, json.Unmarshal([]byte(body(t, get(t, h, "GET", "/?format=json&"+query, ""))), &got))
		assert.Contains(t, got.Text, want)
		assert.Contains(t, body(t, get(t, h, "GET", "/?"+query, "")), "<pre>")
	}
}

// The form's fields have the values of the question.
var values = regexp.MustCompile(`\{ value [^}]*\}`)

func TestTheInputOfAnExplanationIsEscaped(t *testing.T) {
	show := func(name, asked string) string {
		b := body(t, get(t, handler(name), "GET", "/?method="+url.QueryEscape(asked)+"&client="+url.QueryEscape(asked)+"&url="+url.QueryEscape(asked), ""))
		assert.NotContains(t, b, "\u202e")
		assert.True(t, json.Valid([]byte(body(t, get(t, handler(name), "GET", "/?format=json&url="+url.QueryEscape("app.test/"+url.PathEscape(name)), "")))))
		return values.ReplaceAllString(shape(t, b), "{}")
	}
	plain := show("app.test", "app.test")
	for _, s := range []string{"<script>alert(1)</script>", `"><img src=x onerror=alert(1)>`, "a\u202eb", "\x00", "</pre><b>", "\xff", "a\nresponse: 200"} {
		assert.Equal(t, plain, show(s, s), "%q", s)
		b := body(t, get(t, handler(s), "GET", "/?url=app.test", ""))
		assert.NotContains(t, b, "\nresponse: 200", "the input starts no line of its own")
	}
}

func TestTheTextOfAnExplanationIsLimited(t *testing.T) {
	e := status.Explanation{Method: "GET", Host: "::1", Path: "/"}
	for i := range 1000 {
		e.Targets = append(e.Targets, status.Choice{Name: fmt.Sprintf("t%d", i), Why: "its weight is 0"})
	}
	assert.Contains(t, e.Text(), "GET [::1]/\n")
	assert.Contains(t, e.Text(), "\n  t19: its weight is 0\n  and 980 more\n")
	assert.Contains(t, e.Text(), "\nresponse: unknown\n")
	e.DeferBy("Upstream.Pause", "a")
	e.DeferBy("Upstream.Queue", "b")
	e.RefuseBy("Upstream.Targets", 503, "no target is available")
	e.Refuse(400, "later")
	assert.Contains(t, e.Text(), "\nresponse: 503, Upstream.Targets: no target is available, after waiting: Upstream.Pause: a\n")
}
