package serve

import (
	"net/http"
	"slices"
	"strconv"

	"github.com/hostproxy/hostproxy/internal/h1"
)

// Relay implements exchange.Relayer.
func (w *response) Relay(status int, fields []h1.Field, length int64) bool {
	a := w.use()
	defer w.mu.Unlock()
	if a == nil || a.hijacked || a.wrote {
		return false
	}
	a.stopAsking() // before the gate is locked: it may have to wait for a write
	w.gate.Lock()
	defer w.gate.Unlock()
	if w.header != nil {
		return false
	}
	a.wrote, a.relayed = true, true
	a.out.status, a.out.length = status, length
	a.given.kind, a.given.date = true, dated(fields) // a target that sends no type is believed
	a.copyFields(fields)
	return true
}

// copyFields makes a.fields a copy of fields, in the adapter's own memory.
func (a *adapter) copyFields(fields []h1.Field) {
	size := 0
	for i := range fields {
		size += len(fields[i].Name) + len(fields[i].Value)
	}
	text := slices.Grow(a.relay[:0], size) // large enough: it does not move any more
	copied := func(b []byte) []byte {
		start := len(text)
		text = append(text, b...)
		return text[start:len(text):len(text)]
	}
	a.fields = a.fields[:0]
	for i := range fields {
		a.fields = append(a.fields, h1.Field{Name: copied(fields[i].Name), Value: copied(fields[i].Value)})
	}
	a.relay = text
}

// addTo adds the relayed head to h. The response's gate is held.
func (a *adapter) addTo(h http.Header) {
	for i := range a.fields {
		h.Add(string(a.fields[i].Name), string(a.fields[i].Value))
	}
	if a.out.length >= 0 {
		h.Set("Content-Length", strconv.FormatInt(a.out.length, 10))
	}
}
