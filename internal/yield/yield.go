// Package yield lets work that takes seconds share the processors with work
// that takes milliseconds.
package yield

import (
	"runtime"
	"time"
)

const (
	slice = 500 * time.Microsecond // how long work runs before it yields
	// number of steps between two looks at the clock
	stride = 32
)

// A Turn is long work of one goroutine, such as a loop over a million hosts.
// The zero value is ready to use.
//
// Without Turn, the runtime interrupts a goroutine only after 10 ms. Besides,
// with two or three processors there is a problem while the garbage collector
// marks memory. A processor that looks for another goroutine first marks, for a
// quarter of the time since it last looked (runtime/mgc.go,
// pollFractionalWorkerExit). New work has to wait. A processor that looks often
// never marks for long.
//
// Work that yields is not starved, however many other goroutines there are. If
// they run longer, it then runs as long as they did, or until the runtime
// interrupts it.
type Turn struct {
	steps uint
	since time.Time     // start of the current turn
	away  time.Duration // duration of the others' turn before that
}

// Step ends a step, which should take at most a few microseconds. After steps
// of half a millisecond in all, it lets other goroutines run.
func (t *Turn) Step() {
	if t.steps++; t.steps%stride == 0 {
		t.Check()
	}
}

// Check is Step for longer steps.
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
