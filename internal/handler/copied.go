package handler

import (
	"net/http"
	"slices"
	"strings"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// copied reports whether a copy of the exchange is wanted and possible: there
// was no upgrade, and the body is empty or kept. It returns the body.
func (a *roundTrip) copied() (body []byte, ok bool) {
	if !a.mirrors || a.q.Header.Get("Upgrade") != "" && !exchange.IsHTTP10(a.q) || a.q.Method == http.MethodConnect || strings.HasPrefix(a.q.Header.Get("Content-Type"), "application/grpc") {
		return nil, false
	}
	if a.body == nil {
		return nil, true
	}
	if !a.body.Whole() || !a.body.Replays() || a.body.Count() > exchange.ReplayLimit {
		return nil, false
	}
	return slices.Clone(a.body.Kept()), true
}
