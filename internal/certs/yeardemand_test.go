package certs_test

import (
	"fmt"
	"testing"
)

const demandHosts = 300 // more than are decided or ordered at a time

// Hundreds of hosts on demand have certificates of six days. The database of
// HostPolicy fails for the three days in which all of them are due for renewal,
// and everything is restarted each day.
//
// The rules are those of TestAYearInAMinute.
func TestHostsOnDemandSurviveADatabaseThatIsDown(t *testing.T) {
	if yearRaced {
		t.Skip("too slow under the race detector, which has TestAYearInAMinute")
	}
	eachSeed(t, func(t *testing.T, seed uint64) { newWorld(t, seed, demandHosts).demands() })
}

func (w *world) demands() {
	for n := range demandHosts {
		w.add(tenant{name: fmt.Sprintf("d%d.demand%d.com", n, n/50), life: day(6), demand: true})
	}
	w.run(func(done chan struct{}) {
		go w.restarts(done, day(1))
		w.launch()
		w.pass(day(4))
		w.suffers(&w.db, "database", "errors", day(3))
		w.pass(day(3))
	})
}
