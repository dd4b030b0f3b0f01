package http3

import (
	"net/http"
	"time"
)

// Conns returns how many connections of s have finished their handshake.
func Conns(s *Server) int {
	n := s.session()
	n.conns.mu.Lock()
	defer n.conns.mu.Unlock()
	return len(n.conns.accepted)
}

// AsNetHTTP exports asNetHTTP.
func AsNetHTTP(q *http.Request) *http.Request { return asNetHTTP(q) }

// SetStall sets how long a client may take nothing of a response.
func SetStall(s *Server, d time.Duration) { s.stall = d }
