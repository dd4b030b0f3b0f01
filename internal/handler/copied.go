package handler

import (
	"net/http"
	"strings"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// copied reports whether a copy of the exchange can be made: it had no upgrade
// and no body, or one that is kept.
func (a *roundTrip) copied() (body []byte, ok bool) {
	if a.q.Header.Get("Upgrade") != "" && !exchange.IsHTTP10(a.q) || a.q.Method == http.MethodConnect || strings.HasPrefix(a.q.Header.Get("Content-Type"), "application/grpc") {
		return nil, false
	}
	if a.body == nil {
		return nil, true
	}
	if !a.body.whole.Load() {
		return nil, false
	}
	a.body.mu.Lock()
	defer a.body.mu.Unlock()
	return a.body.kept, !a.body.lost.Load()
}
