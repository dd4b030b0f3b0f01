package forward

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"github.com/hostproxy/hostproxy/internal/balance"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// A HashKey says what the Hash policy hashes of a request: the one field that
// is set, or the client's address if none is. For a request without the header
// or the cookie it is the client's address too.
type HashKey struct {
	Header string // name; its first value counts
	Cookie string
	URI    bool // path and query
}

func (k *HashKey) check() error {
	n := 0
	for _, set := range []bool{k.Header != "", k.Cookie != "", k.URI} {
		if set {
			n++
		}
	}
	switch {
	case n > 1:
		return errors.New("HashBy has more than one field set: set only Header, Cookie or URI")
	case k.Header != "" && !h1.ValidToken(k.Header):
		return fmt.Errorf("HashBy.Header is %q: want the name of a header, such as X-User", k.Header)
	case k.Cookie != "" && !h1.ValidToken(k.Cookie):
		return fmt.Errorf("HashBy.Cookie is %q: want the name of a cookie, such as session", k.Cookie)
	}
	return nil
}

// keyOfClient returns the key of a client's address.
func keyOfClient(client netip.Addr) uint64 {
	b := client.As16() // defined for an invalid address too
	return balance.Key(b[:])
}

// KeyBytes returns the key of r, sent by client, in the fast lane.
func (f *Forwarder) KeyBytes(r *Request, client netip.Addr) uint64 {
	k := &f.HashBy
	switch {
	case k.URI:
		return balance.Key(r.Raw.Target)
	case k.Header == "" && k.Cookie == "":
		return keyOfClient(client)
	}
	if set, ok := r.replaced(cmp.Or(k.Header, "Cookie")); ok {
		if set != nil {
			fd := fieldOf(set.Name, set.Value)
			if v := k.value(&fd); v != nil {
				return balance.Key(v)
			}
		}
		return keyOfClient(client)
	}
	for i := range r.Raw.Fields {
		if v := k.value(&r.Raw.Fields[i]); v != nil {
			return balance.Key(v)
		}
	}
	return keyOfClient(client)
}

// value returns the part of the field that is the key, or nil.
func (k *HashKey) value(fd *h1.Field) []byte {
	switch {
	case k.Header != "" && header.EqualFold(fd.Name, k.Header):
		return fd.Value
	case k.Cookie != "" && header.EqualFold(fd.Name, "Cookie"):
		v, _ := header.Cookie(fd.Value, k.Cookie)
		return v
	}
	return nil
}

// KeyOf is KeyBytes in the handler lane.
func (f *Forwarder) KeyOf(q *http.Request, client netip.Addr) uint64 {
	k := &f.HashBy
	switch {
	case k.URI:
		uri := q.RequestURI
		if !strings.HasPrefix(uri, "/") {
			uri = q.URL.RequestURI()
		}
		return balance.KeyString(uri)
	case k.Header != "":
		if v := q.Header[http.CanonicalHeaderKey(k.Header)]; len(v) > 0 {
			return balance.KeyString(v[0])
		}
	case k.Cookie != "":
		for _, line := range q.Header["Cookie"] {
			if v, ok := header.Cookie(line, k.Cookie); ok {
				return balance.KeyString(v)
			}
		}
	}
	return keyOfClient(client)
}
