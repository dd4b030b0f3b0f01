package exchange_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// namesOf returns the names of a client that sent these fields.
func namesOf(spelled string) (n exchange.Names) {
	for _, name := range strings.Fields(spelled) {
		n.Spelled, n.Keys = append(n.Spelled, name), append(n.Keys, http.CanonicalHeaderKey(name))
	}
	return n
}

// each returns the fields of h as an order arranges them.
func each(o *exchange.Order, h http.Header) string {
	var lines []string
	o.Each(h, func(key, name, value string) {
		if !strings.EqualFold(key, name) {
			name += " of " + key
		}
		lines = append(lines, name+"="+value)
	})
	return strings.Join(lines, " ")
}

func TestFieldsAreWrittenInTheOrderOfTheirNames(t *testing.T) {
	for _, tt := range []struct {
		about, names, last string
		h                  http.Header
		want               string
	}{
		{"no names", "", "", http.Header{"B": {"1", "2"}, "A": {"3"}, "C": nil}, "A=3 B=1 B=2"},
		{"as they came", "x-b ACCEPT X-a x-B", "", http.Header{"X-B": {"1", "2"}, "Accept": {"3"}, "X-A": {"4"}}, "x-b=1 ACCEPT=3 X-a=4 x-B=2"},
		{"a value fewer", "x-b x-a X-B", "", http.Header{"X-B": {"1"}, "X-A": {"2"}}, "x-b=1 x-a=2"},
		{"a value more", "x-b x-a", "", http.Header{"X-B": {"1", "2", "3"}, "X-A": {"4"}}, "x-b=1 x-a=4 X-B=2 X-B=3"},
		{"deleted and added", "x-b x-a", "", http.Header{"X-C": {"1"}, "Accept": {"2"}, "X-A": {"3"}}, "x-a=3 Accept=2 X-C=1"},
		{"emptied", "x-b x-a", "X-B", http.Header{"X-B": {}, "X-A": {"1"}}, "x-a=1"},
		{"the last", "x-a", "Via X-Z Via", http.Header{"X-A": {"1"}, "X-B": {"2"}, "X-Z": {"3"}, "Via": {"4"}}, "x-a=1 Via=4 X-Z=3 X-B=2"},
		{"the last, of which the client sent one", "via x-a", "Via", http.Header{"X-A": {"1"}, "Via": {"2", "3"}}, "via=2 x-a=1 Via=3"},
		{"a key that is not canonical", "x-a", "", http.Header{"X-A": {"1"}, "x-a": {"2"}}, "x-a=1 x-a=2"},
		{"nothing", "x-a x-b", "Via", nil, ""},
	} {
		o := &exchange.Order{Names: namesOf(tt.names), Last: strings.Fields(tt.last)}
		assert.Equal(t, tt.want, each(o, tt.h), tt.about)
	}
	assert.Equal(t, "A=1 B=2", each(nil, http.Header{"B": {"2"}, "A": {"1"}}))
}

func TestWithoutReturnsNewNamesAndKeepsTheOld(t *testing.T) {
	all := namesOf("x-b X-A x-B")
	assert.Equal(t, namesOf("X-A"), all.Without(func(name string) bool { return name == "X-B" }))
	assert.Equal(t, namesOf("x-b X-A x-B"), all)
	assert.Equal(t, all, all.Without(func(string) bool { return false }))
}

func TestTheOrderOfFieldsAllocatesNothing(t *testing.T) {
	o := &exchange.Order{Names: namesOf("accept X-A user-agent x-a"), Last: []string{"Via"}}
	h := http.Header{"Accept": {"1"}, "X-A": {"1", "2", "3"}, "Via": {"1"}, "X-B": {"1"}}
	size := 0
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		o.Each(h, func(_, name, value string) { size += len(name) + len(value) })
	}))
}

func TestOrderFromReturnsTheOrderOfItsContext(t *testing.T) {
	o := new(exchange.Order)
	assert.Same(t, o, exchange.OrderFrom(exchange.WithOrder(context.Background(), o)))
	assert.Nil(t, exchange.OrderFrom(context.Background()))
	assert.Empty(t, exchange.NamesFrom(context.Background()))
}
