package http3

import (
	"net/http"
	"time"
)

// Conns returns how many connections of s serve requests.
func Conns(s *Server) int {
	n := s.session()
	n.conns.mu.Lock()
	defer n.conns.mu.Unlock()
	return len(n.conns.accepted)
}

// AsNetHTTP is asNetHTTP.
func AsNetHTTP(q *http.Request) *http.Request { return asNetHTTP(q) }

// SetStall makes d the limit of a client that takes nothing.
func SetStall(s *Server, d time.Duration) { s.stall = d }
