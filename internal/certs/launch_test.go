package certs_test

import (
	"fmt"
	"testing"
	"time"
)

// The size of the launch. Read-only.
const (
	launchOld   = 600              // hosts before it, with certificates of launchLife
	launchNew   = 1500             // hosts that come with it, with a longer life
	launchSick  = 20               // of each kind; their validation fails for some time before it
	launchDead  = 200              // old hosts whose validation fails permanently after it
	launchLife  = 18 * time.Hour   // short, so that days suffice; renewed in its last third
	launchFair  = 20 * time.Minute // a host must have had this long without trouble
	launchFirst = 5 * time.Hour    // the same, for its first certificate
	// least time of an answer of the CA: 16 orders at a time are 240 an hour
	launchHeavy = 110 * time.Second
)

// Thousands of hosts come at once to a server whose certificates live for
// hours, and the CA is slow: for seven hours there is more to do than the queue
// can run at a time. Later some of the domains die; the CA hangs for as long as
// renewals have time, and so long the server is off as well. The order of the
// queue decides which certificates expire: none of a healthy host may.
//
// The rules are those of TestAYearInAMinute, but a host is healthy after 20
// minutes, or after 5 hours if it came without a certificate.
func TestALaunchOfThousandsOfHosts(t *testing.T) {
	if !*yearLaunch {
		t.Skip("-year.launch runs it, as .ci/run year does")
	}
	eachSeed(t, func(t *testing.T, seed uint64) { newWorld(t, seed, launchOld).launches() })
}

func (w *world) launches() {
	w.fair, w.first = launchFair, launchFirst
	w.ca.least, w.ca.most = launchHeavy, launchHeavy+20*time.Second
	// here the queue is the bottleneck
	w.ca.orders, w.ca.sets = newWindow(2_000, 3*time.Hour), newWindow(100, day(7))
	w.run(func(chan struct{}) {
		old := w.come("old", launchOld, tenant{life: launchLife}, 12*time.Hour)
		w.pass(2 * time.Hour)
		w.rush(old)
		w.pass(14 * time.Hour)
		for _, s := range old[:launchDead] {
			w.breaks(s)
		}
		w.pass(20 * time.Hour)
		w.suffers(&w.ca.fault, "ca", "hangs", 5*time.Hour)
		w.pass(12 * time.Hour)
		w.off(5 * time.Hour)
		w.pass(12 * time.Hour)
	})
}

// rush adds the new hosts while some hosts, old and new, have failed and can be
// validated again.
func (w *world) rush(old []*tenant) {
	// old ones that are due now
	sick := append(w.come("sick", launchSick, tenant{life: day(90)}, 0), old[110:110+launchSick]...)
	for _, s := range sick {
		w.breaks(s)
	}
	w.pass(2 * time.Hour)
	w.come("new", launchNew, tenant{life: day(90), excused: true}, 0)
	for _, s := range sick {
		w.mends(s)
	}
}

// come adds hosts like the given one, evenly over a time.
func (w *world) come(what string, n int, like tenant, over time.Duration) (all []*tenant) {
	for i := range n {
		like.name = fmt.Sprintf("%s%d.com", what, i)
		all = append(all, w.add(like))
		w.pass(over / time.Duration(n))
	}
	return all
}

// off lets time pass without a running instance.
func (w *world) off(length time.Duration) {
	works := w.breaksDown("server", "off", length)
	for _, i := range w.running() {
		w.quit(i, false)
	}
	w.pass(length)
	w.launch()
	works()
}
