package forward

import "time"

// sweepInterval is how often flights are looked at, streamGrace how long a
// response without a known end may go on after its server, route or upstream
// began to go.
const (
	sweepInterval = 50 * time.Millisecond
	streamGrace   = 10 * time.Second
)

// takeOff adds fl to the flights, and starts the sweeper if it rests.
func (f *Forwarder) takeOff(fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.next = f.flights; fl.next != nil {
		fl.next.prev = fl
	}
	f.flights = fl
	if f.sweeping {
		return
	}
	f.sweeping = true
	if f.sweeper == nil {
		f.sweeper = time.AfterFunc(sweepInterval, f.sweep)
	} else {
		f.sweeper.Reset(sweepInterval)
	}
}

// land removes fl.
func (f *Forwarder) land(fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.prev != nil {
		fl.prev.next = fl.next
	} else {
		f.flights = fl.next
	}
	if fl.next != nil {
		fl.next.prev = fl.prev
	}
}

// sweep looks at every flight, and runs again while there is one.
func (f *Forwarder) sweep() {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for fl := f.flights; fl != nil; fl = fl.next {
		fl.inspect(now)
	}
	if f.sweeping = f.flights != nil; f.sweeping {
		f.sweeper.Reset(max(sweepInterval, 100*time.Since(now)))
	}
}
