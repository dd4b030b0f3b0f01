package forward

// CutOff returns the error of a drain that has cut off exchanges.
var CutOff = cutOff

// LimitSilence makes the system close a connection whose peer is silent.
var LimitSilence = limitSilence

// Start begins the background work, as the first exchange does.
func (f *Forwarder) Start() { f.background.start() }

// HoldBackground keeps the background work from beginning or ending until
// release.
func (f *Forwarder) HoldBackground() (release func()) {
	f.background.mu.Lock()
	return f.background.mu.Unlock
}
