package exchange

import (
	"context"
	"net/http"
	"slices"
)

// Names are the names of the fields of a head: as the sender spelled them, in
// its order, and the same in canonical form. An http.Header keeps neither order
// nor spelling. The zero value is empty. The slices are never changed.
type Names struct{ Spelled, Keys []string }

// An Order says how the fields of an http.Header are written. Fields with a
// name in Names are written in its place and spelling. The others follow: first
// the fields that Last names, then the rest, sorted. Only fields of the
// http.Header are written. A nil Order has no names.
type Order struct {
	Names
	Last []string // canonical

	// EmptyAgent keeps a User-Agent whose first value is empty, because the
	// client sent it so. In an http.Request from elsewhere, an empty value
	// means that there is none.
	EmptyAgent bool

	// Answer is set by the HTTP client: the names in the latest response,
	// interim ones included.
	Answer Names
}

// Each calls do for each field of h in that order, with its key in h. The first
// value of a key takes the first place of its name, the second value the
// second, and so on. Values without a place come at the end. Each does not
// allocate for a usual h.
func (o *Order) Each(h http.Header, do func(key, name, value string)) {
	var none Order
	if o == nil {
		o = &none
	}
	done := 0
	for i, key := range o.Keys {
		values := h[key]
		if len(values) == 0 {
			continue
		}
		if n := o.before(i); n < len(values) {
			done++
			do(key, o.Spelled[i], values[n])
		}
	}
	for _, values := range h {
		done -= len(values)
	}
	if done < 0 {
		o.eachLeft(h, do)
	}
}

// eachLeft is Each for values without a place among the names.
func (o *Order) eachLeft(h http.Header, do func(key, name, value string)) {
	var room [32]string
	keys := room[:0]
	for _, key := range o.Last {
		if len(h[key]) > 0 && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	last := len(keys)
	for key := range h {
		if !slices.Contains(keys[:last], key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys[last:])
	for _, key := range keys {
		values := h[key]
		for _, v := range values[min(o.count(key), len(values)):] {
			do(key, key, v)
		}
	}
}

// before returns how many names before the one at i have the same key. There
// are at most h1.MaxFields of them.
func (n *Names) before(i int) (count int) {
	key := n.Keys[i]
	for _, k := range n.Keys[:i] {
		if k == key {
			count++
		}
	}
	return count
}

// count returns how many names have that key.
func (n *Names) count(key string) (count int) {
	for _, k := range n.Keys {
		if k == key {
			count++
		}
	}
	return count
}

// Without returns the names except those for which drop returns true.
func (n Names) Without(drop func(name string) bool) Names {
	if !slices.ContainsFunc(n.Keys, drop) {
		return n
	}
	var left Names
	for i, key := range n.Keys {
		if !drop(key) {
			left.Spelled, left.Keys = append(left.Spelled, n.Spelled[i]), append(left.Keys, key)
		}
	}
	return left
}

type namesKey struct{}

// NamesFrom returns the names of the fields that the client of ctx's Slot sent.
// Behind a foreign server it returns no names.
func NamesFrom(ctx context.Context) Names {
	if n, ok := ctx.Value(namesKey{}).(*Names); ok {
		return *n
	}
	return Names{}
}

type orderKey struct{}

// WithOrder returns ctx carrying o. The request with that context is written in
// this order.
func WithOrder(ctx context.Context, o *Order) context.Context {
	return context.WithValue(ctx, orderKey{}, o)
}

// OrderFrom returns the Order that ctx carries, or nil.
func OrderFrom(ctx context.Context) *Order {
	o, _ := ctx.Value(orderKey{}).(*Order)
	return o
}

// Value implements Value for a context that has the order. It returns false if
// key is not the order's.
func (o *Order) Value(key any) (value any, ok bool) {
	_, ok = key.(orderKey)
	return o, ok
}

// Arrange sets the order of the fields in the next head, interim or final, that
// w sends. It does nothing if no front of ours is below w.
func Arrange(w http.ResponseWriter, o Order) {
	for {
		switch inner := w.(type) {
		case interface{ Ordered(o Order) }:
			inner.Ordered(o)
			return
		case interface{ Unwrap() http.ResponseWriter }:
			w = inner.Unwrap()
		default:
			return
		}
	}
}
