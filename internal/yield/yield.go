// Package yield lets work that takes seconds share the processors with work
// that takes milliseconds.
package yield

import (
	"runtime"
	"time"
)

const (
	slice = 500 * time.Microsecond // how long work goes on before it yields
	// how many steps are made from one look at the clock to the next
	stride = 32
)

// A Turn is long work of one goroutine, such as a loop over a million hosts.
// The zero value is ready to use.
//
// Left alone, the runtime interrupts a goroutine after 10 ms. And with two or
// three processors, one that begins to look for another goroutine while memory
// is marked marks first, for a quarter of the time since it last looked
// (runtime/mgc.go, pollFractionalWorkerExit): what came in meanwhile waits. A
// processor that looks often never marks long.
//
// Work that yields is not starved, whatever the number of others: when they
// take longer, it goes on for as long as they did, or until the runtime
// interrupts it.
type Turn struct {
	steps uint
	since time.Time     // it last had its turn
	away  time.Duration // how long others had theirs before that
}

// Step ends a step of at most some microseconds. Once they have taken half a
// millisecond it lets other goroutines run.
func (t *Turn) Step() {
	if t.steps++; t.steps%stride == 0 {
		t.Check()
	}
}

// Check is Step for steps that take longer.
func (t *Turn) Check() {
	switch now := time.Now(); {
	case t.since.IsZero():
		t.since = now
	case now.Sub(t.since) >= max(slice, t.away):
		runtime.Gosched()
		t.since = time.Now()
		t.away = t.since.Sub(now)
	}
}
