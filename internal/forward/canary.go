package forward

import (
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/hostproxy/hostproxy/internal/balance"
)

// A diversion sends a share of the clients to another Forwarder. Guards, holds
// and counts of the diverting Forwarder come first and still apply.
type diversion struct {
	to    *Forwarder
	below uint64 // clients with a lower hash are diverted
}

// Divert sends that share of the clients to the other Forwarder, from the next
// exchange on; nil ends it. A client goes the same way each time, and a
// diverted client stays diverted as the share grows.
func (f *Forwarder) Divert(to *Forwarder, share float64) error {
	switch {
	case to == nil:
		f.endDiversion(f.diverted.Swap(nil))
		return nil
	case to == f:
		return errors.New("an upstream cannot be its own canary: pass another one")
	case !(share >= 0 && share <= 1): // NaN too
		return fmt.Errorf("the share of a canary is %v: want 0 to 1, such as 0.1 for a tenth", share)
	}
	below := uint64(math.MaxUint64)
	if share < 1 {
		below = uint64(share * (1 << 63) * 2)
	}
	f.endDiversion(f.diverted.Swap(&diversion{to, below}))
	return nil
}

// endDiversion ends the background work of a former diversion's Forwarder,
// unless a new diversion, with another share, leads to the same one.
func (f *Forwarder) endDiversion(d *diversion) {
	if now := f.diverted.Load(); d != nil && (now == nil || now.to != d.to) {
		d.to.CloseIdle()
	}
}

// Diverts reports whether some clients may be diverted.
func (f *Forwarder) Diverts() bool { return f.diverted.Load() != nil }

// For returns the Forwarder that serves the client: f, or the one that f
// diverts it to.
func (f *Forwarder) For(client netip.Addr) *Forwarder {
	if d := f.diverted.Load(); d != nil && canaryKey(client) < d.below {
		return d.to
	}
	return f
}

// canaryKey hashes a client's address. It differs from the key of the Hash
// policy, by which all diverted clients would get the same targets.
func canaryKey(client netip.Addr) uint64 {
	b := client.As16()
	return balance.Key(append(b[:], "canary"...))
}
