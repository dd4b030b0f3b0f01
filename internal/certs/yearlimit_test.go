package certs_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

const limitedHosts = 60

// All hosts are due for renewal in the same days, and the CA accepts eight
// orders a day. Due renewals are not held: each is tried repeatedly. How often
// is one of the rules of TestAYearInAMinute.
func TestManyDueRenewalsAtTheAccountsLimitAreOrderedWithinHours(t *testing.T) {
	if yearRaced {
		t.Skip("too slow under the race detector, which has TestAYearInAMinute")
	}
	eachSeed(t, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, limitedHosts)
		w.renewals()
		assert.GreaterOrEqual(t, w.ca.signed, 2*limitedHosts)
		assert.LessOrEqual(t, w.ca.limited, limitedHosts*2*10*8, "four a day and a few more, for each host and instance")
	})
}

func (w *world) renewals() {
	for n := range limitedHosts {
		w.add(tenant{name: fmt.Sprintf("h%d.com", n), life: day(45)})
	}
	w.run(func(chan struct{}) {
		w.launch()
		w.pass(day(28))
		w.ca.mu.Lock()
		w.ca.orders = newWindow(1, 3*time.Hour)
		w.ca.mu.Unlock()
		w.pass(day(14))
	})
}
