package forward_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// names are those of the fields that edits and heads are made of; those of a
// pair are one variable. Read-only.
var names = []string{"X-Aa", "X_aa", "X-Bb", "X_bb", "Set-Cookie", "Strict-Transport-Security", "Content-Type", "X-Id"}

// editOf makes an edit of up to three bits for each name.
func editOf(bits uint64, value string) forward.Edit {
	e := forward.Edit{Set: http.Header{}, Add: http.Header{}}
	for _, name := range names {
		if bits&1 != 0 {
			e.Remove = append(e.Remove, strings.ToLower(name))
		}
		if bits&2 != 0 {
			e.Set[name] = []string{value + " set"}
		}
		if bits&4 != 0 {
			e.Add[name] = []string{value + " added", value + " added"}
		}
		bits >>= 3
	}
	return e
}

// headOf returns fields, as a map too.
func headOf(bits uint64) (res h1.Response, h http.Header) {
	h = http.Header{}
	for ; bits != 0; bits >>= 3 {
		name := names[bits&7]
		value := []string{"theirs", "outer added", "outer set"}[bits%3]
		res.Fields = append(res.Fields, h1.Field{Name: []byte(name), Value: []byte(value)})
		h.Add(name, value)
	}
	return res, h
}

// configOf returns what every Forwarder needs.
func configOf(t *testing.T) forward.Config {
	t.Helper()
	target, err := forward.ParseTarget("a:1")
	require.NoError(t, err)
	return forward.Config{Targets: []forward.Endpoint{{URL: target}}, Retry: forward.Retry{Attempts: 1}, Show: func(*forward.Target) any { return nil }}
}

// asHeader returns the fields as a map.
func asHeader(fields []h1.Field) http.Header {
	h := http.Header{}
	for _, fd := range fields {
		h.Add(string(fd.Name), string(fd.Value))
	}
	return h
}

// without returns h without the keys that have no value.
func without(h http.Header) http.Header {
	h = h.Clone()
	maps.DeleteFunc(h, func(_ string, v []string) bool { return len(v) == 0 })
	return h
}

// The lanes edit alike, and an edit that is repeated changes nothing.
func FuzzTheEditOfARouterIsTheSameInEachLane(f *testing.F) {
	f.Add(uint64(0), uint64(0), uint64(0o1234567), uint8(0))
	f.Add(uint64(0o2222), uint64(0), uint64(0o1234567), uint8(1))
	f.Add(uint64(0o4444), uint64(0o4), uint64(0o7654321), uint8(2))
	f.Add(uint64(0o1111), uint64(0o20000), uint64(0o44), uint8(3))
	f.Add(uint64(0o7777_7777), uint64(0o1_2_4_0_1_2_4), uint64(0o44), uint8(7))
	f.Fuzz(func(t *testing.T, outer, inner, head uint64, flags uint8) {
		var policy string
		c := configOf(t)
		c.ResponseHeader = editOf(inner, "inner")
		if flags&1 != 0 {
			policy = "outer policy"
		}
		if flags&2 != 0 {
			c.HSTS = "inner policy"
		}
		if flags&4 != 0 {
			c.Sticky = &forward.Sticky{Cookie: "c"}
		}
		u, err := forward.New(c)
		require.NoError(t, err)
		all, err := forward.NewOuters(editOf(outer, "outer"), policy)
		require.NoError(t, err)
		for _, scheme := range []string{"http", "https"} {
			o := all.For(scheme)
			e := u.EditIn(o)
			assert.Same(t, e, u.EditIn(o), "the edit is compiled once")
			res, h := headOf(head)
			fast := asHeader(e.AppendFields(nil, &res, header.RequestID{Name: "X-Id", Value: "id"}))
			header.Drop(h, "X-Id")
			h["X-Id"] = []string{"id"}
			e.Apply(h)
			assert.Equal(t, fast, without(h))
			if o == nil {
				continue
			}
			if c.HSTS != "" { // as AddOwn does over TLS; over HTTP clients ignore the field
				h["Strict-Transport-Security"] = []string{c.HSTS}
				fast["Strict-Transport-Security"] = h["Strict-Transport-Security"]
			}
			o.EditHead(h, e.Spared())
			assert.Equal(t, fast, without(h), "again")
			res, h = headOf(head)
			o.EditHead(h, nil)
			assert.Equal(t, asHeader(o.EditReply(slices.Clone(res.Fields))), without(h), "no route")
			if policy != "" && scheme == "https" && outer&(4<<15) == 0 {
				assert.Equal(t, []string{policy}, h["Strict-Transport-Security"])
			}
		}
	})
}

func TestARouterThatEditsNothingHasNoEdit(t *testing.T) {
	o, err := forward.NewOuters(forward.Edit{Set: http.Header{}}, "")
	require.NoError(t, err)
	assert.Nil(t, o)
	assert.Nil(t, o.For("https"))
	assert.True(t, o.Fast())
}

// An Upstream keeps no edits of Routers that have gone, however many.
func TestAnUpstreamAppliesTheEditsOfManyRouters(t *testing.T) {
	u, err := forward.New(configOf(t))
	require.NoError(t, err)
	for range 100 {
		o, err := forward.NewOuters(editOf(0o2, "outer"), "")
		require.NoError(t, err)
		res, _ := headOf(0o1)
		assert.Equal(t, http.Header{"X-Aa": {"outer set"}}, asHeader(u.EditIn(o.For("http")).AppendFields(nil, &res, header.RequestID{})))
	}
}
