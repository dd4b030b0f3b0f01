package hostproxy_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// ruleOfNil is the rule that each error about a nil handler states.
const ruleOfNil = "nil handler: a handler is required"

// telling is middleware that shows the handler behind it, by Unwrap.
type telling struct{ http.Handler }

func (w telling) Unwrap() http.Handler { return w.Handler }

func TestANilHandlerIsAnErrorOfItsRoute(t *testing.T) {
	for name, h := range map[string]http.Handler{
		"nil":                nil,
		"HandlerFunc":        http.HandlerFunc(nil),
		"ServeMux":           (*http.ServeMux)(nil),
		"Upstream":           (*hostproxy.Upstream)(nil),
		"Router":             (*hostproxy.Router)(nil),
		"BasicAuth":          (*hostproxy.BasicAuth)(nil),
		"ForwardAuth":        (*hostproxy.ForwardAuth)(nil),
		"Guard":              (*hostproxy.Guard)(nil),
		"Passthrough":        (*hostproxy.Passthrough)(nil),
		"a wrapped Router":   telling{(*hostproxy.Router)(nil)},
		"a wrapped ServeMux": telling{(*http.ServeMux)(nil)},
		"a wrapped func":     telling{http.HandlerFunc(nil)},
	} {
		var r hostproxy.Router
		assert.ErrorContains(t, r.Set("a.test", h), ruleOfNil, name)
		assert.ErrorContains(t, r.Replace(map[string]http.Handler{"a.test": h}), ruleOfNil, name)
		assert.Panics(t, func() { r.Handle("a.test", h) }, name)
	}
}

// Middleware without an Unwrap method hides a nil handler from the checks of
// routes. Such a handler then answers with 500.
func TestANilHandlerThatIsCalledAnswers500(t *testing.T) {
	for name, h := range map[string]http.Handler{
		"Upstream":    (*hostproxy.Upstream)(nil),
		"Router":      (*hostproxy.Router)(nil),
		"BasicAuth":   (*hostproxy.BasicAuth)(nil),
		"ForwardAuth": (*hostproxy.ForwardAuth)(nil),
		"Guard":       (*hostproxy.Guard)(nil),
	} {
		q := httptest.NewRequest("GET", "http://a.test/", nil)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, q)
		assert.Equal(t, 500, w.Code, name)

		var cause error
		r := hostproxy.Router{Observe: func(x *hostproxy.Exchange) { cause = x.Err }}
		r.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { h.ServeHTTP(w, q) }))
		w = httptest.NewRecorder()
		r.ServeHTTP(w, q)
		assert.Equal(t, 500, w.Code, name)
		assert.ErrorContains(t, cause, ruleOfNil, name)
	}
}

func TestANilUpstreamIsAnErrorOfItsMethods(t *testing.T) {
	var u *hostproxy.Upstream
	ctx, other := context.Background(), hostproxy.To("localhost:1")
	for name, err := range map[string]error{
		"Ready": u.Ready(ctx), "Add": u.Add("localhost:1"), "Remove": u.Remove("localhost:1"), "Replace": u.Replace(ctx, "localhost:1"),
		"Pause": u.Pause(1), "Resume": u.Resume(), "Maintain": u.Maintain(hostproxy.Page{}), "Drain": u.Drain(ctx),
		"Canary": u.Canary(other, 1), "Mirror": u.Mirror(other, 1),
	} {
		assert.ErrorContains(t, err, "hostproxy: "+ruleOfNil, name)
	}
	assert.Empty(t, slices.Collect(u.All()))
}

func TestANilHandlerOfAServerIsAnErrorOfServe(t *testing.T) {
	for _, tt := range []struct {
		want   string
		server hostproxy.Server
	}{
		{"Server.Router is nil", hostproxy.Server{}},
		{"Server.Handler: " + ruleOfNil, hostproxy.Server{Router: new(hostproxy.Router), Handler: http.HandlerFunc(nil)}},
		{"Server.Handler: " + ruleOfNil, hostproxy.Server{Router: new(hostproxy.Router), Handler: (*http.ServeMux)(nil)}},
		{"NotFound: " + ruleOfNil, hostproxy.Server{Router: &hostproxy.Router{NotFound: http.HandlerFunc(nil)}}},
		{"NotFound: " + ruleOfNil, hostproxy.Server{Router: &hostproxy.Router{NotFound: (*hostproxy.Upstream)(nil)}}},
	} {
		ln := proxytest.Listen(t)
		assert.ErrorContains(t, tt.server.Serve(t.Context(), nil, ln), "hostproxy: "+tt.want)
		ln.Close()
	}
}

func TestStatusHandlerAndAccessLogPanicOnNil(t *testing.T) {
	assert.PanicsWithValue(t, "hostproxy: StatusHandler: nil Router: want the one that is to be shown", func() { hostproxy.StatusHandler(nil) })
	for _, l := range []*slog.Logger{nil, {}} {
		assert.PanicsWithValue(t, "hostproxy: AccessLog: nil Logger: want one, such as slog.Default()", func() { hostproxy.AccessLog(l) })
	}
	assert.NotPanics(t, func() { hostproxy.AccessLog(slog.New(slog.NewTextHandler(io.Discard, nil))) })
}
