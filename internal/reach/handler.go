package reach

import (
	"net/http"
	"reflect"

	"github.com/hostproxy/hostproxy/internal/settings"
)

// maxWrapped limits the number of handlers that Walk visits: a handler may lead
// to itself.
const maxWrapped = 100

// Next returns the handler behind h, from its method Unwrap() http.Handler, or
// nil if it has none.
func Next(h http.Handler) http.Handler {
	if w, ok := h.(interface{ Unwrap() http.Handler }); ok {
		return w.Unwrap()
	}
	return nil
}

// Walk calls f with h, with the handler behind it, and so on, until f returns
// false.
func Walk(h http.Handler, f func(http.Handler) bool) {
	for n := 0; h != nil && n < maxWrapped && f(h); n++ {
		h = Next(h)
	}
}

// IsNil reports whether h is a nil value of a net/http type that cannot serve
// as nil. Nil values of other types may be able to.
func IsNil(h http.Handler) bool {
	switch h := h.(type) {
	case http.HandlerFunc:
		return h == nil
	case *http.ServeMux:
		return h == nil
	}
	return false
}

// Alike reports whether a and b finally lead to the same handler.
func Alike(a, b http.Handler) bool { return Same(last(a), last(b)) }

func last(h http.Handler) (last http.Handler) {
	Walk(h, func(h http.Handler) bool { last = h; return true })
	return last
}

// Same compares handlers. Handlers that cannot be compared are different. Two
// http.HandlerFuncs are the same only if they are the same value; the same code
// is not enough.
func Same(a, b http.Handler) bool {
	if f, ok := a.(http.HandlerFunc); ok {
		g, ok := b.(http.HandlerFunc)
		return ok && settings.Closure(reflect.ValueOf(f)) == settings.Closure(reflect.ValueOf(g))
	}
	return reflect.TypeOf(a) == reflect.TypeOf(b) && reflect.ValueOf(a).Comparable() && a == b
}
