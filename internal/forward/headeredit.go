package forward

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// An Edit is a fixed change to the header of a message: Remove, then Set, then
// Add. Names to remove or set match in every spelling that a CGI-like target
// reads as the same.
type Edit struct {
	Remove   []string
	Set, Add http.Header

	drops  []string // compiled for the fast lane; see compile
	lines  []byte
	fields []h1.Field
	adds   []string        // names of fields, canonical
	spared exchange.Spared // what no Outer changes; see EditIn
	last   []string        // the usual result of LastOf or LastOwnOf
}

// check returns errors for all names and values that cannot be written, or that
// frame or route the message.
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

// yield makes the edit remove the field of that name and not set it: another
// part of the proxy does.
func (e *Edit) yield(name string) {
	e.Remove = append(slices.Clone(e.Remove), name)
	same := func(k string, _ []string) bool { return header.SameVariable(k, name) }
	e.Set, e.Add = maps.Clone(e.Set), maps.Clone(e.Add)
	maps.DeleteFunc(e.Set, same)
	maps.DeleteFunc(e.Add, same)
}

// Drop deletes the fields from h that the edit removes or sets. An edit adds
// nothing to an interim response, so Drop is all of it there.
func (e *Edit) Drop(h http.Header) {
	for _, k := range e.drops {
		header.Drop(h, k)
	}
}

// PassesTrailer reports whether a trailer of that name crosses the proxy in an
// edited message. named are the values of Connection in its head.
func (e *Edit) PassesTrailer(name string, named ...string) bool {
	return header.PassesTrailer(e.drops, name, named...)
}

// Apply makes the change in h, without changing the slices in it.
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
