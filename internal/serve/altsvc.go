package serve

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// An AltSvc is the Alt-Svc field of responses over TLS (RFC 7838): where other
// servers serve the same hosts. The zero value has no such server. Its methods
// may be called concurrently.
type AltSvc struct {
	now atomic.Pointer[string] // the field's value; nil if there is no field

	mu     sync.Mutex // serialises writers
	values []string   // of the servers; "" of those that announce nothing
}

// add adds a server, which announces value, and returns its number.
func (a *AltSvc) add(value string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.values = append(a.values, value)
	a.tell()
	return len(a.values) - 1
}

// withdraw takes back what a server has announced. Clients that have heard of
// it are told to forget it: one value replaces those before it (RFC 7838, 3).
func (a *AltSvc) withdraw(number int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.values[number] != "" {
		a.values[number] = ""
		a.tell()
	}
}

// tell sets the field. a.mu is held.
func (a *AltSvc) tell() {
	var values []string
	for _, v := range a.values {
		if v != "" && v != forget { // an alternative replaces those before it
			values = append(values, v)
		}
	}
	value := strings.Join(values, ", ")
	switch {
	case value != "":
	case a.now.Load() == nil && !slices.Contains(a.values, forget):
		return
	default:
		value = forget
	}
	a.now.Store(&value)
}

// value returns the value of the field, "" for none.
func (a *AltSvc) value() string {
	if a == nil {
		return ""
	}
	if v := a.now.Load(); v != nil {
		return *v
	}
	return ""
}

// altSvc returns the value of Alt-Svc in a response with that head, "" for
// none. The field of a handler of the program stays, and a 421 cannot have one
// (RFC 7838, 6).
//
// Hot path: without companions one comparison, no allocation.
func (o *origin) altSvc(h *head) string {
	if o.s.AltSvc == nil || o.state == nil || h.status == http.StatusMisdirectedRequest || o.s.draining.Err() != nil || hasAltSvc(h.fields) {
		return ""
	}
	return o.s.AltSvc.value()
}

// hasAltSvc reports whether there is an Alt-Svc among fields.
func hasAltSvc(fields []h1.Field) bool {
	for i := range fields {
		if n := fields[i].Name; len(n) == len("alt-svc") && header.EqualFold(n, "alt-svc") {
			return true
		}
	}
	return false
}
