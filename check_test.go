package hostproxy_test

import (
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// wrapped is middleware that shows the handler behind it, by Unwrap.
type wrapped struct{ http.Handler }

func (w *wrapped) Unwrap() http.Handler { return w.Handler }

func TestCheckReplaceSaysWhatReplaceWouldChange(t *testing.T) {
	stays, wraps, other := hostproxy.To("a:1"), hostproxy.To("b:1"), hostproxy.To("c:1")
	var r hostproxy.Router
	require.NoError(t, r.Replace(map[string]http.Handler{"stays.test": stays, "wraps.test": wraps, "swaps.test": wraps, "goes.test/x": stays, "pass.test": &hostproxy.Passthrough{Addr: "d:1"}}))
	before := maps.Collect(r.All())
	rs := map[string]http.Handler{"Stays.test": stays, "wraps.test": &wrapped{wraps}, "swaps.test": &wrapped{other}, "new.test": other, "*.new.test": other, "*": other, "pass.test": other}
	c, err := r.CheckReplace(rs)
	require.NoError(t, err)
	assert.Equal(t, hostproxy.Changes{
		Added: []string{"*", "*.new.test", "new.test"}, Removed: []string{"goes.test/x/"},
		Swapped: []string{"pass.test", "swaps.test"}, Rewrapped: []string{"wraps.test"},
		Certificates: []string{"*.new.test", "new.test", "pass.test"},
	}, c)
	assert.Equal(t, "added: *, *.new.test, new.test\nremoved: goes.test/x/\nswapped: pass.test, swaps.test\nrewrapped: wraps.test\ncertificates: *.new.test, new.test, pass.test", c.String())
	assert.Equal(t, before, maps.Collect(r.All()), "nothing has changed")

	require.NoError(t, r.Replace(rs))
	c, err = r.CheckReplace(rs)
	require.NoError(t, err)
	assert.Equal(t, hostproxy.Changes{}, c)
	assert.Equal(t, "no changes", c.String())
	c, err = r.CheckReplace(nil)
	require.NoError(t, err)
	assert.Len(t, c.Removed, len(rs))
}

func TestCheckReplaceForeseesReplace(t *testing.T) {
	patterns := []string{"a.test", "a.test/x", "*.test", "*", "b.test/y", "c.test"}
	handlers := []http.Handler{hostproxy.To("a:1"), hostproxy.To("b:1"), says("x"), says("y")}
	some := func() map[string]http.Handler {
		rs := make(map[string]http.Handler)
		for _, p := range patterns {
			if h := handlers[rand.IntN(len(handlers))]; rand.IntN(2) == 0 {
				rs[p] = h
			}
			if h, ok := rs[p]; ok && rand.IntN(3) == 0 {
				rs[p] = &wrapped{h}
			}
		}
		return rs
	}
	var r hostproxy.Router
	for range 200 {
		rs, old := some(), maps.Collect(r.All())
		c, err := r.CheckReplace(rs)
		require.NoError(t, err)
		require.NoError(t, r.Replace(rs))
		now := maps.Collect(r.All())
		for p := range old {
			_, stays := now[p]
			assert.Equal(t, !stays, slices.Contains(c.Removed, p), p)
		}
		for p, h := range now {
			was, old := old[p]
			assert.Equal(t, !old, slices.Contains(c.Added, p), p)
			same := old && hostproxy.SameHandler(was, h)
			changed := slices.Contains(c.Swapped, p) || slices.Contains(c.Rewrapped, p)
			assert.Equal(t, old && !same, changed, p)
		}
	}
}

func TestCheckReplaceReturnsTheErrorsOfReplace(t *testing.T) {
	u := hostproxy.To("a:1")
	u.MaxInFlight = -1
	var r hostproxy.Router
	r.Handle("a.test", says("x"))
	for _, rs := range []map[string]http.Handler{
		{"a..test": says("x")}, {"a.test": nil}, {"a.test": u}, {"A.test": says("x"), "a.test.": says("y")}, {"a.test/x": &hostproxy.Passthrough{Addr: "b:1"}},
	} {
		c, checked := r.CheckReplace(rs)
		assert.Zero(t, c)
		replaced := r.Replace(rs)
		require.Error(t, replaced)
		require.Error(t, checked)
		assert.Equal(t, withoutPlaces(replaced), withoutPlaces(checked))
	}
}

// withoutPlaces returns the words of an error without those that differ between
// two calls: places in the program, and the order of a map.
func withoutPlaces(err error) []string {
	words := slices.DeleteFunc(strings.Fields(err.Error()), func(s string) bool { return strings.Contains(s, ".go:") })
	slices.Sort(words)
	return words
}

func TestCheckReportsFieldsThatAreNotInForce(t *testing.T) {
	b := proxytest.NewServer(t, nil)
	u := hostproxy.To(b.Addr())
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	opaque := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { u.ServeHTTP(w, q) })
	r.Handle("a.test", opaque)
	require.NoError(t, r.Check())
	r.RateLimit = &hostproxy.RateLimit{Rate: -1}
	assert.ErrorContains(t, r.Check(), "RateLimit: Rate is -1")
	r.RateLimit = nil
	require.NoError(t, r.Check(), "Check put nothing in force")
	require.Equal(t, 200, ask(&r, "GET", "http://a.test/").Code)

	u.Deny = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	const late = `pattern "a.test": Upstream.Deny was changed after first use and has no effect`
	assert.ErrorContains(t, r.Check(), late, "behind middleware that does not show it")
	same := map[string]http.Handler{"a.test": opaque}
	_, err := r.CheckReplace(same)
	assert.ErrorContains(t, err, late)
	assert.ErrorContains(t, r.Replace(same), late)
	_, err = r.CheckReplace(nil)
	assert.NoError(t, err, "the route is removed")
	u.Deny = nil
	require.NoError(t, r.Check())

	other := hostproxy.To("a:1")
	r.Handle("b.test", &hostproxy.BasicAuth{Users: map[string]string{"ali": "$2a$04$r.H.IwusjCYoQM/2jE2t1ex2PJE9s8XUMzwU8yUGnPrQeuF57GLjS"}, Next: other})
	r.Handle("c.test", other)
	other.MaxInFlight = -1
	assert.ErrorContains(t, r.Check(), "MaxInFlight is negative")
}

func TestCheckFindsAPassthroughWhoseAddressIsInvalidNow(t *testing.T) {
	p := &hostproxy.Passthrough{Addr: "127.0.0.1:1"}
	var r hostproxy.Router
	r.Handle("a.test", p)
	require.NoError(t, r.Check())
	p.Addr = "http://127.0.0.1:1"
	assert.ErrorContains(t, r.Check(), `pattern "a.test": Passthrough.Addr is "http://127.0.0.1:1": want host:port`)
	p.Addr = "127.0.0.1:2"
	assert.NoError(t, r.Check())
}
