package hostproxy_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
)

func TestInvalidHeadersOfARouterAreErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit hostproxy.HeaderEdit
		hsts *hostproxy.HSTS
		want []string
	}{
		{"framing", hostproxy.HeaderEdit{Remove: []string{"Content-Length"}, Set: http.Header{"Connection": {"close"}}, Add: http.Header{"transfer-encoding": {"x"}}}, nil,
			[]string{`ResponseHeader.Remove: "Content-Length" is not allowed`, `ResponseHeader.Set: "Connection" is not allowed`, `ResponseHeader.Add: "transfer-encoding" is not allowed`}},
		{"names", hostproxy.HeaderEdit{Remove: []string{""}, Set: http.Header{"A b": {"1"}}}, nil,
			[]string{`ResponseHeader.Remove: "" is not allowed`, `ResponseHeader.Set: "A b" is not allowed`}},
		{"values", hostproxy.HeaderEdit{Set: http.Header{"X-A": {"a\r\nX-B: b"}}}, nil,
			[]string{`ResponseHeader.Set["X-A"] has the value "a\r\nX-B: b": want one without control characters`}},
		{"HSTS", hostproxy.HeaderEdit{Remove: []string{"Host"}}, &hostproxy.HSTS{MaxAge: time.Millisecond},
			[]string{"HSTS.MaxAge is 1ms: want a second or more", `ResponseHeader.Remove: "Host" is not allowed`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := hostproxy.Router{ResponseHeader: tt.edit, HSTS: tt.hsts, Logger: slog.New(slog.DiscardHandler)}
			err := r.Check()
			for _, want := range tt.want {
				assert.ErrorContains(t, err, want)
			}
			w := httptest.NewRecorder()
			r.ServeHTTP(w, httptest.NewRequest("GET", "http://a.test/", nil))
			assert.Equal(t, http.StatusInternalServerError, w.Code, "as for every invalid field")
		})
	}
}

// The maps belong to the program. Changing them later changes nothing.
func TestTheHeadersOfARouterAreCopied(t *testing.T) {
	set := http.Header{"X-A": {"1"}}
	r := hostproxy.Router{ResponseHeader: hostproxy.HeaderEdit{Set: set}, Logger: slog.New(slog.DiscardHandler)}
	ask := func() http.Header {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("GET", "http://a.test/", nil))
		return w.Header()
	}
	assert.Equal(t, []string{"1"}, ask()["X-A"])
	set["X-A"][0] = "2"
	set["X-B"] = []string{"3"}
	assert.Equal(t, []string{"1"}, ask()["X-A"])
	assert.Empty(t, ask()["X-B"])
	err := r.Set("b.test", http.NotFoundHandler())
	require.ErrorContains(t, err, "ResponseHeader.Set was changed after first use and has no effect")
	assert.Equal(t, 1, strings.Count(err.Error(), "was changed"))
}

// The inner Router edits the response first. The outer one is nearer to the
// client and has the last word.
func TestTheHeadersOfAnOuterRouterReplaceThoseOfAnInnerOne(t *testing.T) {
	inner := hostproxy.Router{ResponseHeader: hostproxy.HeaderEdit{Set: http.Header{"X-A": {"inner"}, "X-B": {"inner"}}}}
	inner.Handle("a.test", hostproxy.Redirect("b.test"))
	outer := hostproxy.Router{ResponseHeader: hostproxy.HeaderEdit{Set: http.Header{"X-A": {"outer"}}}}
	outer.Handle("*", &inner)
	w := httptest.NewRecorder()
	outer.ServeHTTP(w, httptest.NewRequest("GET", "http://a.test/", nil))
	assert.Equal(t, http.StatusPermanentRedirect, w.Code)
	assert.Equal(t, []string{"outer"}, w.Header()["X-A"])
	assert.Equal(t, []string{"inner"}, w.Header()["X-B"])
}
