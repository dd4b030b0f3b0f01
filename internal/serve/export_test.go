package serve

import "time"

// Places exports places.
type Places struct{ p places }

// Errors of takePlace. Read-only.
var (
	ErrNoSlot   = errNoSlot
	ErrDraining = errDraining
)

// Bound calls bound.
func (p *Places) Bound(most int) { p.p.bound(most) }

// Take calls take.
func (p *Places) Take(late time.Time, done <-chan struct{}) error { return p.p.take(late, done) }

// Leave calls leave.
func (p *Places) Leave() { p.p.leave() }

// Waiting returns the number of waiting handshakes.
func (p *Places) Waiting() int { return p.p.waiting.Len() }

// AltSvcFault calls altSvcFault.
func AltSvcFault(value string) error { return altSvcFault(value) }
