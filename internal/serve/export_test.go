package serve

import "time"

// Places are handshakes in flight, for tests.
type Places struct{ p places }

// What takePlace of a handshake returns without a place. Read-only.
var (
	ErrNoSlot   = errNoSlot
	ErrDraining = errDraining
)

// Bound is bound.
func (p *Places) Bound(most int) { p.p.bound(most) }

// Take is take.
func (p *Places) Take(late time.Time, done <-chan struct{}) error { return p.p.take(late, done) }

// Leave is leave.
func (p *Places) Leave() { p.p.leave() }

// Waiting returns how many wait.
func (p *Places) Waiting() int { return p.p.waiting.Len() }

// AltSvcFault is altSvcFault.
func AltSvcFault(value string) error { return altSvcFault(value) }
