package certs

import "crypto/tls"

// A memory limits how many certificates are held, about 10 KB each.
// Certificates beyond that are loaded from storage when a handshake needs them.
// It is used under the manager's lock.
//
// It uses the clock algorithm: the hand skips what was used since its last
// round.
type memory struct {
	limit int
	ring  []*host
	hand  int
}

// put makes cert the certificate of h, if there is room or a handshake waits
// for it.
func (l *memory) put(h *host, cert *tls.Certificate) {
	if h.cert.Load() != nil {
		h.cert.Store(cert)
		return
	}
	if len(l.ring) < l.limit {
		h.summary.slot = int32(len(l.ring))
		l.ring = append(l.ring, h)
		h.cert.Store(cert)
		return
	}
	if !h.motion.awaited {
		return
	}
	for n := 0; n < l.limit && l.ring[l.hand].forget(); n++ {
		l.hand = (l.hand + 1) % l.limit
	}
	l.ring[l.hand].cert.Store(nil)
	h.summary.slot = int32(l.hand)
	l.ring[l.hand] = h
	h.cert.Store(cert)
	l.hand = (l.hand + 1) % l.limit
}

// drop removes the certificate of h.
func (l *memory) drop(h *host) {
	if h.cert.Swap(nil) == nil {
		return
	}
	last := len(l.ring) - 1
	moved := l.ring[last]
	l.ring[h.summary.slot], moved.summary.slot = moved, h.summary.slot
	l.ring[last] = nil
	l.ring = l.ring[:last]
	if l.hand >= len(l.ring) {
		l.hand = 0
	}
}

// forget clears the mark recent of h, and reports whether it was set.
func (h *host) forget() bool { return h.marks.And(^uint32(recent))&recent != 0 }
