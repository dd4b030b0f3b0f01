package http3

// Conns returns how many connections of s serve requests.
func Conns(s *Server) int {
	n := s.session()
	n.conns.mu.Lock()
	defer n.conns.mu.Unlock()
	return len(n.conns.accepted)
}
