package forward

import (
	"maps"
	"net/http"
	"slices"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// An OuterEdit is the edit of a Router. It changes all final responses, those
// of the proxy and of handlers included. What the edit of an Upstream names is
// left to that edit. It implements exchange.HeadEdit.
type OuterEdit struct{ edit Edit }

// Outers are the OuterEdits of a Router. Nil edits nothing.
type Outers struct{ plain, secure *OuterEdit }

// NewOuters checks e and compiles it, together with a policy for
// Strict-Transport-Security, which replaces that field over TLS; "" means none.
// It returns nil if there is nothing to edit.
func NewOuters(e Edit, policy string) (*Outers, error) {
	if err := e.check("ResponseHeader"); err != nil {
		return nil, err
	}
	if len(e.names()) == 0 && policy == "" {
		return nil, nil
	}
	e = Edit{Remove: slices.Clone(e.Remove), Set: cloned(e.Set), Add: cloned(e.Add)}
	if policy == "" {
		o := newOuterEdit(e)
		return &Outers{o, o}, nil
	}
	e.yield(hsts)
	o := &Outers{plain: newOuterEdit(e)}
	e.Set = cloned(e.Set)
	e.Set[hsts] = []string{policy}
	o.secure = newOuterEdit(e)
	return o, nil
}

func newOuterEdit(e Edit) *OuterEdit {
	e.compile()
	return &OuterEdit{e}
}

// cloned returns a copy of h that is not nil.
func cloned(h http.Header) http.Header {
	if h == nil {
		return make(http.Header)
	}
	return h.Clone()
}

// For returns the edit of responses to clients that use scheme; nil without
// one.
func (o *Outers) For(scheme string) *OuterEdit {
	switch {
	case o == nil:
		return nil
	case scheme == "https":
		return o.secure
	}
	return o.plain
}

// Edit makes the response of x one that is edited.
func (o *Outers) Edit(x *exchange.Exchange) {
	if o != nil {
		x.Head = o.For(x.ClientScheme)
	}
}

// Fast reports whether the fast lane can apply the edits.
func (o *Outers) Fast() bool { return o == nil || o.secure.edit.plain() }

// EditHead implements exchange.HeadEdit.
func (o *OuterEdit) EditHead(h http.Header, done *exchange.Spared) {
	e := &o.edit
	for _, k := range e.drops {
		if !done.Spares(h, k) {
			header.Drop(h, k)
		}
	}
	for k, v := range e.Set {
		if !done.Spares(h, k) {
			h[http.CanonicalHeaderKey(k)] = v[:len(v):len(v)]
		}
	}
	for k, values := range e.Add {
		if done.Spares(h, k) {
			continue
		}
		k = http.CanonicalHeaderKey(k)
		old := h[k]
		all := old[:len(old):len(old)]
		for _, v := range values {
			if done == nil || !slices.Contains(old, v) {
				all = append(all, v)
			}
		}
		h[k] = all
	}
	if _, ok := h["Content-Type"]; !ok && e.Drops("Content-Type") {
		h["Content-Type"] = nil // or the server guesses one
	}
}

// EditReply edits the fields of an answer of the proxy's own.
func (o *OuterEdit) EditReply(fields []h1.Field) []h1.Field {
	if o == nil {
		return fields
	}
	fields = slices.DeleteFunc(fields, func(fd h1.Field) bool { return header.Matches(o.edit.drops, fd.Name) })
	return append(fields, o.edit.fields...)
}

// A withinEdit is the edit of an Upstream below that of a Router.
type withinEdit struct {
	outer *OuterEdit
	edit  *Edit
}

// maxWithin is the number of Routers and schemes whose edits an Upstream keeps.
const maxWithin = 16

// EditIn returns the edit of f's responses that leave through a Router with the
// edit o; nil means none.
//
// Hot path: one atomic load.
func (f *Forwarder) EditIn(o *OuterEdit) *Edit {
	if o == nil {
		return &f.ResponseHeader
	}
	known := f.edits.Load()
	if known != nil {
		for i := range *known {
			if (*known)[i].outer == o {
				return (*known)[i].edit
			}
		}
	}
	made := withinEdit{o, f.editWithin(&o.edit)}
	list := []withinEdit{made}
	if known != nil && len(*known) < maxWithin {
		list = append(slices.Clone(*known), made)
	}
	f.edits.CompareAndSwap(known, &list) // another exchange may have been faster
	return made.edit
}

// editWithin returns o followed by the edit of f, to which o leaves what both
// name.
func (f *Forwarder) editWithin(o *Edit) *Edit {
	own := &f.ResponseHeader
	names := own.names()
	named := func(k string) bool { return header.Matches(names, k) }
	e := &Edit{Remove: append(slices.DeleteFunc(slices.Clone(o.Remove), named), own.Remove...), Set: cloned(o.Set), Add: cloned(o.Add)}
	for _, h := range []http.Header{e.Set, e.Add} {
		maps.DeleteFunc(h, func(k string, _ []string) bool { return named(k) })
	}
	maps.Copy(e.Set, own.Set)
	maps.Copy(e.Add, own.Add)
	e.compile()
	e.last, e.spared = e.lastOwnOf(""), exchange.Spared{Names: names, Given: f.given()}
	if f.Sticky != nil {
		e.spared.Names = append(e.spared.Names, setCookie)
	}
	return e
}

// given returns the names of the fields that f gives to every response, over
// TLS.
func (f *Forwarder) given() (names []string) {
	for _, h := range []http.Header{f.ResponseHeader.Set, f.ResponseHeader.Add} {
		for k, values := range h {
			if len(values) > 0 {
				names = append(names, k)
			}
		}
	}
	if f.HSTS != "" {
		names = append(names, hsts)
	}
	return names
}

// Spared returns the names of what the OuterEdit of e leaves alone, once e has
// been applied.
func (e *Edit) Spared() *exchange.Spared { return &e.spared }
