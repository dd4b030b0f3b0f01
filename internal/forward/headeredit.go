package forward

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// An Edit is a fixed change to the fields of a message: Remove, then Set,
// then Add. What it removes or sets it takes away in every spelling that a
// CGI-like target reads as the same.
type Edit struct {
	Remove   []string
	Set, Add http.Header

	drops  []string // compiled for the fast lane; see compile
	lines  []byte
	fields []h1.Field
	adds   []string // the names of fields, canonical
	spared []string // what no Outer changes; see EditIn
	last   []string // what LastOf or LastOwnOf returns most of the time
}

// check reports every name and value that cannot be written, or that frames
// or routes the message.
func (e *Edit) check(field string) error {
	var errs []error
	name := func(op, k string) { errs = append(errs, header.CheckName(field+"."+op, k)) }
	for _, k := range e.Remove {
		name("Remove", k)
	}
	for op, h := range map[string]http.Header{"Set": e.Set, "Add": e.Add} {
		for k, values := range h {
			name(op, k)
			for _, v := range values {
				if !header.ValidValue(v) {
					errs = append(errs, fmt.Errorf("%s.%s[%q] has the value %q: want one without control characters", field, op, k, v))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// yield makes the edit drop the fields of that name, since somebody else sets
// them.
func (e *Edit) yield(name string) {
	e.Remove = append(slices.Clone(e.Remove), name)
	same := func(k string, _ []string) bool { return header.SameVariable(k, name) }
	e.Set, e.Add = maps.Clone(e.Set), maps.Clone(e.Add)
	maps.DeleteFunc(e.Set, same)
	maps.DeleteFunc(e.Add, same)
}

// Drop deletes from h what the edit removes or sets: all that it does to an
// interim response, which is no place to add to.
func (e *Edit) Drop(h http.Header) {
	for _, k := range e.drops {
		header.Drop(h, k)
	}
}

// PassesTrailer reports whether a trailer of that name crosses the proxy in a
// message that is edited. named are the values of Connection in its head.
func (e *Edit) PassesTrailer(name string, named ...string) bool {
	return header.PassesTrailer(e.drops, name, named...)
}

// Apply makes the change in h, without touching the slices it finds there.
func (e *Edit) Apply(h http.Header) {
	e.Drop(h)
	for k, v := range e.Set {
		h[http.CanonicalHeaderKey(k)] = v[:len(v):len(v)]
	}
	for k, v := range e.Add {
		k = http.CanonicalHeaderKey(k)
		old := h[k]
		h[k] = append(old[:len(old):len(old)], v...)
	}
}
