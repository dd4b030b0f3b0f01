package reach_test

import (
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/reach"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

func TestMetValuesAreListedUntilTheLastRouteLeaves(t *testing.T) {
	var m reach.Map[string]
	a, b := m.NewRoute(), m.NewRoute()
	assert.Empty(t, a.All())
	assert.True(t, a.Meet("x"))
	assert.False(t, a.Meet("x"))
	assert.True(t, b.Meet("x"))
	assert.True(t, a.Meet("y"))
	assert.Equal(t, []string{"x", "y"}, a.All())
	assert.ElementsMatch(t, []string{"x", "y"}, m.All())

	assert.Equal(t, []string{"y"}, a.Leave())
	assert.True(t, m.Has("x"))
	assert.False(t, m.Has("y"))
	assert.False(t, a.Meet("z"), "a late request is not counted")
	assert.False(t, m.Has("z"))
	assert.Contains(t, a.All(), "z", "but noted: its background work must end")
	m.Add("x")
	assert.Empty(t, b.Leave())
	assert.True(t, m.Remove("x"))
	assert.Empty(t, m.All())
}

func TestMeetCanBeCalledConcurrently(t *testing.T) {
	var m reach.Map[int]
	r := m.NewRoute()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 100 {
				r.Meet(i)
			}
		})
	}
	wg.Wait()
	assert.Len(t, r.All(), 100)
	assert.Len(t, r.Leave(), 100)
	assert.Empty(t, m.All())
}

func TestMeetingAgainAllocatesNothing(t *testing.T) {
	var m reach.Map[int]
	r := m.NewRoute()
	r.Meet(1)
	assert.Zero(t, testing.AllocsPerRun(100, func() { r.Meet(1) }))
}

// around wraps another handler.
type around struct{ http.Handler }

func (a around) Unwrap() http.Handler { return a.Handler }

// loop leads to itself.
type loop struct{ http.Handler }

func (l *loop) Unwrap() http.Handler { return l }

// list cannot be compared.
type list struct {
	http.Handler
	_ []int
}

// holder can be compared if its content can.
type holder struct {
	http.Handler
	any
}

func TestHandlersThatLeadToTheSameHandlerAreAlike(t *testing.T) {
	h, other := http.NewServeMux(), http.NewServeMux()
	make := func(h http.Handler) http.HandlerFunc {
		return func(w http.ResponseWriter, q *http.Request) { h.ServeHTTP(w, q) }
	}
	f := make(h)
	for _, tt := range []struct {
		about       string
		a, b        http.Handler
		same, alike bool
	}{
		{"one pointer", h, h, true, true},
		{"two pointers", h, other, false, false},
		{"one func", f, f, true, true},
		{"two closures of one literal", f, make(h), false, false},
		{"a func and a pointer", f, h, false, false},
		{"a wrapper that comes", h, around{h}, false, true},
		{"two wrappers", around{around{h}}, around{h}, false, true},
		{"wrappers of different handlers", around{h}, around{other}, false, false},
		{"a wrapper of nothing", around{}, around{}, true, true},
		{"what leads to itself", new(loop), h, false, false},
		{"what cannot be compared", list{}, list{}, false, false},
		{"what holds what cannot be compared", holder{nil, []int{}}, holder{nil, []int{}}, false, false},
	} {
		t.Run(tt.about, func(t *testing.T) {
			assert.Equal(t, tt.same, reach.Same(tt.a, tt.b))
			assert.Equal(t, tt.alike, reach.Alike(tt.a, tt.b))
			assert.Equal(t, tt.alike, reach.Alike(tt.b, tt.a))
		})
	}
}

func TestWalkVisitsTheOutermostHandlerFirst(t *testing.T) {
	h := http.NewServeMux()
	var seen []http.Handler
	reach.Walk(around{around{h}}, func(h http.Handler) bool { seen = append(seen, h); return true })
	assert.Equal(t, []http.Handler{around{around{h}}, around{h}, h}, seen)
	seen = slices.Collect(func(yield func(http.Handler) bool) { reach.Walk(around{h}, yield) })
	assert.Len(t, seen, 2)
	n := 0
	reach.Walk(new(loop), func(http.Handler) bool { n++; return true })
	assert.Equal(t, 100, n)
	reach.Walk(nil, func(http.Handler) bool { t.Error("nil is visited"); return true })
}
