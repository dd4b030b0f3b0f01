package hostproxy_test

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// anything implements every interface that a field can have.
type anything struct {
	http.Handler
	http.RoundTripper
	hostproxy.Limiter
	certmagic.Issuer
	certmagic.Storage
	certmagic.DNSProvider
}

// another returns a value of type t that is not v.
func another(t *testing.T, v reflect.Value) reflect.Value {
	t.Helper()
	typ := v.Type()
	made := reflect.New(typ).Elem()
	switch typ.Kind() {
	case reflect.Bool:
		made.SetBool(!v.Bool())
	case reflect.Int, reflect.Int64:
		made.SetInt(v.Int() + 1)
	case reflect.Float64:
		made.SetFloat(v.Float() + 1)
	case reflect.Uint8, reflect.Uint16:
		made.SetUint(v.Uint() + 1)
	case reflect.String:
		made.SetString(v.String() + "x")
	case reflect.Func:
		made.Set(reflect.MakeFunc(typ, func([]reflect.Value) []reflect.Value { panic("not called") }))
	case reflect.Pointer:
		made.Set(reflect.New(typ.Elem()))
	case reflect.Slice:
		made.Set(reflect.Append(v, reflect.Zero(typ.Elem())))
	case reflect.Map:
		made.Set(reflect.MakeMap(typ))
		made.SetMapIndex(reflect.Zero(typ.Key()), reflect.Zero(typ.Elem()))
	case reflect.Interface:
		require.True(t, reflect.TypeFor[anything]().Implements(typ) || reflect.TypeFor[*anything]().Implements(typ), "%v", typ)
		made.Set(reflect.ValueOf(new(anything)))
	default:
		t.Fatalf("no other value of %v is known", typ)
	}
	return made
}

// leaves calls f with each exported field below v and with its name.
func leaves(v reflect.Value, name string, f func(name string, v reflect.Value)) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		switch {
		case !field.IsExported():
		case field.Type.Kind() == reflect.Struct && field.Type != reflect.TypeFor[netip.Addr]():
			leaves(v.Field(i), name+field.Name+".", f)
		default:
			f(name+field.Name, v.Field(i))
		}
	}
}

// A late is a Router with one handler of each kind. It has been used, so its
// fields are in force.
type late struct {
	*hostproxy.Router
	routes map[string]http.Handler
	log    *bytes.Buffer
}

// change sets a field to another value, calls check with the error text that is
// expected, and then sets the field back.
func (l *late) change(t *testing.T, name string, v reflect.Value, check func(want string)) {
	t.Helper()
	before := reflect.New(v.Type()).Elem()
	before.Set(v)
	v.Set(another(t, v))
	l.log.Reset()
	want := name + " was changed after first use and has no effect"
	err := l.Replace(l.routes)
	assert.ErrorContains(t, err, want)
	assert.Equal(t, 1, strings.Count(err.Error(), "was changed"), "%v", err)
	assert.Contains(t, l.log.String(), name, "the log names the field")
	assert.Contains(t, l.log.String(), `remedy="change it back, and set it before the first use`)
	l.log.Reset()
	assert.ErrorContains(t, l.Check(), want)
	_, err = l.CheckReplace(l.routes)
	assert.ErrorContains(t, err, want)
	check(want)
	assert.NotContains(t, l.log.String(), "was changed", "once")
	v.Set(before)
	require.NoError(t, l.Replace(l.routes), "%s is back", name)
	require.NoError(t, l.Check())
}

func TestAFieldThatIsSetTooLateIsReported(t *testing.T) {
	backend := proxytest.NewServer(t, nil)
	log := new(bytes.Buffer)
	u := hostproxy.To(backend.Addr())
	guard := &hostproxy.Guard{Next: u}
	forward := &hostproxy.ForwardAuth{Auth: hostproxy.To(backend.Addr()), Next: guard}
	basic := &hostproxy.BasicAuth{Users: map[string]string{"ali": "$2a$04$r.H.IwusjCYoQM/2jE2t1ex2PJE9s8XUMzwU8yUGnPrQeuF57GLjS"}, Next: forward}
	l := &late{&hostproxy.Router{Logger: slog.New(slog.NewTextHandler(log, nil))}, nil, log}
	l.Handle("a.test", basic)
	l.Handle("b.test", forward)
	l.Handle("c.test", u)
	l.Handle("d.test", guard)
	l.routes = maps.Collect(l.All())
	addr, stop := serve(t, &hostproxy.Server{Router: l.Router})
	// Serve has begun, but no handler has had a request
	proxytest.Dial(t, addr).Do("GET / HTTP/1.1\r\nHost: none.test\r\n\r\n")
	stop()

	fields := 0
	for prefix, settings := range map[string]any{"Router.": l.Router, "Upstream.": u, "BasicAuth.": basic, "ForwardAuth.": forward, "Guard.": guard} {
		leaves(reflect.ValueOf(settings).Elem(), prefix, func(name string, v reflect.Value) {
			if name == "Router.Logger" {
				return // a handler that cannot report it
			}
			fields++
			l.change(t, name, v, func(want string) {
				assert.ErrorContains(t, l.Set("a.test", basic), want)
				assert.ErrorContains(t, (&hostproxy.Server{Router: l.Router}).Serve(t.Context(), nil, proxytest.Listen(t)), want)
				_, err := l.Wrap(proxytest.Listen(t))
				assert.ErrorContains(t, err, want)
				_, err = l.TLSConfig()
				assert.ErrorContains(t, err, want)
			})
		})
	}
	assert.Greater(t, fields, 75)
	logger := l.Logger
	l.Logger = slog.New(slog.DiscardHandler)
	assert.ErrorContains(t, l.Replace(l.routes), "Router.Logger was changed")
	l.Logger = logger
	require.NoError(t, l.Replace(l.routes))
}

func TestAFieldOfAServerThatIsSetTooLateIsReported(t *testing.T) {
	log := new(bytes.Buffer)
	l := &late{&hostproxy.Router{Logger: slog.New(slog.NewTextHandler(log, nil))}, nil, log}
	s := &hostproxy.Server{Router: l.Router}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	ln := proxytest.Listen(t)
	go func() { done <- s.Serve(ctx, nil, ln) }()
	// Serve has begun
	proxytest.Dial(t, ln.Addr().String()).Do("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	leaves(reflect.ValueOf(s).Elem(), "Server.", func(name string, v reflect.Value) {
		if name != "Server.Router" { // another Router has no connection to s
			l.change(t, name, v, func(want string) { assert.ErrorContains(t, l.Set("a.test", http.NotFoundHandler()), want) })
		}
	})
	s.DrainTimeout = 1
	cancel()
	assert.ErrorContains(t, <-done, "Server.DrainTimeout was changed after first use")
	assert.NoError(t, l.Replace(nil), "s does not run any more")
}

// Fields set after Handle and before the first use are in force.
func TestFieldsSetBeforeTheFirstUseAreInForce(t *testing.T) {
	backend := proxytest.NewServer(t, nil)
	all := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	for about, tt := range map[string]struct {
		set  func(r *hostproxy.Router, u *hostproxy.Upstream, b *hostproxy.BasicAuth)
		host string
		want int
	}{
		"Upstream.Deny":   {func(_ *hostproxy.Router, u *hostproxy.Upstream, _ *hostproxy.BasicAuth) { u.Deny = all }, "a.test", 403},
		"Upstream behind": {func(_ *hostproxy.Router, u *hostproxy.Upstream, _ *hostproxy.BasicAuth) { u.Deny = all }, "c.test", 403},
		"Upstream.Targets": {func(_ *hostproxy.Router, u *hostproxy.Upstream, _ *hostproxy.BasicAuth) {
			u.Targets[0].Host = proxytest.Refused(t)
		}, "a.test", 502},
		"an impossible one": {func(_ *hostproxy.Router, u *hostproxy.Upstream, _ *hostproxy.BasicAuth) { u.MaxInFlight = -1 }, "a.test", 500},
		"BasicAuth.Users": {func(_ *hostproxy.Router, _ *hostproxy.Upstream, b *hostproxy.BasicAuth) {
			b.Users["ben"] = b.Users["ali"]
		}, "b.test", 401},
		"Router.NotFound": {func(r *hostproxy.Router, _ *hostproxy.Upstream, _ *hostproxy.BasicAuth) { r.NotFound = status(418) }, "d.test", 418},
		"a RateLimit too high": {func(r *hostproxy.Router, _ *hostproxy.Upstream, _ *hostproxy.BasicAuth) {
			r.RateLimit = &hostproxy.RateLimit{Rate: -1}
		}, "a.test", 500},
	} {
		t.Run(about, func(t *testing.T) {
			u := hostproxy.To(backend.Addr())
			b := &hostproxy.BasicAuth{Users: map[string]string{"ali": "$2a$04$r.H.IwusjCYoQM/2jE2t1ex2PJE9s8XUMzwU8yUGnPrQeuF57GLjS"}, Next: status(200)}
			r := &hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
			r.Handle("a.test", u)
			r.Handle("b.test", b)
			r.Handle("c.test", http.HandlerFunc(u.ServeHTTP))
			tt.set(r, u, b)
			assert.Equal(t, tt.want, ask(r, "GET", "http://"+tt.host+"/").Code)
			err := (&hostproxy.Server{Router: r}).Serve(canceled(), nil, proxytest.Listen(t))
			if tt.want == 500 {
				assert.Error(t, err, "Serve refuses what cannot be used")
			} else {
				assert.NoError(t, err)
			}
		})
	}
}

// status returns a handler that answers with a status.
func status(status int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestLateFieldsOfACanaryAndAMirrorAreReported(t *testing.T) {
	for name, begin := range map[string]func(u, other *hostproxy.Upstream, share float64) error{
		"Canary": (*hostproxy.Upstream).Canary,
		"Mirror": (*hostproxy.Upstream).Mirror,
	} {
		t.Run(name, func(t *testing.T) {
			var log proxytest.Log
			r := hostproxy.Router{Logger: slog.New(slog.NewTextHandler(&log, nil))}
			u, other := hostproxy.To("a:1"), hostproxy.To("b:1")
			r.Handle("a.test", &wrapped{u})
			require.NoError(t, begin(u, other, 0.5))
			require.NoError(t, r.Check())
			other.Deny = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
			late := `pattern "a.test": ` + name + ".Deny was changed after first use and has no effect"
			for range 2 {
				require.ErrorContains(t, r.Check(), late)
				require.ErrorContains(t, r.Replace(map[string]http.Handler{"a.test": u}), late)
			}
			assert.Equal(t, 1, strings.Count(log.String(), name+".Deny"), "it is logged once")
			require.NoError(t, begin(u, nil, 0))
			assert.NoError(t, r.Check(), "nothing uses it any more")
		})
	}
}

// A refusing limiter allows nothing.
type refusing struct{}

func (refusing) Allow(context.Context, netip.Addr) (hostproxy.Quota, error) {
	return hostproxy.Quota{}, nil
}

func TestWhatIsChangedLateStaysInForce(t *testing.T) {
	for name, tt := range map[string]struct {
		set, remove func(r *hostproxy.Router, u *hostproxy.Upstream)
		status      int
	}{
		"ErrorHandler": {
			func(_ *hostproxy.Router, u *hostproxy.Upstream) {
				u.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(418) }
			},
			func(_ *hostproxy.Router, u *hostproxy.Upstream) { u.ErrorHandler = nil }, 418,
		},
		"Pick": {
			func(_ *hostproxy.Router, u *hostproxy.Upstream) {
				u.Pick = func(*http.Request, []*hostproxy.Target) *hostproxy.Target { return nil }
			},
			func(_ *hostproxy.Router, u *hostproxy.Upstream) { u.Pick = nil }, 503,
		},
		"RateLimit.Limiter": {
			func(_ *hostproxy.Router, u *hostproxy.Upstream) {
				u.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: refusing{}}
			},
			func(_ *hostproxy.Router, u *hostproxy.Upstream) { u.RateLimit.Limiter = nil }, 429,
		},
		"Router.RateLimit.Limiter": {
			func(r *hostproxy.Router, _ *hostproxy.Upstream) {
				r.RateLimit = &hostproxy.RateLimit{Rate: 1, Limiter: refusing{}}
			},
			func(r *hostproxy.Router, _ *hostproxy.Upstream) { r.RateLimit.Limiter = nil }, 429,
		},
		"Deny": {
			func(_ *hostproxy.Router, u *hostproxy.Upstream) {
				u.Deny = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
			},
			func(_ *hostproxy.Router, u *hostproxy.Upstream) { u.Deny[0] = netip.MustParsePrefix("10.0.0.0/8") }, 403,
		},
		"Allow": {
			func(_ *hostproxy.Router, u *hostproxy.Upstream) {
				u.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
			},
			func(_ *hostproxy.Router, u *hostproxy.Upstream) { u.Allow[0] = netip.MustParsePrefix("0.0.0.0/0") }, 403,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
			u := hostproxy.To(proxytest.Refused(t))
			tt.set(&r, u)
			r.Handle("a.test", u)
			assert.Equal(t, tt.status, ask(&r, "GET", "http://a.test/").Code)
			tt.remove(&r, u)
			assert.Error(t, r.Check())
			assert.Equal(t, tt.status, ask(&r, "GET", "http://a.test/").Code, "the change has no effect")
		})
	}
}

func TestRouterFieldsThatAreChangedLateStayInForceInBothLanes(t *testing.T) {
	records := make(chan hostproxy.Exchange, 1)
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler), Observe: func(x *hostproxy.Exchange) { records <- *x }}
	r.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	r.NotFound = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(418) })
	b := proxytest.NewServer(t, nil)
	r.Handle("fast.test", hostproxy.To(b.Addr()))
	r.Handle("handler.test", &wrapped{hostproxy.To(b.Addr())})
	s := proxytest.StartPlain(t, &hostproxy.Server{Router: &r})
	check := func() {
		t.Helper()
		for host, status := range map[string]int{"fast.test": 200, "handler.test": 200, "other.test": 418} {
			c := proxytest.Dial(t, s.Plain)
			assert.Equal(t, status, c.Do("GET / HTTP/1.1\r\nHost: "+host+"\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n").StatusCode)
			assert.Equal(t, "127.0.0.1", (<-records).Client.String(), host)
		}
	}
	check()
	trusted, notFound := r.TrustedProxies, r.NotFound
	r.TrustedProxies[0] = netip.MustParsePrefix("127.0.0.0/8")
	r.NotFound = nil
	assert.ErrorContains(t, r.Check(), "Router.TrustedProxies was changed")
	check()
	r.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	check()
	trusted[0] = netip.MustParsePrefix("10.0.0.0/8")
	r.TrustedProxies, r.NotFound = trusted, notFound
	assert.NoError(t, r.Check())
}

func TestWhatIsChangedLateInAHandlerStaysInForce(t *testing.T) {
	backend := proxytest.NewServer(t, nil)
	next := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		assert.NotEqual(t, "forged", q.Header.Get("X-User"))
		w.WriteHeader(http.StatusAccepted)
	})
	basic := &hostproxy.BasicAuth{Users: map[string]string{"ann": "$2a$04$IqF/.XT3p3mm9ybVkjOcju/gOTsydksxD8ZPs9CRn8x6UUSQNcTi."}, UserHeader: "X-User", Next: next}
	auth := &hostproxy.ForwardAuth{Auth: hostproxy.To(backend.Addr()), Path: "/", Fields: []string{"X-User"}, Next: next}
	guard := &hostproxy.Guard{Next: &hostproxy.BasicAuth{Users: basic.Users, UserHeader: "X-User", Next: next}}
	for name, tt := range map[string]struct {
		handler http.Handler
		change  func()
	}{
		"BasicAuth":   {basic, func() { basic.Next, basic.UserHeader = nil, "" }},
		"ForwardAuth": {auth, func() { auth.Next, auth.Auth, auth.Fields[0] = nil, nil, "X-Other" }},
		"Guard":       {guard, func() { guard.Next = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
			r.Handle("a.test", tt.handler)
			asks := func() {
				w, q := httptest.NewRecorder(), httptest.NewRequest("GET", "http://a.test/", nil)
				q.SetBasicAuth("ann", "secret")
				q.Header.Set("X-User", "forged")
				r.ServeHTTP(w, q)
				assert.Equal(t, http.StatusAccepted, w.Code)
			}
			asks()
			tt.change()
			assert.Error(t, r.Check())
			asks()
		})
	}
}
