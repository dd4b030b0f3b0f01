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

// An AltSvc holds the Alt-Svc value of responses over TLS (RFC 7838): other
// servers for the same hosts. The zero value has no such server. Its methods
// may be called concurrently.
type AltSvc struct {
	now atomic.Pointer[string] // value of the field; nil if there is no field

	mu     sync.Mutex // serialises writers
	values []string   // one per server; "" if it announces nothing
}

// add adds a server, which announces value, and returns its number.
func (a *AltSvc) add(value string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.values = append(a.values, value)
	a.tell()
	return len(a.values) - 1
}

// withdraw takes back what a server has announced. Clients that have seen it
// are told to forget it: a new value replaces earlier ones (RFC 7838, 3).
func (a *AltSvc) withdraw(number int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.values[number] != "" {
		a.values[number] = ""
		a.tell()
	}
}

// tell updates the field. a.mu is held.
func (a *AltSvc) tell() {
	var values []string
	for _, v := range a.values {
		if v != "" && v != forget { // any value replaces earlier ones
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

// value returns the value of the field, or "" for none.
func (a *AltSvc) value() string {
	if a == nil {
		return ""
	}
	if v := a.now.Load(); v != nil {
		return *v
	}
	return ""
}

// altSvc returns the Alt-Svc value for a response with head h, or "" for none.
// A field set by a handler of the program stays, and a 421 cannot have one (RFC
// 7838, 6).
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
