package caddyfile

import (
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/hostproxy/hostproxy/examples/caddyfile/site"
)

// order is the order in which a block's directives act, regardless of their
// order in the file. Read-only.
var order = []string{"root", "header", "request_body", "redir", "rewrite", "uri", "try_files", "basic_auth", "forward_auth",
	"request_header", "encode", "handle", "route", "abort", "error", "respond", "reverse_proxy", "file_server"}

// exclusive are directives of which only the first match in a block acts.
// Read-only.
var exclusive = []string{"root", "rewrite", "handle"}

// An entry is a directive of a block that handles requests.
type entry struct {
	name  string // the name in order
	match *site.Match
	group int // entries with the same number, if above 0, exclude each other
	// wrap returns the handler that acts in front of next, or instead of it.
	wrap func(next http.Handler) http.Handler
}

// path returns the path of an entry that matches by exactly one path, and ""
// for other entries.
func (e entry) path() string {
	if e.match == nil || len(e.match.Paths) != 1 {
		return ""
	}
	return e.match.Paths[0]
}

// sorted sorts entries in the order in which they act.
func sorted(es []entry) {
	slices.SortStableFunc(es, func(a, b entry) int {
		if a.name != b.name {
			return slices.Index(order, a.name) - slices.Index(order, b.name)
		}
		if a.path() == "" || b.path() == "" { // entries without a matcher come last
			return one(a.match == nil) - one(b.match == nil)
		}
		short, long := strings.TrimSuffix(a.path(), "*"), strings.TrimSuffix(b.path(), "*")
		if short == long {
			return len(a.path()) - len(b.path())
		}
		if len(short) == len(long) {
			return strings.Compare(short, long)
		}
		return len(long) - len(short)
	})
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

// grouped marks the entries that exclude each other, and joins neighbours with
// the same matcher. So a change of the request by the first of them does not
// affect the matching of the others.
func grouped(es []entry) (out []entry) {
	count := map[string]int{}
	for _, e := range es {
		count[e.name]++
	}
	for _, e := range es {
		e.group = 0
		if count[e.name] > 1 && slices.Contains(exclusive, e.name) || e.name == "rewrite" {
			e.group = 1 + slices.Index(exclusive, e.name)
		}
		if n := len(out); n > 0 && out[n-1].group == e.group && reflect.DeepEqual(out[n-1].match, e.match) {
			first, second := out[n-1].wrap, e.wrap
			out[n-1].wrap = func(next http.Handler) http.Handler { return first(second(next)) }
			continue
		}
		out = append(out, e)
	}
	return out
}

// maxHandlers limits the handlers that one file becomes.
const maxHandlers = 20_000

// compose returns one handler for entries, in their order, followed by next.
func (t *translator) compose(es []entry, next http.Handler) http.Handler {
	c := &composer{t: t, es: es, next: next, made: map[[2]int]http.Handler{}}
	return c.from(0, 0)
}

// A composer keeps the handlers that it has made, so that one handler can serve
// in several places.
type composer struct {
	t    *translator
	es   []entry
	next http.Handler
	made map[[2]int]http.Handler
}

// from returns the handler for the entries from i on. taken has a bit for each
// group that has acted: its other entries do not act.
func (c *composer) from(i, taken int) http.Handler {
	for i < len(c.es) && taken&c.bit(i) != 0 {
		i++
	}
	left := 0
	for j := i; j < len(c.es); j++ {
		left |= c.bit(j)
	}
	taken &= left
	if i == len(c.es) || c.t.handlers > maxHandlers {
		return c.next
	}
	if h, ok := c.made[[2]int{i, taken}]; ok {
		return h
	}
	c.t.handlers += 1 + len(c.es) - i
	e := c.es[i]
	h := e.wrap(c.from(i+1, taken|c.bit(i)))
	if e.match != nil {
		first := append(site.First{{Match: e.match, Next: h}}, cases(c.from(i+1, taken))...)
		h = &first
	}
	c.made[[2]int{i, taken}] = h
	return h
}

// bit returns the bit of an entry's group, or 0 for no group. A block has at
// most three groups.
func (c *composer) bit(i int) int {
	if c.es[i].group == 0 {
		return 0
	}
	return 1 << slices.Index(exclusive, c.es[i].name)
}

// cases returns the cases of a handler that only chooses between cases, or one
// case for all requests.
func cases(h http.Handler) []site.Case {
	switch h := h.(type) {
	case *site.First:
		return *h
	case site.Empty:
		return nil
	}
	return []site.Case{{Next: h}}
}
